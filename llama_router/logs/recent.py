"""The latest events of this process's log, in memory: for the admin API."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import attrs

#: Events that are kept.
KEPT: Final = 10_000

#: Largest size of all of them, by the lengths of their lines, in bytes.
KEPT_BYTES: Final = 8 * 2**20

#: Longest value of an event that is kept if its line is long, in characters.
_CUT: Final = 500

#: Length of a long line, in bytes.
_LONG_BYTES: Final = 4096


@attrs.frozen
class RecentEvent:
    """An event of the log.

    Attributes:
        number: Its number since the start of the process.
        at: Its time, in seconds since 1970.
        level: Its level.
        name: Its name.
        fields: Its fields.
        size_bytes: Length of its line.
    """

    number: int
    at: float
    level: str
    name: str
    fields: dict[str, Any]
    size_bytes: int


class RecentEvents:
    """The latest events. Written and read from any thread.

    Attributes:
        last: Number of the latest event.
    """

    def __init__(self) -> None:
        self.last = 0
        # As the arguments of `RecentEvent`, which few of them ever become: each request is here.
        self._events: deque[tuple[int, float, str, str, dict[str, Any], int]] = deque()
        self._kept_bytes = 0
        self._listeners: tuple[Callable[[], None], ...] = ()
        # Held for microseconds. Taken twice by one thread if a warning is logged meanwhile.
        self._lock = threading.RLock()

    def keep(self, level: str, event: str, fields: dict[str, Any], size_bytes: int) -> None:
        """Keep an event; its line has *size_bytes*. Never blocks, never raises."""
        if size_bytes > _LONG_BYTES:
            fields = {name: _cut(value) for name, value in fields.items()}
            size_bytes = _LONG_BYTES
        with self._lock:
            number = self.last + 1
            self._events.append((number, time.time(), level, event, fields, size_bytes))
            self.last = number
            self._kept_bytes += size_bytes
            while len(self._events) > KEPT or self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= self._events.popleft()[-1]
        for listener in self._listeners:
            listener()

    def after(self, number: int) -> list[RecentEvent]:
        """Return the kept events after *number*, oldest first."""
        with self._lock:
            count = min(len(self._events), max(0, self.last - number))
            return [RecentEvent(*self._events[at]) for at in range(-count, 0)]

    def listen(self, listener: Callable[[], None]) -> None:
        """Call *listener* after each event, on its thread, until `forget`. It must not block."""
        self._listeners = (*self._listeners, listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Do not call *listener* any more."""
        self._listeners = tuple(each for each in self._listeners if each is not listener)


def _cut(value: object) -> object:
    """Return a value of an event, shortened."""
    if isinstance(value, int | float) or value is None:
        return value
    text = str(value)
    return text if len(text) <= _CUT else f"{text[:_CUT]}…"
