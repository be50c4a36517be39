"""The rate of a transfer over a sliding window. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

#: Length of the window in seconds.
WINDOW_S: Final = 10.0

#: Shortest time between two samples, in seconds; closer ones are merged.
_STEP_S: Final = 0.2


class Rate:
    """The rate over the last `WINDOW_S` seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now_s: float, done_bytes: int) -> None:
        """Add a sample. Fewer bytes than before start a new window."""
        if self._samples and done_bytes < self._samples[-1][1]:
            self._samples.clear()
        if len(self._samples) > 1 and now_s - self._samples[-2][0] < _STEP_S:
            self._samples.pop()
        self._samples.append((now_s, done_bytes))
        while len(self._samples) > 2 and now_s - self._samples[1][0] >= WINDOW_S:
            self._samples.popleft()

    def bytes_per_s(self, now_s: float) -> float | None:
        """Return the rate at *now_s*; None without two samples. It falls while no bytes arrive."""
        if len(self._samples) < 2:
            return None
        since_s, since_bytes = self._samples[0]
        return (self._samples[-1][1] - since_bytes) / max(now_s - since_s, _STEP_S)
