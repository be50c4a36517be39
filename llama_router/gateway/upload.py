"""A streaming upload: an exchange that passes the request on while it arrives.

For paths that contain the model's name, so that the body need not be parsed. Only one piece of
it is in memory: it may be of any size, and the backend may respond before it has all of it.
Both connections end with the exchange.
"""

from __future__ import annotations

import math
from typing import Final

from ..backends.upstream import Upstream
from ..errors.base import RouterError
from ..errors.requests import RequestTimeoutError
from ..http1 import (
    ChunkedBody,
    RequestHead,
    ResponseFraming,
    ResponseHeads,
    client_response_head,
)
from .backend_request import BackendRequest
from .body import LAST_CHUNK, BodyEncoder, chunk
from .exchange import FIRST_FINAL_STATUS, Exchange
from .loop.event_loop import EventLoop
from .loop.fiber import (
    CHUNKS_PER_PIECE,
    PEER_CLOSED,
    READABLE,
    WRITABLE,
    FiberCancelledError,
    FiberTimeoutError,
)
from .loop.pausing import pause
from .pump import Tail
from .silence import Silence
from .sockets import RECEIVE_BYTES, ClientGoneError, ClientSocket, UpstreamSocket

#: Longest silence of a client in the middle of its request, before the response has begun, in
#: seconds.
UPLOAD_TIMEOUT_S: Final = 60.0


class Upload:
    """The body of a request on its way to the backend. Sans-IO.

    Attributes:
        pending: The bytes to send next.
        done: The body is complete.
    """

    def __init__(self, head: RequestHead, received: bytes) -> None:
        self._chunks = ChunkedBody() if head.chunked else None
        self._left_bytes = head.content_length or 0
        self.pending = memoryview(b"")
        self.done = False
        self.take(received)

    def take(self, data: bytes) -> None:
        """Make *data* the pending bytes. Bytes after the body are ignored.

        Raises:
            RequestError: if its chunked coding is invalid.
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
        """Chunks received so far."""
        return 0 if self._chunks is None else self._chunks.chunks

    def abandon(self) -> None:
        """Drop the rest of the body: the backend does not read it."""
        self.pending = memoryview(b"")
        self.done = True


class StreamingUpload(Exchange):
    """An exchange that sends the request while it arrives. Use `run` once."""

    __slots__ = (
        "_body_tail",
        "_buffer",
        "_encoder",
        "_framing",
        "_heads",
        "_out",
        "_silence",
        "_upload",
    )

    def __init__(
        self, loop: EventLoop, client: ClientSocket, request: BackendRequest, received: bytes
    ) -> None:
        """Prepare the exchange.

        Args:
            loop: Runs the connections.
            client: The client's connection.
            request: The request; its body is not used.
            received: The part of the body that has arrived.
        """
        super().__init__(loop, client, request)
        self._tail = self._body_tail = Tail()
        self._upload = Upload(request.head, received)
        self._silence = Silence(request.read_timeout_s, request.keepalive_s)
        self._heads = ResponseHeads()
        self._buffer = b""  # the response's head while it is incomplete
        self._framing: ResponseFraming | None = None  # set once the head is complete
        self._encoder: BodyEncoder | None = None
        self._out = memoryview(b"")  # the part of the response that the client must get next

    async def run(self, backend: Upstream) -> None:
        """Send request and response; see `Exchange.run`.

        Raises:
            RequestTimeoutError: if the client stops sending before the response has begun.
            RequestError: if the body is malformed, and the response has not begun.
            RouterError: as there; a cancellation is raised as its reason.
            ClientGoneError: as there.
        """
        self._backend = backend
        upstream = await self._connect()
        try:
            await self._begin(upstream)
            await self._move(upstream)
        except (RouterError, FiberTimeoutError, FiberCancelledError) as exc:
            if not self._begun:
                raise self._as_router_error(exc) from None
            assert self._encoder is not None, "the response has begun"
            await self._end_early(self._encoder, exc)
        finally:
            upstream.close()
            self._fiber.deadline_s = math.inf

    async def _begin(self, upstream: UpstreamSocket) -> None:
        """Send the head, with the part of the body that has arrived."""
        head, upload = self._request.head, self._upload
        if head.expect_continue and not upload.pending:
            await self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        request_head = self._request_head(head.content_length, chunked=head.chunked)
        self._fiber.expire_in(self._request.connection_timeout_s)
        rest = await self._send_to(upstream, memoryview(request_head + upload.pending))
        if rest is None:
            upload.pending = memoryview(b"")
        elif rest:
            upload.pending = rest
        else:
            upload.abandon()

    async def _move(self, upstream: UpstreamSocket) -> None:
        """Move bytes both ways until the response is complete and sent to the client."""
        client, chunks = self._client, 0
        while not self._is_over:
            moved_up, moved_down = self._move_up(upstream), await self._move_down(upstream)
            if moved_up or moved_down:
                self._silence.broken()
                if moved_up or self._framing is not None:  # interim responses do not count
                    self._expire_in_time()
                before, chunks = chunks, self._chunks
                await self._fiber.yield_if_over_budget(1 + (chunks - before) // CHUNKS_PER_PIECE)
                continue
            if client.peer_closed:
                raise ClientGoneError
            await self._wait(upstream)

    @property
    def _chunks(self) -> int:
        """Chunks parsed so far, in both directions."""
        return self._upload.chunks + (0 if self._framing is None else self._framing.chunks)

    @property
    def _is_over(self) -> bool:
        return self._framing is not None and self._framing.done and not self._out

    async def _wait(self, upstream: UpstreamSocket) -> None:
        """Wait until one of the directions can move."""
        upload, client = self._upload, self._client
        upstream.interest = PEER_CLOSED
        upstream.interest |= (0 if self._out else READABLE) | (WRITABLE if upload.pending else 0)
        client.interest = PEER_CLOSED | (WRITABLE if self._out else 0)
        needs_body = not (upload.pending or upload.done)
        if needs_body:
            client.interest |= READABLE
        if needs_body and not self._begun:
            self._fiber.expire_in(min(UPLOAD_TIMEOUT_S, self._request.read_timeout_s))
        try:
            await pause()
        except FiberTimeoutError:
            if needs_body and not self._begun:
                raise RequestTimeoutError(
                    f"nothing of the request body came for {UPLOAD_TIMEOUT_S:g} s"
                ) from None
            if not self._keep_alive():
                raise
        finally:
            client.interest = upstream.interest = 0

    def _expire_in_time(self) -> None:
        """Set the deadline: for the next keepalive once the response moves, else for the end."""
        moves = self._framing is not None and not self._out
        self._fiber.expire_in(self._silence.next_s if moves else self._silence.limit_s)

    def _keep_alive(self) -> bool:
        """Send the client of a silent event stream a keepalive; return whether it may go on."""
        framing, encoder = self._framing, self._encoder
        if framing is None or encoder is None or self._out or not self._silence.step():
            return False
        keepalive = encoder.keepalive(self._body_tail.last(), between_chunks=framing.between_chunks)
        self._out = memoryview(keepalive)
        self._expire_in_time()
        return True

    def _move_up(self, upstream: UpstreamSocket) -> bool:
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
            upload.abandon()  # it may have responded before it closed; the next read shows it
            return True
        upload.pending = upload.pending[sent:]
        return True

    async def _move_down(self, upstream: UpstreamSocket) -> bool:
        """Move a piece of the response; return whether that was possible."""
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
        self._begun = self._framing is not None  # an interim response does not count
        self._out = self._out[sent:]
        client.mid_send = bool(self._out)
        return True

    def _take_head(self, data: bytes) -> None:
        """Process a piece of the response's head, and the bytes after it."""
        self._buffer += data
        interim = b""
        while head := self._parse_head(self._heads, self._buffer):
            self._buffer = self._buffer[head.size :]
            if head.status < FIRST_FINAL_STATUS:
                interim += self._interim_head(head)
                continue
            request = self._request
            http10 = not request.head.version_minor
            self.status = head.status
            self._framing = ResponseFraming(head)
            self._encoder = BodyEncoder(head, http10=http10)
            out = client_response_head(
                head, close=True, http10=http10, add_headers=self._added_fields(head)
            )
            self._take_body(interim + out, self._buffer)
            return
        self._out = memoryview(interim)

    def _take_body(self, before: bytes, data: bytes) -> None:
        """Process a piece of the body; *before* is sent before it."""
        framing, encoder = self._framing, self._encoder
        assert framing is not None, "the head is complete"
        assert encoder is not None, "set together with the framing"
        used = framing.feed(data)
        data = data[:used]
        if data and self.first_body_s is None:
            self.first_body_s = self._loop.clock()
        self._body_tail.add(data)
        self.sent_bytes += used
        self._out = memoryview(before + encoder.encode(data, framing.boundary))
