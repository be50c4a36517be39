"""Waits: for the first of several, and with timeouts that count only the time of this process.

A process may be held up: it is stopped (Ctrl-Z, SIGSTOP), its machine is suspended, or others
use the processor. The clock continues meanwhile, but neither the router nor, possibly, the process
that it waits for can act. Such time must not expire a timeout.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

#: A timeout that expires this late, in seconds, shows that the process was held up. No task of
#: the router blocks the event loop for nearly as long.
LATE_S: Final = 0.5

#: Time is counted in pieces of this many seconds. Each counts as this, however long it really
#: takes, so a process that is held up loses at most this much.
PIECE_S: Final = 0.25


def was_held_up(scope: trio.CancelScope) -> bool:
    """Return whether the process was held up at the deadline of *scope*.

    Call it at once when the deadline of *scope* has expired. For waits that can be repeated, and
    do not justify a task of their own.
    """
    return trio.current_time() - scope.deadline > LATE_S


async def first_of(*waits: Callable[[], Awaitable[object]]) -> None:
    """Return when the first of *waits* has ended; cancel the others."""
    async with trio.open_nursery() as nursery:

        async def end_after(wait: Callable[[], Awaitable[object]]) -> None:
            await wait()
            nursery.cancel_scope.cancel()

        for wait in waits:
            nursery.start_soon(end_after, wait)


async def sleep_running(duration_s: float) -> None:
    """Wait until this process has run for *duration_s* seconds."""
    left_s = duration_s
    while left_s > 0:
        piece_s = min(left_s, PIECE_S)
        await trio.sleep(piece_s)
        left_s -= piece_s


async def move_on_after_running(wait: Callable[[], Awaitable[object]], timeout_s: float) -> bool:
    """Wait for at most *timeout_s* seconds in which this process runs.

    Args:
        wait: Cancelled at the timeout. An exception of it is raised in a group.
        timeout_s: With 0, *wait* runs until its first checkpoint.

    Returns:
        False if the timeout expired.
    """
    ended = False

    async def give_up() -> None:
        await sleep_running(timeout_s)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await wait()
        ended = True
        nursery.cancel_scope.cancel()
    return ended
