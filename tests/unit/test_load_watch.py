"""Unit tests of the time limits of a start: what counts as movement, and what does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from math import inf

import pytest
import trio
from trio.testing import MockClock

from llama_router.backends.load_watch import LOOK_TIMEOUT_S, LoadWatch, Look, StartOutcome
from llama_router.process.activity import (
    MIN_CALLED_BYTES,
    MIN_FILLED_BYTES,
    Activity,
    has_moved,
)

STILL = Activity(stored_bytes=5, called_bytes=5, resident_bytes=5)


def watch_for(health_endpoint: str = "/health") -> LoadWatch:
    return LoadWatch(health_endpoint=health_endpoint)


def looks(stored_bytes: Callable[[], int]) -> Look:
    async def look(pid: int) -> Mapping[int, Activity]:
        await trio.lowlevel.checkpoint()
        return {pid: Activity(stored_bytes(), 0, 0)}

    return look


IDLE = looks(lambda: 0)


async def outcome_of(watch: LoadWatch, wait, *, stall_s=10.0, limit_s=None, look=IDLE):
    """Return the outcome, and how long it took."""
    begun_s = trio.current_time()
    outcome = await watch.wait(wait, pid=1, stall_s=stall_s, limit_s=limit_s, look=look)
    return outcome, pytest.approx(trio.current_time() - begun_s, abs=0.01)


async def test_a_start_that_ends_in_time(autojump_clock: MockClock) -> None:
    """The wait is over when the backend is ready."""
    assert await outcome_of(watch_for(), partial(trio.sleep, 9)) == (StartOutcome.READY, 9)


async def test_nothing_moves(autojump_clock: MockClock) -> None:
    """The limit counts from the spawn if nothing ever moves."""
    assert await outcome_of(watch_for(), trio.sleep_forever) == (StartOutcome.STALLED, 10)


async def test_a_slow_disk(autojump_clock: MockClock) -> None:
    """A backend whose storage delivers bytes may take as long as it needs."""
    delivered = count()
    outcome = await outcome_of(
        watch_for(), partial(trio.sleep, 3600), look=looks(lambda: next(delivered))
    )
    assert outcome == (StartOutcome.READY, 3600)


async def test_a_disk_that_stops(autojump_clock: MockClock) -> None:
    """The limit counts from the last movement."""
    delivered = count()
    outcome = await outcome_of(
        watch_for(), trio.sleep_forever, look=looks(lambda: min(next(delivered), 40))
    )
    assert outcome == (StartOutcome.STALLED, 20.5 + 10)


async def test_output_is_movement(autojump_clock: MockClock) -> None:
    """A backend that says what it does may take as long as it needs."""
    watch = watch_for()

    async def compile_kernels() -> None:
        for number in range(20):
            await trio.sleep(9)
            watch.note_line(f"compiled {number}")

    assert await outcome_of(watch, compile_kernels) == (StartOutcome.READY, 180)


@pytest.mark.parametrize("line", ['"GET /health HTTP/1.1" 503', "still waiting for a GPU"])
async def test_output_that_is_no_movement(autojump_clock: MockClock, line: str) -> None:
    """The record of a probe is none, and neither is the same line again and again."""
    watch = watch_for()
    watch.note_line(line)
    watch.take_movement()

    async def hang() -> None:
        while True:
            await trio.sleep(1)
            watch.note_line(line)

    assert await outcome_of(watch, hang) == (StartOutcome.STALLED, 10)


async def test_the_absolute_limit(autojump_clock: MockClock) -> None:
    """It holds also while everything moves."""
    delivered = count()
    outcome = await outcome_of(
        watch_for(), trio.sleep_forever, limit_s=25.2, look=looks(lambda: next(delivered))
    )
    assert outcome == (StartOutcome.LATE, 25.2)


async def test_a_look_that_hangs(autojump_clock: MockClock) -> None:
    """It is given up, once; then only output counts."""
    begun = 0

    async def look(_pid: int) -> Mapping[int, Activity]:
        nonlocal begun
        begun += 1
        await trio.sleep(inf)
        return {}

    outcome = await outcome_of(watch_for(), trio.sleep_forever, look=look)
    assert outcome == (StartOutcome.STALLED, 10 + LOOK_TIMEOUT_S)
    assert begun == 1


async def test_an_error_of_the_wait(autojump_clock: MockClock) -> None:
    """It passes through."""

    async def fail() -> None:
        await trio.sleep(1)
        raise ValueError

    with pytest.RaisesGroup(ValueError):
        await outcome_of(watch_for(), fail)


@pytest.mark.parametrize(
    ("later", "moved"),
    [
        (STILL, False),
        (Activity(6, 5, 5), True),
        (Activity(5, 5 + MIN_CALLED_BYTES - 1, 5), False),
        (Activity(5, 5 + MIN_CALLED_BYTES, 5), True),
        (Activity(5, 5, 5 + MIN_FILLED_BYTES - 1), False),
        (Activity(5, 5, 5 + MIN_FILLED_BYTES), True),
        (Activity(0, 0, 0), False),
    ],
)
def test_what_counts_as_movement(later: Activity, moved: bool) -> None:  # noqa: FBT001 -- a column of the table
    """Any byte from storage; what a server does for probes of its health is too little."""
    assert has_moved({1: STILL}, {1: later}) is moved


def test_a_new_process_is_no_movement() -> None:
    """A script that hangs may start a process every second; what one has read counts later."""
    assert not has_moved({1: STILL}, {1: STILL, 2: Activity(9, 10**9, 10**9)})
