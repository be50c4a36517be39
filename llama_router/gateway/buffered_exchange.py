"""The exchange of a request of which the body is in memory: the usual one.

It may use a kept connection, and repeats the request if that turns out to be closed. Of the
response only an incomplete chunk of an event stream is held back, so that the stream can be
ended with an error event if the backend fails (`BodyEncoder`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from ..backends.upstream import Upstream
from ..core.apis.model_names import ModelNameRewriter
from ..dispatch.activity import is_file
from ..errors.backends import UpstreamError
from ..http1 import Framing, ResponseHead, client_response_head
from .body import (
    BodyEncoder,
    ModelNameEncoder,
    encoder_for_stream,
    model_name_rewriter,
    without_length,
)
from .exchange import (
    FAILURES,
    FIRST_FINAL_STATUS,
    SWITCHING_PROTOCOLS,
    Exchange,
    NotDeliveredError,
)
from .loop.fiber import FiberTimeoutError
from .pump import BrokenOffError, Pump, Tail
from .silence import Silence
from .sockets import LATER_BYTES, UpstreamSocket

#: Bodies below this are sent together with the head, in one segment, in bytes.
SMALL_BODY_BYTES: Final = 64 * 1024

#: Methods of requests that may have no end: a download, an event stream, a long poll.
_READING: Final = frozenset((b"GET", b"HEAD"))

#: The method whose responses have no body, whatever their head says.
_HEAD: Final = b"HEAD"

_LENGTH, _CHUNKED, _CLOSE = Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE


class _StaleError(Exception):
    """A kept connection was closed before the first byte of the response.

    Attributes:
        unread: The backend did not read the request.
    """

    def __init__(self, *, unread: bool) -> None:
        super().__init__()
        self.unread = unread


class BufferedExchange(Exchange):
    """The exchange of a request of which the body is in memory."""

    __slots__ = ()

    async def run(self, backend: Upstream) -> None:
        """Send request and response; see `Exchange.run`."""
        self._backend = backend
        self._client.slow = False
        request = self._request
        if request.lease is not None and self._may_be_endless:
            request.lease.hold_while_sending()
        try:
            try:
                await self._attempt(self._kept_connection())
            except _StaleError as stale:
                # No byte of a response arrived, so the request can be repeated safely.
                await self._repeat(stale)
        except FiberTimeoutError:
            raise self._silence_error() from None
        except UpstreamError as exc:
            if f"model {str(backend.model)!r}" in str(exc):
                raise
            raise UpstreamError(f"{backend.title} failed: {exc}") from exc
        finally:
            self._fiber.deadline_s = math.inf

    @property
    def _may_be_endless(self) -> bool:
        """Whether the request is of a kind whose response may have no end."""
        request = self._request
        return request.upgrade or request.head.method in _READING

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
            body = self._request.body.data
            if upstream.reused and (not body or len(body) < SMALL_BODY_BYTES):
                rest = self._send_small(upstream, body)
                if rest:
                    rest = await self._send_to(upstream, rest)
            else:
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

    def _send_small(
        self, upstream: UpstreamSocket, body: bytes | bytearray | None
    ) -> memoryview | None:
        """Send the request on a connection that served others, as far as the backend accepts it.

        One of several requests is sent at the end of the iteration, and `UpstreamSocket.receive`
        sends its rest.

        Returns:
            The rest, or None; empty as in `_send_to`.
        """
        silence_s = self._request.read_timeout_s
        data = self._request_head(None if body is None else len(body))
        if body:
            data += body
        self._fiber.expire_in(silence_s)
        if self._loop.crowded and len(data) <= LATER_BYTES:
            upstream.send_later(data, silence_s=silence_s)
            return None
        try:
            return upstream.send_nowait(data)
        except OSError:
            upstream.reset = True
            return memoryview(b"")

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
                f"{self._backend.title} did not accept a connection "
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
        request = self._request
        in_time = request.early is not None and request.keepalive_s
        buffer, searched = b"", 0
        while True:
            data = await (self._receive_in_time(upstream) if in_time else upstream.receive())
            if not data:
                raise await self._without_answer(upstream)
            if self.first_byte_s is None:
                self.first_byte_s = self._loop.clock()
                if request.head.method != _HEAD:
                    known = upstream.heads.known(data)
                    if known is not None:
                        return known, data[known.size :], rest is None and not upstream.unsent
            buffer = buffer + data if buffer else data
            while head := self._parse_head(upstream.heads, buffer, searched):
                status = head.status
                if status >= FIRST_FINAL_STATUS or status == SWITCHING_PROTOCOLS:
                    return head, buffer[head.size :], rest is None and not upstream.unsent
                buffer, searched = buffer[head.size :], 0
                if interim := self._interim_head(head):
                    await self._client.send(interim)
                if rest:
                    rest = await upstream.send(rest, silence_s=self._request.read_timeout_s)
            searched = len(buffer)

    async def _without_answer(self, upstream: UpstreamSocket) -> Exception:
        """Return what to raise where the backend closed before the head was complete."""
        silent = self.first_byte_s is None
        if upstream.reused and silent:
            return _StaleError(unread=upstream.reset)
        explain = self._undelivered if upstream.reset and silent else self._explain
        return await explain("it closed the connection without an answer")

    async def _receive_in_time(self, upstream: UpstreamSocket) -> bytes:
        """Receive a part of the head; keep the stream of the client alive until the first one."""
        request = self._request
        early, limit_s = request.early, request.read_timeout_s
        if early is None or self.first_byte_s is not None:
            return await upstream.receive()
        silence = Silence(limit_s, request.keepalive_s)
        while True:
            self._fiber.expire_in(silence.next_s)
            try:
                data = await upstream.receive()
            except FiberTimeoutError:
                if not silence.step():
                    raise
            else:
                self._fiber.expire_in(silence.left_s)
                return data
            await early.send(early.dialect.keepalive(), timeout_s=limit_s)

    async def _respond(self, upstream: UpstreamSocket, head: ResponseHead, data: bytes) -> bool:
        """Send the response; return whether the backend's connection can be used again.

        Args:
            upstream: The backend's connection.
            head: The backend's head.
            data: The part of the body that has arrived.
        """
        request = self._request
        if self._may_be_endless and request.lease is not None and _has_end(head):
            request.lease.hold_to_end()
        early = request.early
        if early is not None and early.begun:
            encoder = encoder_for_stream(
                head,
                early.dialect,
                model_name=request.response_model,
                in_chunks=early.in_chunks,
            )
            reusable = not (early.closes or request.close)
            return await self._stream(upstream, head, b"", data, encoder, reusable=reusable)
        close = request.close or not request.head.keep_alive
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
            self.status = head.status
            self._begun = True
            self.first_body_s = self.first_byte_s
            self.sent_bytes = len(data)
            self._tail = data
            out += data
            if self._loop.crowded and not close and len(out) <= LATER_BYTES:
                self._client.send_later(out, timeout_s=request.read_timeout_s)
            elif (rest := self._client.send_nowait(out)) is not None:
                await self._client.send_rest(rest)
            self.reusable = not close
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
        self.status = head.status
        self._begun |= self._has_early_head
        self._tail = tail = Tail()
        self._pump = pump = Pump(
            self._loop,
            upstream,
            self._client,
            head=head,
            encoder=encoder,
            tail=tail,
            silence=Silence(self._request.read_timeout_s, self._request.keepalive_s),
        )
        try:
            surplus = await self._run_pump(pump, out, data)
            if ending := encoder.finish():
                await self._client.send(ending)
        except FAILURES as exc:
            if not self._begun:
                raise
            self.reusable = await self._end_early(encoder, exc) and reusable
            return False
        self.reusable = reusable
        return head.keep_alive and not surplus and head.framing is not _CLOSE

    async def _run_pump(self, pump: Pump, out: bytes, data: bytes) -> bool:
        """Run *pump*; return whether surplus bytes followed the body."""
        try:
            return await pump.run(out, data)
        except BrokenOffError:
            raise await self._explain("it closed the connection mid-answer") from None
        finally:
            self._begun |= pump.begun
            self.first_body_s = pump.first_s
            self.sent_bytes += pump.moved_bytes


def _has_end(head: ResponseHead) -> bool:
    """Return whether a response ends by itself, so that its client need not send to keep it."""
    return head.framing not in (_CHUNKED, _CLOSE) or is_file(
        head.get(b"content-type"), head.get(b"content-disposition")
    )
