"""Restarts of failed backends: exponential backoff, then a circuit breaker. Pure."""

from __future__ import annotations

import math
from typing import Final

import attrs

#: Pause before the first restart, in seconds; it doubles with every further one.
BACKOFF_BASE_S: Final = 0.5

#: Longest pause between two restarts, in seconds.
BACKOFF_MAX_S: Final = 30.0


@attrs.frozen(kw_only=True)
class Breaker:
    """Recent failures of a backend, and the time before which it is not started.

    Attributes:
        failures: Failures in a row; a backend that was ready for
            ``stable_after_s`` counts from zero again.
        retry_at_s: Clock time before which it is not started, in seconds.
        open: Whether restarts were given up until *retry_at_s*. The one attempt
            after that (half-open) opens it again if it fails.
    """

    failures: int = 0
    retry_at_s: float = 0.0
    open: bool = False


CLOSED: Final = Breaker()

#: The breaker of a model with an unusable file: no start before the file is restored.
GIVEN_UP: Final = Breaker(failures=1, retry_at_s=math.inf, open=True)


def after_failure(
    breaker: Breaker,
    *,
    now_s: float,
    ready_for_s: float,
    retryable: bool,
    max_restarts: int,
    stable_after_s: float,
    cooldown_s: float,
) -> Breaker:
    """Return the breaker after one more failure.

    Args:
        breaker: The state before.
        now_s: Clock time of the failure, in seconds.
        ready_for_s: Seconds the backend had been ready; 0 if it never was.
        retryable: Whether the same command may work next time.
        max_restarts: Restarts tried in a row before giving up.
        stable_after_s: Seconds of being ready that forgive earlier failures.
        cooldown_s: Seconds for which the breaker stays open.
    """
    before = 0 if ready_for_s >= stable_after_s else breaker.failures
    failures = before + 1
    half_open = breaker.open and before > 0  # that was the one attempt after a cool-down
    if not retryable or half_open or failures > max_restarts:
        return Breaker(failures=failures, retry_at_s=now_s + cooldown_s, open=True)
    pause_s = min(BACKOFF_BASE_S * 2 ** (failures - 1), BACKOFF_MAX_S)
    return Breaker(failures=failures, retry_at_s=now_s + pause_s)
