"""The time limits of a start: they count while nothing moves, and in all.

A model of 60 GB on a slow disk takes its time, and that is no failure. So the usual limit counts
only while the backend prints nothing, reports no progress, and its processes neither read nor write
nor fill memory. Reading the last three costs a look at /proc, on a thread, every half second.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from typing import Final

import attrs
import trio

from ..process.activity import Activity, has_moved, read_activity
from ..threads import ThreadRefusedError, in_thread
from ..timeouts import sleep_running

#: Seconds between two looks.
LOOK_S: Final = 0.5

#: The least number of looks within a limit.
_LOOKS: Final = 4

#: Seconds for one look: reading about a process in uninterruptible sleep may hang. Then only
#: output counts.
LOOK_TIMEOUT_S: Final = 2.0

#: Looks have a limiter of their own: those that hang must not use up the threads of others.
_LIMITER: Final = trio.CapacityLimiter(64)

Look = Callable[[int], Awaitable[Mapping[int, Activity] | None]]
"""Returns the activity of a process and its descendants, by pid; None if it cannot be read now."""


async def look_on_thread(leader: int) -> Mapping[int, Activity] | None:
    """Return the activity of *leader* and its descendants; None if a thread is refused."""
    try:
        return await in_thread(read_activity, leader, abandon_on_cancel=True, limiter=_LIMITER)
    except ThreadRefusedError:
        return None


class StartOutcome(Enum):
    """How the wait for a starting backend ended."""

    READY = auto()
    STALLED = auto()  # nothing moved for too long
    LATE = auto()  # it took too long in all


@attrs.define(eq=False, kw_only=True)
class LoadWatch:
    """Takes note of what moves while a backend starts.

    Attributes:
        health_endpoint: The path of the probes: a line that names it is the backend's record of
            a probe, and no movement.
    """

    health_endpoint: str
    _last_line: str = ""
    _moved: bool = False

    def note_line(self, text: str) -> None:
        """Take note of a line of output, also of the child protocol; a repeated one is nothing."""
        if text != self._last_line and self.health_endpoint not in text:
            self._moved = True
        self._last_line = text

    def take_movement(self) -> bool:
        """Return whether there was output since the last call."""
        moved, self._moved = self._moved, False
        return moved

    async def wait(
        self,
        wait: Callable[[], Awaitable[object]],
        *,
        pid: int,
        stall_s: float,
        limit_s: float | None,
        look: Look = look_on_thread,
    ) -> StartOutcome:
        """Wait, within both limits; only time in which this process runs counts.

        Args:
            wait: Cancelled at a limit. An exception of it is raised in a group.
            pid: The process of the backend.
            stall_s: Seconds for which nothing may move.
            limit_s: Seconds for all of it; None for no limit.
            look: Reads the activity of its processes.
        """
        outcome = StartOutcome.READY
        looks = _Looks(pid, look)

        async def give_up() -> None:
            nonlocal outcome
            idle_s = waited_s = 0.0
            step_s = min(LOOK_S, stall_s / _LOOKS)
            while outcome is StartOutcome.READY:
                piece_s = min(step_s, stall_s - idle_s)
                if limit_s is not None:
                    piece_s = min(piece_s, limit_s - waited_s)
                await sleep_running(piece_s)
                waited_s += piece_s
                moved = await looks.have_moved()
                idle_s = 0.0 if self.take_movement() or moved else idle_s + piece_s
                if limit_s is not None and waited_s >= limit_s:
                    outcome = StartOutcome.LATE
                elif idle_s >= stall_s:
                    outcome = StartOutcome.STALLED
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            await wait()
            outcome = StartOutcome.READY
            nursery.cancel_scope.cancel()
        return outcome


class _Looks:
    """Compares the activity of a backend with that of the look before."""

    def __init__(self, pid: int, look: Look) -> None:
        self._pid = pid
        self._look: Look | None = look
        self._seen: Mapping[int, Activity] | None = None

    async def have_moved(self) -> bool:
        """Look, and return whether something has moved since the look before; False at first."""
        if self._look is None:
            return False
        found: Mapping[int, Activity] | None = None
        with trio.move_on_after(LOOK_TIMEOUT_S) as scope:
            found = await self._look(self._pid)
        if scope.cancelled_caught:
            self._look = None
        if found is None:
            return False
        seen, self._seen = self._seen, found
        return seen is not None and has_moved(seen, found)
