"""How fast something grows, and how long the rest will take. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

#: What is older than this many seconds says nothing about now.
WINDOW_S: Final = 10.0

#: Two looks nearer than this, in seconds, are one.
_STEP_S: Final = 0.2


class Rate:
    """The rate over the last `WINDOW_S` seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, done_bytes: int) -> None:
        """Take in that *done_bytes* are done at *now_s*. Fewer than before begin anew."""
        if self._seen and done_bytes < self._seen[-1][1]:
            self._seen.clear()
        if len(self._seen) > 1 and now_s - self._seen[-2][0] < _STEP_S:
            self._seen.pop()
        self._seen.append((now_s, done_bytes))
        while len(self._seen) > 2 and now_s - self._seen[1][0] >= WINDOW_S:
            self._seen.popleft()

    def bytes_per_s(self, now_s: float) -> float | None:
        """Return the rate at *now_s*; None while it cannot be said. Silence lowers it."""
        if len(self._seen) < 2:
            return None
        since_s, since_bytes = self._seen[0]
        return (self._seen[-1][1] - since_bytes) / max(now_s - since_s, _STEP_S)
