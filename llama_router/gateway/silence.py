"""The silence of a backend: when a keepalive is due, and when it has lasted too long. Pure."""

from __future__ import annotations


class Silence:
    """Counts the silence of one backend, in steps.

    Attributes:
        limit_s: Longest silence, in seconds.
        step_s: Time between two keepalives, in seconds; *limit_s* if there are none.
    """

    __slots__ = ("_passed_s", "limit_s", "step_s")

    def __init__(self, limit_s: float, keepalive_s: float) -> None:
        """Begin a silence.

        Args:
            limit_s: Longest silence, in seconds.
            keepalive_s: Time between two keepalives, in seconds; 0 for none.
        """
        self.limit_s = limit_s
        self.step_s = min(keepalive_s or limit_s, limit_s)
        self._passed_s = 0.0

    @property
    def has_steps(self) -> bool:
        """Whether there are keepalives."""
        return self.step_s < self.limit_s

    @property
    def next_s(self) -> float:
        """Seconds until the next keepalive, or the end of the patience."""
        return min(self.step_s, self.left_s)

    @property
    def left_s(self) -> float:
        """Seconds until the end of the patience, as of the last step."""
        return self.limit_s - self._passed_s

    def broken(self) -> None:
        """Begin anew: the backend sent something."""
        self._passed_s = 0.0

    def step(self) -> bool:
        """Record that `next_s` passed in silence; return whether it may go on."""
        self._passed_s += self.next_s
        return self._passed_s < self.limit_s
