"""The exchange with a backend: the steps and failures that all kinds of exchanges share.

`buffered_exchange` sends a request that is in memory, `upload` one that still arrives, and
`tunnel` a handshake for WebSocket. Each passes the response on as it arrives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from typing import Final

from ..backends.upstream import Upstream
from ..core.apis.event_stream import NOT_BUFFERED
from ..core.apis.registry import APIS
from ..core.apis.usage import HEAD_BYTES, TAIL_BYTES
from ..errors.backends import BackendError, UpstreamError, UpstreamTimeoutError
from ..errors.base import RouterError
from ..http1 import (
    ResponseHead,
    ResponseHeads,
    client_response_head,
    upstream_request_head,
)
from .backend_request import BackendRequest
from .body import (
    LAST_CHUNK,
    BodyEncoder,
)
from .loop.event_loop import EventLoop
from .loop.fiber import ENDING_S, FiberCancelledError, FiberTimeoutError
from .pump import Pump, Tail
from .sockets import ClientGoneError, ClientSocket, UpstreamSocket, connect

_CONTINUE: Final = 100
SWITCHING_PROTOCOLS: Final = 101
FIRST_FINAL_STATUS: Final = 200

#: Most interim responses before the final one; real backends send one or two.
MAX_INTERIM: Final = 128

#: Failures after which a response that has begun can still be ended with an error.
FAILURES: Final = (UpstreamError, BackendError, FiberTimeoutError, FiberCancelledError)


class NotDeliveredError(Exception):
    """The backend's process ended by itself before it read the request.

    The request can be sent to the next backend of the model safely.

    Attributes:
        error: The reason of its end: for the client, if the request is not repeated.
    """

    def __init__(self, error: RouterError) -> None:
        super().__init__(str(error))
        self.error = error


class Exchange:
    """The steps that all exchanges share. Use `run` once.

    Each request makes one, so this is a plain class with slots: its construction counts. The
    attributes are final after `run`, also where that raised something.

    Attributes:
        status: The backend's status; 0 before its response.
        first_byte_s: Clock time of the first byte of the response, in seconds.
        first_body_s: That of the first byte of its body. A backend may send the head at once, and
            the body when the first token is there.
        sent_bytes: Bytes of the response's body, as framed, sent to the client.
        reusable: The client's connection can be used for another request.
        error: The failure that ended the response after it had begun.
    """

    __slots__ = (
        "_backend",
        "_begun",
        "_client",
        "_fiber",
        "_interim_count",
        "_loop",
        "_pump",
        "_request",
        "_tail",
        "error",
        "first_body_s",
        "first_byte_s",
        "reusable",
        "sent_bytes",
        "status",
    )

    _backend: Upstream

    def __init__(self, loop: EventLoop, client: ClientSocket, request: BackendRequest) -> None:
        self._loop = loop
        self._client = client
        self._fiber = client.fiber
        self._request = request
        self.status = 0
        self.first_byte_s: float | None = None
        self.first_body_s: float | None = None
        self._interim_count = 0
        self.sent_bytes = 0
        self._tail: Tail | bytes = b""
        self._pump: Pump | None = None
        self._begun = False  # the client got a part of the response
        self.reusable = False
        self.error: RouterError | None = None

    async def run(self, backend: Upstream) -> None:
        """Send the request to *backend* and its response to the client.

        If the backend fails before the response has begun, the failure is raised, and nothing
        was sent to the client. If it fails later, an event stream is ended with an error
        event, any other body is left incomplete, and `error` is set.

        Raises:
            ClientGoneError: if the client left; the backend's connection was closed.
            NotDeliveredError: if the backend's process ended before it read the request.
            BackendError: if the backend's process ended before it responded.
            UpstreamError: if the exchange failed in another way.
            FiberCancelledError: if the request is cancelled before the response has begun.
        """
        raise NotImplementedError

    def first(self) -> bytes:
        """Return the beginning of the response's body, `HEAD_BYTES` at most."""
        tail = self._tail
        return tail[:HEAD_BYTES] if isinstance(tail, bytes) else tail.first()

    def last(self) -> bytes:
        """Return the end of the response's body, `TAIL_BYTES` at most."""
        tail = self._tail
        return tail[-TAIL_BYTES:] if isinstance(tail, bytes) else tail.last()

    def moved_bytes(self) -> int:
        """Return the bytes of the response's body that have come so far; it only grows."""
        return self.sent_bytes if self._pump is None else self._pump.moved_bytes

    # -- steps --------------------------------------------------------------------------------

    async def _connect(self) -> UpstreamSocket:
        backend = self._backend
        try:
            return connect(self._loop, self._client, backend.host, backend.port)
        except OSError as exc:
            raise await self._undelivered(f"it does not accept connections: {exc}") from exc

    def _request_head(self, content_length: int | None, *, chunked: bool = False) -> bytes:
        request, backend = self._request, self._backend
        strips = request.strip_headers
        return upstream_request_head(
            request.head,
            target=backend.prefix + request.target if backend.prefix else request.target,
            host=backend.authority,
            content_length=content_length,
            chunked=chunked,
            upgrade=request.upgrade,
            strip_headers=strips | backend.strips if backend.strips else strips,
            own_fields=backend.own_fields,
        )

    async def _send_to(
        self, upstream: UpstreamSocket, data: bytes | bytearray | memoryview
    ) -> memoryview | None:
        """Send *data* to the backend; return the rest if it responds early, or None.

        An empty rest means that the backend closed. It may have responded before that, which
        the next read shows.
        """
        try:
            rest = upstream.send_nowait(data)
            if rest is None:
                return None
            return await upstream.send_rest(rest, silence_s=self._request.read_timeout_s)
        except OSError as exc:
            if not upstream.connected:
                raise await self._undelivered(f"it does not accept connections: {exc}") from exc
            upstream.reset = True
            return memoryview(b"")

    def _parse_head(
        self, heads: ResponseHeads, buffer: bytes, searched: int = 0
    ) -> ResponseHead | None:
        """Return the response head at the start of *buffer*, or None while it is incomplete.

        Args:
            heads: Parses the heads of the backend's connection.
            buffer: All bytes received for this response so far.
            searched: Length of *buffer* in the previous call.

        Raises:
            UpstreamError: if it is invalid, or switches protocols without an offer.
        """
        request = self._request
        head = heads.parse(buffer, request_method=request.head.method, searched=searched)
        if head is not None and head.status == SWITCHING_PROTOCOLS and not request.upgrade:
            raise UpstreamError("the backend switched protocols without being asked to")
        return head

    def _added_fields(self, head: ResponseHead) -> Sequence[tuple[bytes, bytes]]:
        """Return the fields to add to a response; a backend's own field of that name stays."""
        request = self._request
        added = request.add_headers
        field = request.id_field
        if field is not None and not head.has(field[0]):
            added = (*added, field) if added else (field,)
        if head.is_event_stream and not head.has(NOT_BUFFERED[0]):
            added = (*added, NOT_BUFFERED)
        return added

    def _interim_head(self, head: ResponseHead) -> bytes:
        """Return an interim response for the client; empty if the client must not get it.

        Raises:
            UpstreamError: if there were too many; nothing else ends a backend that sends no more.

        Source: RFC 9110, section 15.2.
        """
        self._interim_count += 1
        if self._interim_count > MAX_INTERIM:
            raise UpstreamError(f"the backend sent {MAX_INTERIM} interim responses and no other")
        # 100 is for the backend's connection alone: the router has the body already. HTTP/1.0
        # has no interim responses, and none may follow a response that has begun.
        request = self._request
        if head.status == _CONTINUE or not request.head.version_minor or self._has_early_head:
            return b""
        return client_response_head(head, close=False)

    @property
    def _has_early_head(self) -> bool:
        """Whether the client has a head already, from the router."""
        early = self._request.early
        return early is not None and early.begun

    # -- failures -----------------------------------------------------------------------------

    async def _explain(self, symptom: str) -> RouterError:
        """Return the error that explains *symptom*: the end of the backend's process, if it ended.

        Raises:
            ClientGoneError: if the client left meanwhile.
        """
        error = await self._loop.run_in_trio(
            self._fiber, partial(self._backend.error_for, symptom), unless_closed=self._client
        )
        if error is None:
            raise ClientGoneError
        return error

    async def _undelivered(self, symptom: str) -> RouterError | NotDeliveredError:
        """Return what to raise for *symptom*, which means that the request was not read.

        Raises:
            ClientGoneError: as `_explain`.
        """
        error = await self._explain(symptom)
        return error if self._backend.error is None else NotDeliveredError(error)

    def _silence_error(self) -> UpstreamTimeoutError:
        return UpstreamTimeoutError(
            f"{self._backend.title} was silent for "
            f"{self._request.read_timeout_s:g} s (read_timeout_s), or the client took nothing "
            "for as long"
        )

    def _as_router_error(self, exc: Exception) -> RouterError:
        if isinstance(exc, FiberTimeoutError):
            return self._silence_error()
        if isinstance(exc, FiberCancelledError):
            return exc.error
        assert isinstance(exc, RouterError)
        return exc

    async def _end_early(self, encoder: BodyEncoder, exc: Exception) -> bool:
        """End a response that has begun, with an error. Best effort: the client may be stuck.

        Returns:
            Whether its framing is complete, so that the client can take another response.
        """
        self.error = error = self._as_router_error(exc)
        api = APIS.api_of_stream(self._request.head.path.decode("ascii", "replace"))
        ending = encoder.error_ending(api.last_event(error))
        if self._client.mid_send:
            return False
        self._fiber.expire_in(ENDING_S)
        with contextlib.suppress(ClientGoneError, FiberTimeoutError):
            await self._client.send(ending)
            return ending.endswith(LAST_CHUNK)
        return False
