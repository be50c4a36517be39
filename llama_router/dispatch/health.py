"""Health checks of ready backends that failed requests: one that hangs is replaced."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import trio

from ..backends.backend import Backend
from ..errors.backends import BackendHungError
from ..logs.events import log
from .lease import Lease

#: Requests in a row that a backend fails before it is asked for its health. After a silence it
#: is asked at once.
FAILURES_IN_ROW: Final = 3

#: Probes that must fail before a backend is replaced.
PROBES: Final = 3

#: Seconds for each of them. A busy machine may be slow; a hung backend never answers.
TIMEOUT_S: Final = 5.0

#: Pause between two of them, in seconds.
PAUSE_S: Final = 1.0


class Probe(Protocol):
    """Sends one request to a health endpoint; see `backends.readiness.probe`."""

    async def __call__(self, host: str, port: int, path: str, /, *, timeout_s: float) -> str:
        """Return the status as digits, or the failure in words."""


class HealthChecks:
    """Asks backends for their health after failures.

    Args:
        probe: Sends one request to a health endpoint.
        leases_of: Returns the leases on a backend that serves their requests.
        replace: Called with a backend that hangs, and the error for its requests.
    """

    def __init__(
        self,
        probe: Probe,
        *,
        leases_of: Callable[[Backend], Iterable[Lease]],
        replace: Callable[[Backend, BackendHungError], None],
    ) -> None:
        self._probe = probe
        self._leases_of = leases_of
        self._replace = replace
        self._running: set[Backend] = set()

    def note_failure(
        self, backend: Backend, symptom: str, *, silent: bool, nursery: trio.Nursery
    ) -> None:
        """Take note that *backend* failed a request; check its health if that is due.

        Args:
            backend: The backend.
            symptom: What was seen, as the end of a sentence about it.
            silent: It did not answer in time.
            nursery: Runs the check.
        """
        backend.failures += 1
        due = silent or backend.failures >= FAILURES_IN_ROW
        if due and backend not in self._running and not backend.gone.is_set():
            self._running.add(backend)
            nursery.start_soon(self._check, backend, symptom)

    async def _check(self, backend: Backend, symptom: str) -> None:
        try:
            health = await self._health(backend)
        finally:
            self._running.discard(backend)
        if health is None or backend.gone.is_set():
            backend.failures = 0
            return
        log.warning(
            "backend.hung", model=backend.model, pid=backend.pid, symptom=symptom, health=health
        )
        endpoint = backend.spec.spawn.health_endpoint
        self._replace(
            backend,
            BackendHungError(
                f"the backend of model {str(backend.model)!r} hangs and is replaced: {symptom}, "
                f"and {endpoint} says: {health}"
            ),
        )

    async def _health(self, backend: Backend) -> str | None:
        """Return what the last probe saw; None as soon as there is a sign of life."""
        moved = [(lease, lease.moved_bytes) for lease in self._leases_of(backend)]
        before_bytes = [moved_bytes() for _, moved_bytes in moved]
        health = ""
        for number in range(PROBES):
            if number:
                await trio.sleep(PAUSE_S)
            health = await self._probe(
                backend.host,
                backend.port,
                backend.spec.spawn.health_endpoint,
                timeout_s=TIMEOUT_S,
            )
            if health == "200" or not backend.failures:  # another request succeeded meanwhile
                return None
        # A program that does one thing at a time answers no probe while it streams.
        # A lease that is over says no more, and one that was new then has another answer now.
        now_bytes = [max(moved_bytes(), lease.moved_bytes()) for lease, moved_bytes in moved]
        moves = any(map(operator.gt, now_bytes, before_bytes))
        return None if moves else health
