"""The end of a router is bounded, and complete, however it comes about."""

import threading
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.core.config.parse import parse_config
from llama_router.process import orphans, procfs
from llama_router.process.background_writer import BackgroundWriter
from llama_router.process.lifeline import Lifeline
from llama_router.process.process import REAP_TIMEOUT_S
from llama_router.supervisor.shutdown import bound_backend_stops
from tests.limits import LIMIT_S

CONFIG = parse_config({"models": {"a": {"path": "a.gguf", "spawn": {"stop_timeout_s": 3.0}}}})


async def test_backends_get_no_grace_when_their_time_is_up(autojump_clock: MockClock) -> None:
    """That is the longest grace, and the time that a kill may take."""
    force_stop = trio.Event()
    await bound_backend_stops(CONFIG, trio.Event(), force_stop, trio.CancelScope(shield=True))
    assert force_stop.is_set()
    assert trio.current_time() == 3.0 + REAP_TIMEOUT_S


async def test_a_router_that_is_cancelled_has_a_bounded_end(autojump_clock: MockClock) -> None:
    """Its backends get their time, and no more: they wait for nothing else."""
    force_stop = trio.Event()
    with trio.CancelScope() as router:
        router.cancel()
        await bound_backend_stops(CONFIG, trio.Event(), force_stop, trio.CancelScope(shield=True))
    assert force_stop.is_set()
    assert trio.current_time() == 3.0 + REAP_TIMEOUT_S


async def test_what_bounds_the_end_does_not_prolong_it(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """When the backends are gone, nobody waits for their time to be up."""
    until_ended = trio.CancelScope(shield=True)
    nursery.start_soon(bound_backend_stops, CONFIG, trio.Event(), trio.Event(), until_ended)
    await trio.sleep(1)
    until_ended.cancel()
    nursery.cancel_scope.cancel()
    await trio.lowlevel.cancel_shielded_checkpoint()
    assert trio.current_time() == 1


async def test_what_the_last_backends_leave_to_be_written_is_written() -> None:
    """The router ends right after them: their control groups are removed all the same."""
    writer = BackgroundWriter(Path("record"))
    written: list[int] = []
    async with trio.open_nursery() as services:
        await services.start(writer.run)
        for number in range(3):
            writer.enqueue(partial(written.append, number))
        services.cancel_scope.cancel()
    assert written == [0, 1, 2]


async def test_what_is_being_written_at_the_end_is_waited_for(nursery: trio.Nursery) -> None:
    """The thread that writes outlives the wait that was cancelled, and nothing is written twice."""
    writer = BackgroundWriter(Path("record"))
    begun, may_go_on, written = threading.Event(), threading.Event(), list[int]()

    def write() -> None:
        begun.set()
        assert may_go_on.wait(10)
        written.append(1)

    async def let_go_on() -> None:
        await wait_all_tasks_blocked()
        may_go_on.set()

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as services:
            await services.start(writer.run)
            writer.enqueue(write)
            await trio.to_thread.run_sync(begun.wait)
            nursery.start_soon(let_go_on)
            services.cancel_scope.cancel()
    assert written == [1]


async def test_a_scan_that_hangs_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """Reading about a process may hang; then the remaining orphans are given up."""
    hang = threading.Event()
    monkeypatch.setattr(procfs, "adopt_orphans", lambda: True)
    monkeypatch.setattr(orphans._Orphans, "kill_all", lambda _: hang.wait(LIMIT_S))
    try:
        with trio.move_on_after(1):
            await orphans.reap_orphans(Lifeline("i"), interval_s=1000)
    finally:
        hang.set()
    assert trio.current_time() == 1 + 2 * orphans.END_TIMEOUT_S
