"""What systemd is told and when, with a virtual clock."""

from functools import partial
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.event_feed import EventFeed, RouterDraining
from llama_router.systemd.manager import EXTEND_EVERY_S, ServiceManager
from llama_router.systemd.notify import Notifier, watchdog_s


class FakeNotifier:
    """Remembers messages with their time; fails while told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, tuple[str, ...]]] = []
        self.fails = False

    async def send(self, *fields: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise ConnectionRefusedError(111, "Connection refused")
        self.sent.append((trio.current_time(), fields))

    def times(self, field: str) -> list[float]:
        return [time for time, fields in self.sent if fields[0] == field]

    def fields(self) -> list[str]:
        """Return the first field of each message that is neither a sign of life nor a request."""
        skipped = ("WATCHDOG", "EXTEND")
        return [fields[0] for _, fields in self.sent if not fields[0].startswith(skipped)]


class Stage:
    """A manager whose surroundings the test plays."""

    def __init__(self, watchdog: float | None = None) -> None:
        self.notifier = FakeNotifier()
        self.manager = ServiceManager(cast("Notifier", self.notifier), watchdog)
        self.feed = EventFeed()
        self.stop = trio.Event()
        self.status = "idle"

    async def start(self, nursery: trio.Nursery) -> None:
        await nursery.start(
            partial(self.manager.run, self.feed, lambda: self.status, self.stop, lambda: 42.0)
        )

    def happens(self, status: str) -> None:
        self.status = status
        self.feed.publish(RouterDraining())


async def test_more_time_is_asked_for_until_ready(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """However long the startup model takes, systemd does not lose patience."""
    stage = Stage()
    stage.manager.starting("loading a")
    await stage.start(nursery)
    await trio.sleep(3 * EXTEND_EVERY_S + 1)
    stage.manager.ready()
    await trio.sleep(100)
    asked = stage.notifier.times("EXTEND_TIMEOUT_USEC=30000000")
    assert asked == [0, EXTEND_EVERY_S, 2 * EXTEND_EVERY_S, 3 * EXTEND_EVERY_S]
    assert stage.notifier.fields() == ["STATUS=loading a", "READY=1", "STATUS=idle"]


async def test_a_sign_of_life_comes_twice_as_often_as_needed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Half the interval, as systemd recommends; none if it does not watch."""
    watched, unwatched = Stage(watchdog=30), Stage()
    await watched.start(nursery)
    await unwatched.start(nursery)
    await trio.sleep(50)
    assert watched.notifier.times("WATCHDOG=1") == [0, 15, 30, 45]
    assert unwatched.notifier.times("WATCHDOG=1") == []


async def test_the_status_is_sent_when_it_changed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """News that change nothing, and several at once, do not make it chatter."""
    stage = Stage()
    await stage.start(nursery)
    stage.manager.ready()
    await trio.sleep(1)
    stage.happens("running: a")
    stage.happens("running: a, b")
    await trio.sleep(1)
    stage.happens("running: a, b")
    await trio.sleep(1)
    assert stage.notifier.fields() == ["READY=1", "STATUS=idle", "STATUS=running: a, b"]


async def test_reloads_inside_one_another_are_one(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A reload that a signal asked for applies the file: RELOADING and READY come once."""
    stage = Stage()
    await stage.start(nursery)
    stage.manager.ready()
    await wait_all_tasks_blocked()
    with stage.manager.reloading(), stage.manager.reloading():
        pass
    await wait_all_tasks_blocked()
    assert stage.notifier.fields() == ["READY=1", "STATUS=idle", "RELOADING=1", "READY=1"]


async def test_a_reload_cut_short_by_the_end_does_not_say_ready(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """After STOPPING nothing pretends that the router takes requests."""
    stage = Stage()
    await stage.start(nursery)
    stage.manager.ready()
    await wait_all_tasks_blocked()
    with stage.manager.reloading():
        await wait_all_tasks_blocked()
        stage.stop.set()
        await wait_all_tasks_blocked()
    stage.happens("running: a")
    await wait_all_tasks_blocked()
    assert stage.notifier.fields()[-2:] == ["RELOADING=1", "STOPPING=1"]
    assert "EXTEND_TIMEOUT_USEC=52000000" in stage.notifier.sent[-1][1]


async def test_what_cannot_be_sent_does_not_stop_what_can(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """systemd may be restarted itself."""
    stage = Stage()
    await stage.start(nursery)
    stage.notifier.fails = True
    stage.manager.ready()
    await wait_all_tasks_blocked()
    stage.notifier.fails = False
    stage.happens("running: a")
    await wait_all_tasks_blocked()
    assert stage.notifier.fields() == ["STATUS=running: a"]


async def test_without_systemd_nothing_runs(autojump_clock: MockClock) -> None:
    """A router that was started by hand has no task for it, and remembers no messages."""
    manager = ServiceManager.from_environ({})
    manager.ready()
    with manager.reloading():
        pass
    with trio.fail_after(1):
        await manager.run(EventFeed(), lambda: "", trio.Event(), lambda: 0.0)
    assert not manager._messages


def test_the_environment_says_where_and_how_often() -> None:
    """Abstract sockets have their "@"; a watchdog for another process is none."""
    assert Notifier.from_environ({"NOTIFY_SOCKET": "@x"}) == Notifier("\0x")
    assert Notifier.from_environ({"NOTIFY_SOCKET": "/run/x"}) == Notifier("/run/x")
    assert Notifier.from_environ({"NOTIFY_SOCKET": ""}) is None
    assert watchdog_s({"WATCHDOG_USEC": "1500000"}, 7) == 1.5
    assert watchdog_s({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "7"}, 7) == 1.5
    assert watchdog_s({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "8"}, 7) is None
    assert watchdog_s({}, 7) is None


@pytest.mark.parametrize(
    "environ",
    [{"NOTIFY_SOCKET": "vsock:2:1"}, {"NOTIFY_SOCKET": "@"}, {"WATCHDOG_USEC": "soon"}],
)
def test_what_makes_no_sense_is_ignored(environ: dict[str, str]) -> None:
    """Variables of another protocol must not keep the router from starting."""
    manager = ServiceManager.from_environ(environ)
    assert manager.notifier is None
    assert manager.watchdog_s is None
