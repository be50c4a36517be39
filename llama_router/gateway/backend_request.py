"""The values that go into an exchange with a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..core.requests.body_budget import BodyShare
from ..core.requests.json_scan import FieldScanner
from ..core.requests.multipart import FormScanner
from ..dispatch.lease import Lease
from ..http1 import RequestHead
from .waiting import EarlyStream


class RequestBody:
    """A request's body in memory, decoded, with its share of the budget of all bodies.

    Attributes:
        data: The body; None for a request without one, and after `release`.
        scan: The results of scanning the body while it arrived; it may refer to the body.
    """

    __slots__ = ("_share", "data", "scan")

    def __init__(
        self,
        data: bytes | bytearray | None = None,
        *,
        scan: FormScanner | FieldScanner | None = None,
        share: BodyShare | None = None,
    ) -> None:
        self.data = data
        self.scan = scan
        self._share = share

    def release(self) -> None:
        """Free the memory of the body; safe to call at any time."""
        self.data = self.scan = None
        if self._share is not None:
            self._share.give_back()
            self._share = None


class BackendRequest(NamedTuple):
    """A request as a backend gets it, and the rules for its response.

    Attributes:
        head: The client's head.
        target: The request target at the backend.
        body: The body; its memory is released when the response begins.
        strip_headers: Fields that the backend does not get; names in lower case.
        add_headers: Fields to add to the response.
        connection_timeout_s: Longest wait for a connection to the backend, in seconds.
        read_timeout_s: Longest silence of either side, in seconds.
        close: The client's connection ends with this response.
        upgrade: Offer the backend to switch to WebSocket.
        response_model: Name that replaces the model's in the response; None to leave it.
        id_field: The field with the request id, for a response without such a field.
        early: The response, if it may begin before the backend's; it is continued.
        lease: The lease on the backend; None for a request that only observes it.
        keepalive_s: Time between two keepalives while the backend is silent in an event
            stream, in seconds; 0 for none.
    """

    head: RequestHead
    target: bytes
    body: RequestBody
    strip_headers: frozenset[bytes]
    add_headers: Sequence[tuple[bytes, bytes]]
    connection_timeout_s: float
    read_timeout_s: float
    close: bool
    upgrade: bool = False
    response_model: str | None = None
    id_field: tuple[bytes, bytes] | None = None
    early: EarlyStream | None = None
    lease: Lease | None = None
    keepalive_s: float = 0.0
