"""WebSocket: the handshake with a backend, and the tunnel after both sides have switched."""

from __future__ import annotations

import contextlib

from ..dispatch.lease import Lease
from ..errors.admission import ShuttingDownError
from ..errors.backends import ModelUnloadedError
from ..errors.base import RouterError
from ..http1 import ResponseHead, client_response_head
from .buffered_exchange import BufferedExchange
from .exchange import FAILURES, SWITCHING_PROTOCOLS
from .loop.fiber import (
    CHUNKS_PER_PIECE,
    ENDING_S,
    PEER_CLOSED,
    READABLE,
    WRITABLE,
    Channel,
    FiberTimeoutError,
)
from .loop.pausing import pause
from .sockets import (
    RECEIVE_BYTES,
    SLOW_RECEIVE_BYTES,
    ClientGoneError,
    ClientSocket,
    UpstreamSocket,
)
from .websocket import GOING_AWAY, INTERNAL_ERROR, FrameTracker, close_frame


class HandshakeExchange(BufferedExchange):
    """An exchange that may end in a tunnel; its connection to the backend serves nothing else.

    A backend that refused a handshake may take the next bytes on that connection for something
    other than a request, and never respond. So the connection is not kept afterwards, and no
    handshake uses a kept connection.
    """

    __slots__ = ()

    def _kept_connection(self) -> None:
        return None

    async def _respond(self, upstream: UpstreamSocket, head: ResponseHead, data: bytes) -> bool:
        if head.status == SWITCHING_PROTOCOLS:
            await self._tunnel(upstream, head, data)
        else:
            await super()._respond(upstream, head, data)
        return False

    async def _tunnel(self, upstream: UpstreamSocket, head: ResponseHead, data: bytes) -> None:
        request = self._request
        close = request.close or not request.head.keep_alive
        out = client_response_head(head, close=close, add_headers=request.add_headers)
        self.status = head.status
        self._begun = True
        tunnel = Tunnel(self._client, upstream, data, lease=request.lease)
        try:
            await self._client.send(out)
            await tunnel.run(idle_timeout_s=request.read_timeout_s)
            if tunnel.cut_by_backend:
                error = await self._explain("it closed the WebSocket without a close frame")
                if self._backend.gone.is_set():
                    raise error
        except FAILURES as exc:
            self.error = error = self._as_router_error(exc)
            await tunnel.close(error)
        finally:
            self.sent_bytes = tunnel.sent_bytes


class _Direction:
    """One direction: bytes received from *source* and not yet sent to *sink*.

    Attributes:
        ended: The source has closed, and all bytes were sent to the sink.
        moved_bytes: Bytes sent so far.
        frames: Follows the frames that were received.
        has_data: Bytes of data frames came since this was last reset.
    """

    def __init__(self, source: Channel, sink: Channel, pending: bytes) -> None:
        self._source = source
        self._sink = sink
        self._pending = memoryview(pending)
        self.ended = False
        self.moved_bytes = 0
        self.frames = FrameTracker()
        self.has_data = self.frames.feed(pending)

    def move(self) -> bool:
        """Receive or send one piece; return whether that was possible.

        Raises:
            ClientGoneError: if the client's connection failed.
        """
        if not self._pending:
            return self._receive()
        try:
            sent = self._sink.socket.send(self._pending)
        except BlockingIOError:
            return False
        except OSError:
            _raise_if_client(self._sink)
            sent = len(self._pending)  # what the backend sent before that is still to be read
        self._pending = self._pending[sent:]
        self.moved_bytes += sent
        return True

    def _receive(self) -> bool:
        if not self._source.readable:
            return False
        # Many small frames take long to follow; a large one has no headers in it.
        large = self.frames.left_bytes >= RECEIVE_BYTES
        try:
            data = self._source.socket.recv(RECEIVE_BYTES if large else SLOW_RECEIVE_BYTES)
        except BlockingIOError:
            self._source.readable = False
            return False
        except OSError:
            _raise_if_client(self._source)
            data = b""
        self.ended = not data
        self.has_data |= self.frames.feed(data)
        self._pending = memoryview(data)
        return True

    def set_interest(self) -> None:
        """Add the events that allow the next move to the interest of both channels."""
        if self._pending:
            self._sink.interest |= WRITABLE
        else:
            self._source.interest |= READABLE | PEER_CLOSED

    def with_ending(self, ending: bytes) -> bytes:
        """Return the bytes not sent yet, and *ending*; nothing if it cannot follow them."""
        if self.frames.closed or not self.frames.between_frames:
            return b""
        return bytes(self._pending) + ending


def _raise_if_client(failed: Channel) -> None:
    if isinstance(failed, ClientSocket):
        raise ClientGoneError


class Tunnel:
    """The tunnel between a client and a backend that have switched to WebSocket.

    Args:
        client: One side.
        upstream: The other side.
        pending: Bytes that were received from *upstream* already.
        lease: Holds the model while the client sends data; None if the tunnel needs no lease.
    """

    def __init__(
        self, client: ClientSocket, upstream: UpstreamSocket, pending: bytes, *, lease: Lease | None
    ) -> None:
        self._client = client
        self._upstream = upstream
        self._lease = lease
        self._down = _Direction(upstream, client, pending)
        self._up = _Direction(client, upstream, b"")

    @property
    def sent_bytes(self) -> int:
        """Bytes sent to the client so far."""
        return self._down.moved_bytes

    @property
    def cut_by_backend(self) -> bool:
        """Whether the backend closed its connection without a close frame of either side."""
        closed = self._down.frames.closed or self._up.frames.closed
        return self._down.ended and not closed

    async def run(self, *, idle_timeout_s: float) -> None:
        """Move bytes both ways until one side has ended.

        All bytes that the ended side sent are delivered. Each direction has its own
        backpressure: a side that reads nothing stops only its peer.

        Args:
            idle_timeout_s: Longest silence of both sides, in seconds.

        Raises:
            ClientGoneError: if the client's connection failed.
            FiberTimeoutError: if both were silent for too long.

        Source: RFC 9110, section 7.8. WebSocket has its own closing handshake and uses no
        half-closed connections: RFC 6455, section 7.1.1.
        """
        client, upstream, down, up = self._client, self._upstream, self._down, self._up
        while not (down.ended or up.ended):
            frames = down.frames.frames + up.frames.frames
            moved = [direction.move() for direction in (down, up)]
            if up.has_data:
                up.has_data = False
                if self._lease is not None:
                    self._lease.client_sent()
            if any(moved):
                client.fiber.expire_in(idle_timeout_s)
                frames = down.frames.frames + up.frames.frames - frames
                await client.fiber.yield_if_over_budget(1 + frames // CHUNKS_PER_PIECE)
                continue
            down.set_interest()
            up.set_interest()
            try:
                await pause()
            finally:
                client.interest = upstream.interest = 0

    async def close(self, error: RouterError) -> None:
        """Send the client a close frame for *error*, unless a frame is incomplete. Best effort."""
        going = isinstance(error, ModelUnloadedError | ShuttingDownError)
        frame = close_frame(GOING_AWAY if going else INTERNAL_ERROR, error.code)
        ending = self._down.with_ending(frame)
        if not ending or self._client.mid_send:
            return
        self._client.fiber.expire_in(ENDING_S)
        with contextlib.suppress(ClientGoneError, FiberTimeoutError):
            await self._client.send(ending)
