"""The activity log: live requests, ended ones, and those who follow it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.core.apis.usage import Usage
from llama_router.core.config.names import ModelId
from llama_router.dispatch.activity_log import KEPT, ActivityLog, tokens_per_s
from llama_router.dispatch.request_log import Outcome, RequestLog
from llama_router.errors.requests import RequestError
from tests.shell.test_dispatcher import FakeBackends, config, start


def record(model: str = "a", *, began_s: float = 0.0) -> RequestLog:
    """Return the record of a request from 192.0.2.1."""
    made = RequestLog("POST", "/v1/chat/completions", began_s=began_s, peer="192.0.2.1")
    made.model = model
    return made


def test_the_last_ended_requests_are_kept() -> None:
    """More than `KEPT` push the oldest out; all of them are counted."""
    log = ActivityLog()
    for _ in range(KEPT + 2):
        one = record()
        log.begin(one)
        one.write(now_s=1.0)
    assert log.ended_count == KEPT + 2
    assert len(log.ended) == KEPT
    assert not log.live
    assert log.find(1) is None
    assert [one.number for one in log.latest(2)] == [2 * KEPT + 3, 2 * KEPT + 1]


def test_an_ended_request_holds_nothing_of_others() -> None:
    """Its error, with the frames that it came from, is let go of; its code and status stay."""
    log, one = ActivityLog(), record()
    log.begin(one)
    one.key = "alice"
    one.refuse(RequestError("no"), "req_1")
    one.write(now_s=2.0)
    assert one.error is None
    assert one.lease is None
    row = log.row(one, now_s=9.0)
    assert (row.state, row.outcome, row.code, row.status) == (
        "done",
        "refused",
        "invalid_request",
        400,
    )
    assert (row.client, row.key, row.request_id, row.duration_s) == ("alice", "alice", "req_1", 2.0)


def test_a_long_path_is_cut_at_the_end_of_its_request() -> None:
    """A thousand paths of 64 KiB would be 64 MiB."""
    log, one = ActivityLog(), RequestLog("GET", "/" + "x" * 65000, began_s=0.0)
    log.begin(one)
    one.write(now_s=1.0)
    assert len(one.path) == 256


@pytest.mark.parametrize(
    ("streamed", "tokens", "rate"),
    [(True, 21, 10.0), (False, 21, 7.0), (True, 1, None), (True, None, None)],
)
def test_the_rate_of_tokens(*, streamed: bool, tokens: int | None, rate: float | None) -> None:
    """That of a stream counts from its first token, any other one from the grant."""
    one = record()
    one.streamed, one.usage = streamed, Usage(5, tokens)
    one.granted_s, one.first_body_s, one.ended_s = 1.0, 2.0, 4.0
    assert tokens_per_s(one) == rate


async def test_changes_are_followed_by_number(autojump_clock: MockClock) -> None:
    """A follower that waits is woken by an arrival, and gets what changed since."""
    log = ActivityLog()
    first, second = record(), record()
    seen: list[list[int]] = []

    async def follow() -> None:
        number = 0
        while len(seen) < 2:
            await log.wait_after(number)
            changed = log.changed_after(number)
            number = log.last
            seen.append([one.number for one in changed])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await wait_all_tasks_blocked()
        log.begin(first)
        await wait_all_tasks_blocked()
        log.begin(second)
        first.write(now_s=1.0)
    assert seen == [[1], [2, 1]]


async def test_the_states_of_a_request(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """It queues while another model leaves, loads, runs and is done; each wait is measured."""
    d = await start(nursery, config(a={}, b={}), FakeBackends(load_s=90, stop_s=5))
    with d.lease(ModelId("a")) as lease:
        await lease.granted()
    one = record("b", began_s=trio.current_time())
    d.activity.begin(one)

    def state() -> tuple[str, float | None, float | None]:
        row = d.activity.row(one, now_s=trio.current_time())
        return row.state, row.queue_s, row.load_s

    assert state() == ("queued", None, None)
    with d.lease(ModelId("b")) as lease:
        one.lease = lease
        await trio.sleep(4)
        assert state() == ("queued", 4, 0)
        assert d.activity.row(one, now_s=0.0).cancel_id == lease.request
        await trio.sleep(11)
        assert state() == ("loading", 5, 10)
        await lease.granted()
        assert state() == ("running", 5, 90)
        one.outcome = Outcome.OK
    one.write(now_s=trio.current_time())
    assert state() == ("done", 5, 90)
