"""The memory that the bodies of all requests may take together. Pure.

A body takes memory as it arrives, in steps, never for what its head announces. Where the
budget is used up, bodies wait for room, the oldest first. The oldest one that waits may go
beyond the budget if no other does: otherwise bodies that are all half here would wait for each
other. So at most the budget and one whole body are held.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Final

#: How long a body waits for room, in seconds.
ROOM_TIMEOUT_S: Final = 30.0

#: The budget until a configuration says another one, in bytes.
DEFAULT_BYTES: Final = 512 * 1024 * 1024


class BodyBudget:
    """What is held of it, and which bodies wait for room.

    Attributes:
        limit_bytes: How much all bodies may take together.
        held_bytes: How much they take now.
    """

    def __init__(self, limit_bytes: int = DEFAULT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._numbers = count()
        self._waiting: list[tuple[int, BodyShare]] = []  # a heap; may have some that do not wait
        self._beyond: BodyShare | None = None  # the one that went beyond the limit

    def share(self, wake: Callable[[], None]) -> BodyShare:
        """Return the share of one more body, which holds nothing yet.

        Args:
            wake: Called when a share that waits should try again; may be without a reason.
        """
        return BodyShare(self, next(self._numbers), wake)

    def take(self, share: BodyShare, size_bytes: int) -> bool:
        """Let *share* hold *size_bytes* more, or wait; return whether it got them."""
        if not self._may_take(share):
            if not share.is_waiting:
                share.is_waiting = True
                heapq.heappush(self._waiting, (share.number, share))
            return False
        self.held_bytes += size_bytes
        share.held_bytes += size_bytes
        if self.held_bytes > self.limit_bytes:
            self._beyond = share
        if share.is_waiting:
            share.is_waiting = False
            self._wake_next()
        return True

    def give_back(self, share: BodyShare) -> None:
        """Take everything back from *share*, which waits no more."""
        self.held_bytes -= share.held_bytes
        share.held_bytes = 0
        share.is_waiting = False
        if share is self._beyond or self.held_bytes <= self.limit_bytes:
            self._beyond = None
        self._wake_next()

    def _may_take(self, share: BodyShare) -> bool:
        """Say whether *share* may grow: within the limit, or as the one that goes beyond it."""
        if self._beyond is not None:
            return self._beyond is share
        oldest = self._oldest()
        return oldest is None or share.number <= oldest.number

    def _oldest(self) -> BodyShare | None:
        """Return the oldest share that waits; None without one."""
        waiting = self._waiting
        while waiting and not waiting[0][1].is_waiting:
            heapq.heappop(waiting)
        return waiting[0][1] if waiting else None

    def _wake_next(self) -> None:
        oldest = self._oldest()
        if oldest is not None:
            oldest.wake()


class BodyShare:
    """What one body holds of a budget.

    Attributes:
        number: Its place in the order of age; lower is older.
        wake: See `BodyBudget.share`.
        held_bytes: How much it holds.
        is_waiting: Whether it was refused, and waits for room.
    """

    __slots__ = ("_budget", "held_bytes", "is_waiting", "number", "wake")

    def __init__(self, budget: BodyBudget, number: int, wake: Callable[[], None]) -> None:
        self._budget = budget
        self.number = number
        self.wake = wake
        self.held_bytes = 0
        self.is_waiting = False

    def take(self, size_bytes: int) -> bool:
        """Hold *size_bytes* more, or wait; return whether they were granted."""
        return self._budget.take(self, size_bytes)

    def give_back(self) -> None:
        """Hold nothing, and wait no more; safe to call twice."""
        self._budget.give_back(self)
