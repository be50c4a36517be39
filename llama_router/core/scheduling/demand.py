"""Demand for a model: how often it was granted lately, and how long it usually pauses. Pure."""

from __future__ import annotations

import math
from typing import Final

#: Time in which the count of grants halves, in seconds.
HALF_LIFE_S: Final = 600.0

#: Weight of the newest pause in the usual one.
_NEWEST: Final = 0.25


class Demand:
    """The grants of one model, counted with decay, and the pauses between its requests.

    A pause is the time from the end of the last request in flight to the next arrival.

    Attributes:
        pause_s: The usual pause, in seconds; infinite before the first one.
    """

    __slots__ = ("_count", "_counted_s", "_ended_s", "pause_s")

    def __init__(self) -> None:
        self._count = 0.0
        self._counted_s = 0.0
        self._ended_s = math.inf  # no request has ended since the last arrival
        self.pause_s = math.inf

    def arrived(self, now_s: float) -> None:
        """Record the arrival of a request while none was in flight or queued."""
        if (pause_s := now_s - self._ended_s) >= 0:
            usual_s = self.pause_s
            self.pause_s = (
                pause_s if usual_s == math.inf else usual_s + _NEWEST * (pause_s - usual_s)
            )
            self._ended_s = math.inf

    def granted(self, now_s: float) -> None:
        """Count one grant."""
        self._count = self.at(now_s) + 1.0
        self._counted_s = now_s

    def ended(self, now_s: float) -> None:
        """Record the end of the last request in flight."""
        self._ended_s = now_s

    def at(self, now_s: float) -> float:
        """Return the count: a grant of ten minutes ago is half a grant."""
        return self._count * math.exp2((self._counted_s - now_s) / HALF_LIFE_S)
