"""When a model goes although nobody is in its way, or comes although nobody asks. Pure.

`expires_s` is the rule of ``ttl_s``, `home_due_s` that of ``home_model``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


def expires_s(stays_s: float, *, busy: bool, idle_since_s: float) -> float:
    """Return the clock time at which a ready model has been idle for long enough.

    Args:
        stays_s: Seconds of idleness after which it is stopped; infinite for never.
        busy: It serves somebody, or somebody waits for it.
        idle_since_s: When it became ready or its last request ended, the later one.
    """
    return math.inf if busy else idle_since_s + stays_s


def home_due_s(idle_since_s: Iterable[float], home_after_s: float) -> float:
    """Return the clock time at which the home model may take the place of the others.

    Args:
        idle_since_s: Of every other resident model: since when it is idle; infinite for a
            busy one.
        home_after_s: Seconds for which all of them must have been idle.
    """
    return max((since_s + home_after_s for since_s in idle_since_s), default=-math.inf)
