"""A budget of memory for the bodies of all requests together. Pure.

A body claims memory in steps while it arrives, never for the length that its head announces.
When the budget is used up, bodies wait for room, the oldest first. The oldest waiting one may
exceed the budget if no other does; otherwise bodies that have arrived in part would wait for
each other. So at most the budget and one whole body are in memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Final

#: Longest wait of a body for room, in seconds.
ROOM_TIMEOUT_S: Final = 30.0

#: The budget before a configuration sets another one, in bytes.
DEFAULT_BYTES: Final = 512 * 1024 * 1024


class BodyBudget:
    """The budget, and the bodies that wait for room.

    Attributes:
        limit_bytes: Memory that all bodies may take together.
        held_bytes: Memory that they take now.
    """

    def __init__(self, limit_bytes: int = DEFAULT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._numbers = count()
        self._waiting: list[tuple[int, BodyShare]] = []  # a heap, also with some that wait no more
        self._beyond: BodyShare | None = None  # the one that exceeds the limit

    def share(self, wake: Callable[[], None]) -> BodyShare:
        """Return the share of a new body, which holds nothing yet.

        Args:
            wake: Called when a waiting share should try again, perhaps in vain.
        """
        return BodyShare(self, next(self._numbers), wake)

    def take(self, share: BodyShare, size_bytes: int) -> bool:
        """Add *size_bytes* to *share*, or let it wait; return whether they were granted."""
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
        """Release everything that *share* holds; it waits no more."""
        self.held_bytes -= share.held_bytes
        share.held_bytes = 0
        share.is_waiting = False
        if share is self._beyond or self.held_bytes <= self.limit_bytes:
            self._beyond = None
        self._wake_next()

    def _may_take(self, share: BodyShare) -> bool:
        """Return whether *share* may grow: within the limit, or as the one that exceeds it."""
        if self._beyond is not None:
            return self._beyond is share
        oldest = self._oldest()
        return oldest is None or share.number <= oldest.number

    def _oldest(self) -> BodyShare | None:
        """Return the oldest waiting share; None if none waits."""
        waiting = self._waiting
        while waiting and not waiting[0][1].is_waiting:
            heapq.heappop(waiting)
        return waiting[0][1] if waiting else None

    def _wake_next(self) -> None:
        oldest = self._oldest()
        if oldest is not None:
            oldest.wake()


class BodyShare:
    """The share of one body in a budget.

    Attributes:
        number: Its rank by age; lower is older.
        wake: See `BodyBudget.share`.
        held_bytes: Memory that it holds.
        is_waiting: It was refused, and waits for room.
    """

    __slots__ = ("_budget", "held_bytes", "is_waiting", "number", "wake")

    def __init__(self, budget: BodyBudget, number: int, wake: Callable[[], None]) -> None:
        self._budget = budget
        self.number = number
        self.wake = wake
        self.held_bytes = 0
        self.is_waiting = False

    def take(self, size_bytes: int) -> bool:
        """Claim *size_bytes* more, or wait; return whether they were granted."""
        return self._budget.take(self, size_bytes)

    def give_back(self) -> None:
        """Release everything, and wait no more; safe to call twice."""
        self._budget.give_back(self)
