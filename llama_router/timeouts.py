"""Time-outs that count only the time in which this process runs.

A process may be held up for long: it is stopped (Ctrl-Z, SIGSTOP), its machine is paused, its
processor is given to others. The clock goes on meanwhile, but nobody could act: neither the
router nor, maybe, whom it waits for. Such time must not end a wait for somebody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

#: From so late on, in seconds, the end of a time-out says that the process was held up. No task
#: of the router keeps the others waiting for nearly as long.
LATE_S: Final = 0.5

#: Time is counted in pieces of so many seconds. However long one really takes, it counts as
#: that: so much is lost at most to a process that is held up.
PIECE_S: Final = 0.25


def was_held_up(scope: trio.CancelScope) -> bool:
    """Say whether the process was held up when the deadline of *scope* came.

    To be asked at once when *scope* was cancelled by its deadline. For waits that are worth
    no task of their own, and can be begun anew.
    """
    return trio.current_time() - scope.deadline > LATE_S


async def sleep_running(duration_s: float) -> None:
    """Wait until this process has run for *duration_s* seconds."""
    left_s = duration_s
    while left_s > 0:
        piece_s = min(left_s, PIECE_S)
        await trio.sleep(piece_s)
        left_s -= piece_s


async def move_on_after_running(wait: Callable[[], Awaitable[object]], timeout_s: float) -> bool:
    """Wait, but not for longer than *timeout_s* seconds in which this process ran.

    Args:
        wait: Cancelled when the time is over. What it raises comes out in a group.
        timeout_s: Perhaps 0: then *wait* gets as far as to its first checkpoint.

    Returns:
        Whether *wait* ended.
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
