"""The exchange with a backend: sends the request, and passes the response on as it arrives.

Of the response only an incomplete chunk of an event stream is held back, so that the stream
can be ended with an error event if the backend fails (`BodyEncoder`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from ..backends.backend import Backend
from ..core.apis.model_names import ModelNameRewriter
from ..core.apis.registry import APIS
from ..core.apis.usage import HEAD_BYTES, TAIL_BYTES
from ..errors.backends import BackendError, UpstreamError, UpstreamTimeoutError
from ..errors.base import RouterError
from ..http1 import (
    Framing,
    ResponseHead,
    client_response_head,
    parse_response_head,
    upstream_request_head,
)
from .backend_request import BackendRequest, ExchangeResult
from .body import (
    LAST_CHUNK,
    BodyEncoder,
    ModelNameEncoder,
    encoder_for_stream,
    model_name_rewriter,
    without_length,
)
from .loop.event_loop import EventLoop
from .loop.fiber import ENDING_S, FiberCancelledError, FiberTimeoutError
from .pump import BrokenOffError, Pump, Tail
from .sockets import ClientGoneError, ClientSocket, UpstreamSocket, connect

#: Bodies below this are sent together with the head, in one segment, in bytes.
SMALL_BODY_BYTES: Final = 64 * 1024

_CONTINUE: Final = 100
SWITCHING_PROTOCOLS: Final = 101
FIRST_FINAL_STATUS: Final = 200

#: Most interim responses before the final one; real backends send one or two.
MAX_INTERIM: Final = 128

_LENGTH, _CHUNKED, _CLOSE = Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE

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


class _StaleError(Exception):
    """A kept connection was closed before the first byte of the response.

    Attributes:
        unread: The backend did not read the request.
    """

    def __init__(self, *, unread: bool) -> None:
        super().__init__()
        self.unread = unread


class Exchange:
    """The steps that all exchanges share. Use `run` once.

    Each request makes one, so this is a plain class with slots: its construction counts.
    """

    __slots__ = (
        "_backend",
        "_begun",
        "_client",
        "_error",
        "_fiber",
        "_first_byte_s",
        "_interim_count",
        "_loop",
        "_pump",
        "_request",
        "_reusable",
        "_sent_bytes",
        "_status",
        "_tail",
    )

    _backend: Backend

    def __init__(self, loop: EventLoop, client: ClientSocket, request: BackendRequest) -> None:
        self._loop = loop
        self._client = client
        self._fiber = client.fiber
        self._request = request
        self._status = 0
        self._first_byte_s: float | None = None
        self._interim_count = 0
        self._sent_bytes = 0
        self._tail: Tail | bytes = b""
        self._pump: Pump | None = None
        self._begun = False  # the client got a part of the response
        self._reusable = False
        self._error: RouterError | None = None

    async def run(self, backend: Backend) -> ExchangeResult:
        """Send the request to *backend* and its response to the client.

        If the backend fails before the response has begun, the failure is raised, and nothing
        was sent to the client. If it fails later, an event stream is ended with an error
        event, any other body is left incomplete, and the result contains the error.

        Raises:
            ClientGoneError: if the client left; the backend's connection was closed.
            NotDeliveredError: if the backend's process ended before it read the request.
            BackendError: if the backend's process ended before it responded.
            UpstreamError: if the exchange failed in another way.
            FiberCancelledError: if the request is cancelled before the response has begun.
        """
        raise NotImplementedError

    def result(self) -> ExchangeResult:
        """Return the state of the exchange, which is final after `run`."""
        tail = self._tail
        if isinstance(tail, bytes):
            first, last = tail[:HEAD_BYTES], tail[-TAIL_BYTES:]
        else:
            first, last = tail.first(), tail.last()
        return ExchangeResult(
            self._status,
            self._first_byte_s,
            self._sent_bytes,
            first,
            last,
            self._reusable,
            self._error,
        )

    def moved_bytes(self) -> int:
        """Return the bytes of the response's body that have come so far; it only grows."""
        return self._sent_bytes if self._pump is None else self._pump.moved_bytes

    # -- steps --------------------------------------------------------------------------------

    async def _connect(self) -> UpstreamSocket:
        backend = self._backend
        try:
            return connect(self._loop, self._client, backend.host, backend.port)
        except OSError as exc:
            raise await self._undelivered(f"it does not accept connections: {exc}") from exc

    def _request_head(self, content_length: int | None, *, chunked: bool = False) -> bytes:
        request = self._request
        return upstream_request_head(
            request.head,
            target=request.target,
            host=self._backend.authority,
            content_length=content_length,
            chunked=chunked,
            upgrade=request.upgrade,
            strip_headers=request.strip_headers,
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

    def _parse_head(self, buffer: bytes, searched: int = 0) -> ResponseHead | None:
        """Return the response head at the start of *buffer*, or None while it is incomplete.

        Raises:
            UpstreamError: if it is invalid, or switches protocols without an offer.
        """
        request = self._request
        head = parse_response_head(buffer, request_method=request.head.method, searched=searched)
        if head is not None and head.status == SWITCHING_PROTOCOLS and not request.upgrade:
            raise UpstreamError("the backend switched protocols without being asked to")
        return head

    def _added_fields(self, head: ResponseHead) -> Sequence[tuple[bytes, bytes]]:
        """Return the fields to add to a response; a backend's own request id stays."""
        request = self._request
        field = request.id_field
        if field is None or field[0] in dict(head.fields):  # faster than a search in Python
            return request.add_headers
        return (*request.add_headers, field) if request.add_headers else (field,)

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
        if head.status == _CONTINUE or not request.head.version_minor or request.early is not None:
            return b""
        return client_response_head(head, close=False)

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

    def _silence(self) -> UpstreamTimeoutError:
        return UpstreamTimeoutError(
            f"the backend of model {str(self._backend.model)!r} was silent for "
            f"{self._request.read_timeout_s:g} s (read_timeout_s), or the client took nothing "
            "for as long"
        )

    def _as_router_error(self, exc: Exception) -> RouterError:
        if isinstance(exc, FiberTimeoutError):
            return self._silence()
        if isinstance(exc, FiberCancelledError):
            return exc.error
        assert isinstance(exc, RouterError)
        return exc

    async def _end_early(self, encoder: BodyEncoder, exc: Exception) -> bool:
        """End a response that has begun, with an error. Best effort: the client may be stuck.

        Returns:
            Whether its framing is complete, so that the client can take another response.
        """
        self._error = error = self._as_router_error(exc)
        api = APIS.api_of_stream(self._request.head.path.decode("ascii", "replace"))
        ending = encoder.error_ending(api.last_event(error))
        if self._client.mid_send:
            return False
        self._fiber.expire_in(ENDING_S)
        with contextlib.suppress(ClientGoneError, FiberTimeoutError):
            await self._client.send(ending)
            return ending.endswith(LAST_CHUNK)
        return False


class BufferedExchange(Exchange):
    """The exchange of a request of which the body is in memory."""

    __slots__ = ()

    async def run(self, backend: Backend) -> ExchangeResult:
        """Send request and response; see `Exchange.run`."""
        self._backend = backend
        self._client.slow = False
        try:
            try:
                await self._attempt(self._kept_connection())
            except _StaleError as stale:
                # No byte of a response arrived, so the request can be repeated safely.
                await self._repeat(stale)
        except FiberTimeoutError:
            raise self._silence() from None
        except UpstreamError as exc:
            if (model := f"model {str(backend.model)!r}") in str(exc):
                raise
            raise UpstreamError(f"the backend of {model} failed: {exc}") from exc
        finally:
            self._fiber.deadline_s = math.inf
        return self.result()

    async def _repeat(self, stale: _StaleError) -> None:
        """Send the request again, over a new connection to the same process."""
        try:
            await self._attempt(None)
        except NotDeliveredError as exc:
            if stale.unread:
                raise
            raise exc.error from None  # the process read it, and perhaps ended because of it

    async def _attempt(self, upstream: UpstreamSocket | None) -> None:
        """Send request and response over *upstream*, or over a new connection."""
        clean = False
        try:
            if upstream is None:
                upstream = await self._connect()
            rest = await self._send(upstream)
            head, data, all_sent = await self._receive_head(upstream, rest)
            self._request.body.release()
            # A backend that did not read all of the request waits for the rest of it.
            clean = await self._respond(upstream, head, data) and all_sent
        finally:
            if upstream is None:
                pass
            elif clean:
                upstream.keep()
                self._backend.keep_connection(upstream)
            else:
                upstream.close()

    def _kept_connection(self) -> UpstreamSocket | None:
        while (kept := self._backend.take_connection()) is not None:
            assert isinstance(kept, UpstreamSocket), "only this module keeps connections"
            if kept.reuse(self._client):
                return kept
        return None

    async def _send(self, upstream: UpstreamSocket) -> memoryview | None:
        """Send the request; return the part that the backend did not read, or None."""
        body, request = self._request.body.data, self._request
        data = self._request_head(None if body is None else len(body))
        silence_s = request.read_timeout_s
        self._fiber.expire_in(silence_s if upstream.reused else request.connection_timeout_s)
        try:
            if not body or len(body) < SMALL_BODY_BYTES:
                rest = await self._send_to(upstream, data + body if body else data)
            else:
                rest = await self._send_to(upstream, data)
                self._fiber.expire_in(silence_s)
                if rest is None:
                    rest = await self._send_to(upstream, body)
        except FiberTimeoutError:
            if upstream.connected:
                raise
            raise UpstreamError(
                f"the backend of model {str(self._backend.model)!r} did not accept a connection "
                f"within {request.connection_timeout_s:g} s (connection_timeout_s)"
            ) from None
        self._fiber.expire_in(silence_s)
        return rest

    async def _receive_head(
        self, upstream: UpstreamSocket, rest: memoryview | None
    ) -> tuple[ResponseHead, bytes, bool]:
        """Return the final response head, the bytes after it, and whether all was sent.

        Neither a part of the head nor an interim response postpones the deadline.

        Args:
            upstream: The backend's connection.
            rest: The part of the request that was not sent yet.
        """
        buffer, searched = b"", 0
        while True:
            data = await upstream.receive()
            if not data:
                silent = self._first_byte_s is None
                if upstream.reused and silent:
                    raise _StaleError(unread=upstream.reset)
                explain = self._undelivered if upstream.reset and silent else self._explain
                raise await explain("it closed the connection without an answer")
            if self._first_byte_s is None:
                self._first_byte_s = self._loop.clock()
            buffer = buffer + data if buffer else data
            while head := self._parse_head(buffer, searched):
                status = head.status
                if status >= FIRST_FINAL_STATUS or status == SWITCHING_PROTOCOLS:
                    return head, buffer[head.size :], rest is None
                buffer, searched = buffer[head.size :], 0
                if interim := self._interim_head(head):
                    await self._client.send(interim)
                if rest:
                    rest = await upstream.send(rest, silence_s=self._request.read_timeout_s)
            searched = len(buffer)

    async def _respond(self, upstream: UpstreamSocket, head: ResponseHead, data: bytes) -> bool:
        """Send the response; return whether the backend's connection can be used again.

        Args:
            upstream: The backend's connection.
            head: The backend's head.
            data: The part of the body that has arrived.
        """
        request = self._request
        close = request.close or not request.head.keep_alive
        if request.early is not None:
            encoder = encoder_for_stream(
                head, request.early.dialect, model_name=request.response_model
            )
            return await self._stream(upstream, head, b"", data, encoder, reusable=not close)
        complete = head.framing is _LENGTH and len(data) == head.content_length
        if (name := request.response_model) is not None:
            rewriter = model_name_rewriter(head, name)
            if rewriter is not None and not complete:
                return await self._respond_renamed(upstream, head, data, rewriter, close=close)
            if rewriter is not None:
                data = rewriter.feed(data)
                head = replace(head, content_length=len(data))
        http10 = not request.head.version_minor
        out = client_response_head(
            head, close=close, http10=http10, add_headers=self._added_fields(head)
        )
        if complete:  # as most responses that are no streams: there is nothing to wait for
            self._status = head.status
            self._begun = True
            self._sent_bytes = len(data)
            self._tail = data
            if (rest := self._client.send_nowait(out + data)) is not None:
                await self._client.send_rest(rest)
            self._reusable = not close
            return head.keep_alive
        close = close or head.framing is _CLOSE or (http10 and head.framing is _CHUNKED)
        encoder = BodyEncoder(head, http10=http10)
        return await self._stream(upstream, head, out, data, encoder, reusable=not close)

    async def _respond_renamed(
        self,
        upstream: UpstreamSocket,
        head: ResponseHead,
        data: bytes,
        rewriter: ModelNameRewriter,
        *,
        close: bool,
    ) -> bool:
        """Send the response with another name of the model; return as `_respond` does."""
        request, sent_head = self._request, without_length(head)
        http10 = not request.head.version_minor
        in_chunks = sent_head.framing is _CHUNKED and not http10
        close = close or not in_chunks
        out = client_response_head(
            sent_head, close=close, http10=http10, add_headers=self._added_fields(head)
        )
        encoder = ModelNameEncoder(head, rewriter, in_chunks=in_chunks)
        return await self._stream(upstream, head, out, data, encoder, reusable=not close)

    async def _stream(
        self,
        upstream: UpstreamSocket,
        head: ResponseHead,
        out: bytes,
        data: bytes,
        encoder: BodyEncoder,
        *,
        reusable: bool,
    ) -> bool:
        """Move the body until it is complete; return as `_respond` does.

        Args:
            upstream: The backend's connection.
            head: The backend's head.
            out: Bytes to send before the body.
            data: The part of the body that has arrived.
            encoder: Encodes the body for the client.
            reusable: The client's connection can be used again once the body is complete.
        """
        self._status = head.status
        self._begun |= self._request.early is not None  # the client has the head already
        self._tail = tail = Tail()
        self._pump = pump = Pump(
            self._loop,
            upstream,
            self._client,
            head=head,
            encoder=encoder,
            tail=tail,
            timeout_s=self._request.read_timeout_s,
        )
        try:
            surplus = await self._run_pump(pump, out, data)
            if ending := encoder.finish():
                await self._client.send(ending)
        except FAILURES as exc:
            if not self._begun:
                raise
            self._reusable = await self._end_early(encoder, exc) and reusable
            return False
        self._reusable = reusable
        return head.keep_alive and not surplus and head.framing is not _CLOSE

    async def _run_pump(self, pump: Pump, out: bytes, data: bytes) -> bool:
        """Run *pump*; return whether surplus bytes followed the body."""
        try:
            return await pump.run(out, data)
        except BrokenOffError:
            raise await self._explain("it closed the connection mid-answer") from None
        finally:
            self._begun |= pump.begun
            self._sent_bytes += pump.moved_bytes
