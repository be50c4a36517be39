"""The health of a service, as a table: what its answers make of it. Pure.

A service is not a process of this router: it is never started, stopped or replaced, and its
failures count for no backoff and no breaker of a model. It is asked again and again, and serves
when it answers.
"""

from __future__ import annotations

from enum import StrEnum, auto
from typing import Final

import attrs


class Health(StrEnum):
    """The health of a service."""

    UNKNOWN = "unknown"
    UP = "up"
    SUSPECT = "suspect"
    DOWN = "down"


class Finding(StrEnum):
    """What one question about its health found."""

    SERVES = auto()  # it answered with a success
    REFUSES = auto()  # no connection, no such host, a wrong key or path: it cannot serve
    FAILS = auto()  # no answer in time, or an error of the server: it may be busy


#: The health after a finding. From SUSPECT, FAILS leads to DOWN once there were `MAX_FAILS`.
TRANSITIONS: Final[dict[Health, dict[Finding, Health]]] = {
    Health.UNKNOWN: {
        Finding.SERVES: Health.UP,
        Finding.REFUSES: Health.DOWN,
        Finding.FAILS: Health.DOWN,
    },
    Health.UP: {
        Finding.SERVES: Health.UP,
        Finding.REFUSES: Health.DOWN,
        Finding.FAILS: Health.SUSPECT,
    },
    Health.SUSPECT: {
        Finding.SERVES: Health.UP,
        Finding.REFUSES: Health.DOWN,
        Finding.FAILS: Health.SUSPECT,
    },
    Health.DOWN: {
        Finding.SERVES: Health.UP,
        Finding.REFUSES: Health.DOWN,
        Finding.FAILS: Health.DOWN,
    },
}

#: Failures in a row after which a service that served counts as down. One that does one thing at
#: a time may be slow to answer.
MAX_FAILS: Final = 3

#: The first pause after a service went down, in seconds; each further one is twice as long.
FIRST_PAUSE_S: Final = 0.25

#: The pause before a service that failed once is asked again, in seconds.
SUSPECT_PAUSE_S: Final = 1.0

_MAX_DOUBLINGS: Final = 30


@attrs.frozen
class ServiceHealth:
    """The health of a service, with what led to it.

    Attributes:
        state: Its health.
        failures: Findings in a row by which it does not serve.
    """

    state: Health = Health.UNKNOWN
    failures: int = 0

    def after(self, finding: Finding) -> ServiceHealth:
        """Return the health after one more finding."""
        state = TRANSITIONS[self.state][finding]
        if finding is Finding.SERVES:
            return ServiceHealth(state)
        failures = self.failures + 1
        if state is Health.SUSPECT and failures >= MAX_FAILS:
            state = Health.DOWN
        return ServiceHealth(state, failures)

    def pause_s(self, period_s: float) -> float:
        """Return the seconds until the next question, for one with that period.

        One that is down is asked more often at first: it may just be restarting.
        """
        match self.state:
            case Health.SUSPECT:
                return min(period_s, SUSPECT_PAUSE_S)
            case Health.DOWN:
                return min(period_s, FIRST_PAUSE_S * 2.0 ** min(self.failures - 1, _MAX_DOUBLINGS))
            case _:
                return period_s
