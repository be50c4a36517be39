"""An exchange whose request is passed on while it arrives, both ways at the same time.

For paths that name their model, so that nobody has to look into the body. Nothing of it is
kept but one piece on its way: it may be of any size, and the backend may answer before it
has all of it. Both connections end with the exchange.
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Final

from ..backends.backend import Backend
from ..errors.backends import UpstreamError
from ..errors.base import RouterError
from ..errors.requests import RequestTimeoutError
from ..http1 import (
    ChunkedBody,
    RequestHead,
    ResponseFraming,
    client_response_head,
    parse_response_head,
    upstream_request_head,
)
from .body import LAST_CHUNK, BodyEncoder, chunk
from .exchange import Exchange
from .loop.channel import GONE, READABLE, WRITABLE
from .loop.engine import Engine
from .loop.fiber import CHUNKS_PER_PIECE, FiberCutError, FiberTimeoutError, pause
from .pump import Tail
from .sockets import RECEIVE_BYTES, Client, ClientGoneError, Upstream

#: Longest silence of a client in the middle of its request, in seconds, as long as nothing
#: was answered.
UPLOAD_TIMEOUT_S: Final = 60.0


class Upload:
    """The body of a request on its way. Sans-IO.

    Attributes:
        pending: What is to be sent next.
        done: All of it was taken in.
    """

    def __init__(self, head: RequestHead, received: bytes) -> None:
        self._chunks = ChunkedBody() if head.chunked else None
        self._left_bytes = head.content_length or 0
        self.pending = memoryview(b"")
        self.done = False
        self.take(received)

    def take(self, data: bytes) -> None:
        """Take in *data*, which becomes pending. What follows the body is ignored.

        Raises:
            RequestError: if its chunked coding is broken.
        """
        if self._chunks is None:
            data = data[: self._left_bytes]
            self._left_bytes -= len(data)
            self.done = not self._left_bytes
        else:
            payload = self._chunks.feed(data)
            self.done = self._chunks.done
            data = (chunk(payload) if payload else b"") + (LAST_CHUNK if self.done else b"")
        self.pending = memoryview(data)

    @property
    def chunks(self) -> int:
        """How many chunks were taken in so far."""
        return 0 if self._chunks is None else self._chunks.chunks

    def abandon(self) -> None:
        """Send no more of it: nobody takes it."""
        self.pending = memoryview(b"")
        self.done = True


class StreamingUpload(Exchange):
    """One such exchange. Use `run` once.

    Args:
        engine: Drives the connections.
        client: Who asks.
        head: What for.
        received: The beginning of the body.
    """

    __slots__ = ("_buffer", "_framing", "_last", "_out", "_shaper", "_upload")

    def __init__(self, engine: Engine, client: Client, head: RequestHead, received: bytes) -> None:
        super().__init__(engine, client, head)
        self._tail = self._last = Tail()
        self._upload = Upload(head, received)
        self._buffer = b""  # the beginning of the head of the answer
        self._framing: ResponseFraming | None = None  # once the head is complete
        self._shaper: BodyEncoder | None = None
        self._out = memoryview(b"")  # of the answer, what the client has not taken yet

    async def run(self, backend: Backend) -> None:
        """Send request and answer; see `Exchange.run`.

        Raises:
            RequestTimeoutError: if the client stops sending before anything was answered.
            RequestError: if its body is malformed, and nothing was answered.
            RouterError: otherwise as there; a cut is raised as its reason.
            ClientGoneError: as there.
        """
        self._backend = backend
        upstream = await self._connect()
        try:
            await self._begin(upstream)
            await self._move(upstream)
        except (RouterError, FiberTimeoutError, FiberCutError) as exc:
            if not self.begun:
                raise self._in_words(exc) from None
            assert self._shaper is not None, "the answer has begun"
            await self._end_early(self._shaper, exc)
        finally:
            upstream.close()
            self._fiber.deadline_s = math.inf

    async def _begin(self, upstream: Upstream) -> None:
        head, upload = self._head, self._upload
        if head.expect_continue and not upload.pending:
            await self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        request = upstream_request_head(
            head,
            target=self.target,
            host=self._backend.authority,
            content_length=head.content_length,
            chunked=head.chunked,
            withheld=self.withheld,
        )
        self._fiber.expire_in(self.connection_timeout_s)
        upload.pending = memoryview(request + upload.pending)
        try:
            rest = await upstream.send(upload.pending, silence_s=self.read_timeout_s)
        except OSError as exc:
            if not upstream.connected:
                raise await self._explain(f"it does not accept connections: {exc}") from exc
            upload.abandon()
        else:
            upload.pending = memoryview(b"") if rest is None else rest

    async def _move(self, upstream: Upstream) -> None:
        """Move bytes both ways until the answer is complete, and the client has it."""
        client, chunks = self._client, 0
        while not self._is_over:
            if self._move_up(upstream) | await self._move_down(upstream):
                self._fiber.expire_in(self.read_timeout_s)
                before, chunks = chunks, self._chunks
                await self._fiber.spend(1 + (chunks - before) // CHUNKS_PER_PIECE)
                continue
            if client.gone:
                raise ClientGoneError
            await self._wait(upstream)

    @property
    def _chunks(self) -> int:
        """How many chunks were walked over so far, both ways."""
        return self._upload.chunks + (0 if self._framing is None else self._framing.chunks)

    @property
    def _is_over(self) -> bool:
        return self._framing is not None and self._framing.done and not self._out

    async def _wait(self, upstream: Upstream) -> None:
        upload, client = self._upload, self._client
        upstream.want = GONE | (0 if self._out else READABLE) | (WRITABLE if upload.pending else 0)
        client.want = GONE | (WRITABLE if self._out else 0)
        asks = not (upload.pending or upload.done)
        if asks:
            client.want |= READABLE
        if asks and not self.begun:
            self._fiber.expire_in(min(UPLOAD_TIMEOUT_S, self.read_timeout_s))
        try:
            await pause()
        except FiberTimeoutError:
            if asks and not self.begun:
                raise RequestTimeoutError(
                    f"nothing of the request body came for {UPLOAD_TIMEOUT_S:g} s"
                ) from None
            raise
        finally:
            client.want = upstream.want = 0

    def _move_up(self, upstream: Upstream) -> bool:
        """Move a piece of the request; return whether that was possible."""
        upload = self._upload
        if not upload.pending:
            if upload.done:
                return False
            data = self._client.receive_nowait()
            if data is None:
                return False
            if not data:
                raise ClientGoneError
            upload.take(data)
            return True
        try:
            sent = upstream.socket.send(upload.pending)
        except BlockingIOError:
            return False
        except OSError:
            upload.abandon()  # it may have answered before it closed; that is read next
            return True
        upload.pending = upload.pending[sent:]
        return True

    async def _move_down(self, upstream: Upstream) -> bool:
        """Move a piece of the answer; return whether that was possible."""
        if self._out:
            return self._send_out()
        if self._is_over or not upstream.readable:
            return False
        try:
            data = upstream.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            upstream.readable = False
            return False
        except OSError:
            data = b""
        if not data:
            if self._framing is None:
                raise await self._explain("it closed the connection without an answer")
            if not self._framing.eof():
                raise await self._explain("it closed the connection mid-answer")
            return True
        if self.first_byte_s is None:
            self.first_byte_s = self._engine.clock()
        if self._framing is None:
            self._take_head(data)
        else:
            self._take_body(b"", data)
        return True

    def _send_out(self) -> bool:
        client = self._client
        try:
            sent = client.socket.send(self._out)
        except BlockingIOError:
            return False
        except OSError as exc:
            raise ClientGoneError from exc
        self.begun = self._framing is not None  # interim answers are no beginning
        self._out = self._out[sent:]
        client.torn = bool(self._out)
        return True

    def _take_head(self, data: bytes) -> None:
        """Take in a piece of the answer's head, and what follows it."""
        self._buffer += data
        interim = b""
        while head := parse_response_head(self._buffer, request_method=self._head.method):
            self._buffer = self._buffer[head.size :]
            http10 = not self._head.version_minor
            if head.status >= HTTPStatus.OK:
                self.status = head.status
                self._framing = ResponseFraming(head)
                self._shaper = BodyEncoder(head, http10=http10)
                out = client_response_head(head, close=True, http10=http10, extra=self.extra)
                self._take_body(interim + out, self._buffer)
                return
            if head.status == HTTPStatus.SWITCHING_PROTOCOLS:
                raise UpstreamError("the backend switched protocols without being asked to")
            if head.status != HTTPStatus.CONTINUE and not http10:
                interim += client_response_head(head, close=False)
        self._out = memoryview(interim)

    def _take_body(self, before: bytes, data: bytes) -> None:
        framing, shaper = self._framing, self._shaper
        assert framing is not None, "the head was complete"
        assert shaper is not None, "the same"
        used = framing.feed(data)
        data = data[:used]
        self._last.add(data)
        self.sent_bytes += used
        self._out = memoryview(before + shaper.shape(data, framing.boundary))
