"""What happens, kept for a while, for those who follow it from wherever they left off."""

from __future__ import annotations

import secrets
from collections import deque
from typing import Any, Final

import attrs
import trio

#: News that are kept; who is further behind than that gets a snapshot instead.
KEPT: Final = 1000


@attrs.frozen
class FeedEvent:
    """One thing that happened.

    Attributes:
        number: Counts from 1.
        kind: What it is about.
        data: What happened, ready for JSON.
    """

    number: int
    kind: str
    data: dict[str, Any]


class EventFeed:
    """A board that everybody may read, at any pace; nobody can hold it up.

    Attributes:
        edition: Tells this board's numbers from those of another life of the router.
        last: The number of the newest item; 0 before the first.
    """

    def __init__(self) -> None:
        self.edition = secrets.token_hex(4)
        self.last = 0
        self._items: deque[FeedEvent] = deque(maxlen=KEPT)
        self._more = trio.Event()

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        """Put something on the board; never blocks."""
        self.last += 1
        self._items.append(FeedEvent(self.last, kind, data))
        if self._more.statistics().tasks_waiting:
            self._more.set()
            self._more = trio.Event()

    def after(self, number: int) -> list[FeedEvent] | None:
        """Return what came after item *number*, or None if that is not known any more."""
        if not self.last - len(self._items) <= number <= self.last:
            return None
        missed = self.last - number
        return list(self._items)[-missed:] if missed else []

    async def wait_after(self, number: int) -> None:
        """Wait until there is something newer than item *number*."""
        while self.last <= number:
            await self._more.wait()
