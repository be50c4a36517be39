"""The lease of a request on a model, from its arrival to its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import trio

from ..backends.upstream import Upstream
from ..core.scheduling.waits import Wait
from ..errors.base import RouterError


class LeaseOwner(Protocol):
    """Grants leases, and takes them back."""

    def release(self, request: int) -> None:
        """Release what *request* holds or waits for."""

    def wait_of(self, request: int) -> Wait | None:
        """Return what *request* waits for; None if it does not."""

    def hold_while_sending(self, lease: Lease) -> None:
        """Let *lease*, which is granted, hold its model only while its client sends."""

    def client_sent(self, request: int) -> None:
        """Record that the client of *request* sent something on its open connection."""

    def hold_to_end(self, request: int) -> None:
        """Let *request* hold its model until its end again."""


def _none_moved() -> int:
    return 0


class Lease:
    """The lease of a request on a model, from its arrival to its end.

    Use it as a (plain) context manager: leaving the block releases the model, whether the
    request was served, refused or abandoned.

    Attributes:
        request: Number of the request; later requests have higher ones.
        arrived_s: Clock time of the arrival, in seconds.
        granted_s: Clock time of the grant, in seconds; NaN before.
        backend: The granted backend; None while the request waits.
        caller: Name of the API key that the request came with, if it needed one.
        cut: Ends a request in flight, with an error for its client; set by the code that
            serves the request.
        moved_bytes: Returns the bytes of the response that have come from the backend so far; set
            by the code that serves the request. When the lease is over, it no longer says.
        takes_slot: The request counts for ``max_in_flight``.
        over: The block was left: the request holds nothing, and waits for nothing.
        on_news: Called when the wait is over or its state changes; see `Waits.watch`.
    """

    __slots__ = (
        "_error",
        "_handed_over",
        "_owner",
        "_settled",
        "arrived_s",
        "backend",
        "caller",
        "cut",
        "granted_s",
        "moved_bytes",
        "on_news",
        "over",
        "request",
        "takes_slot",
    )

    def __init__(
        self, owner: LeaseOwner, request: int, caller: str | None, arrived_s: float
    ) -> None:
        self._owner = owner
        self.request = request
        self._settled: trio.Event | None = None
        self._error: RouterError | None = None
        self.arrived_s = arrived_s
        self.granted_s = math.nan
        self.backend: Upstream | None = None
        self.caller = caller
        self.cut: Callable[[RouterError], None] | None = None
        self.moved_bytes: Callable[[], int] = _none_moved
        self.on_news: Callable[[], None] | None = None
        self.takes_slot = True
        self.over = False
        self._handed_over = False

    @property
    def settled(self) -> bool:
        """True if the wait is over, with a backend or with an error."""
        return self.backend is not None or self._error is not None

    def waits_for(self) -> Wait | None:
        """Return what the request waits for; None if it does not."""
        return self._owner.wait_of(self.request)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._handed_over:
            self._handed_over = False
            return
        self.over = True
        # These refer to objects that refer to the lease: such a ring would stay in memory until
        # the next garbage collection, and these would come more often.
        self.cut, self.moved_bytes = None, _none_moved
        self._owner.release(self.request)

    def hand_over(self) -> None:
        """Let the current block be left without an end: another one is entered for the lease."""
        self._handed_over = True

    def hold_while_sending(self) -> None:
        """From now on hold the model only while the client sends; see `dispatch.activity`.

        If the backend is stopped, `cut` is called. The lease must be granted.
        """
        self._owner.hold_while_sending(self)

    def client_sent(self) -> None:
        """Record that the client sent something: the model is held again."""
        self._owner.client_sent(self.request)

    def hold_to_end(self) -> None:
        """Hold the model until the lease is released, as leases do that only wait and end."""
        self._owner.hold_to_end(self.request)

    def granted_nowait(self) -> Upstream | None:
        """Return the granted backend, or None while the request waits.

        Raises:
            AdmissionError: if the request was refused.
            BackendError: if the backend cannot be brought up.
        """
        if self._error is not None:
            raise self._error.with_traceback(None)  # several requests may share it
        return self.backend

    async def granted(self) -> Upstream:
        """Wait for the grant and return the backend.

        Raises:
            AdmissionError: if the request is refused.
            BackendError: if the backend cannot be brought up.
        """
        while (backend := self.granted_nowait()) is None:
            if self._settled is None:
                self._settled = trio.Event()
            await self._settled.wait()
        return backend

    @property
    def load_s(self) -> float:
        """Seconds of the wait in which the granted backend was loading."""
        if self.backend is None:
            return 0.0
        return max(0.0, self.backend.ready_s - max(self.arrived_s, self.backend.spawned_s))

    @property
    def queue_s(self) -> float:
        """Seconds of the wait before that: for other models, or for requests in front."""
        return max(0.0, self.granted_s - self.arrived_s - self.load_s)

    def settle(self, result: Upstream | RouterError, now_s: float) -> None:
        """End the wait, with a backend or with an error."""
        if isinstance(result, Upstream):
            self.backend = result
            self.granted_s = now_s
        else:
            self._error = result
        if self._settled is not None:
            self._settled.set()
        if self.on_news is not None:
            self.on_news()
