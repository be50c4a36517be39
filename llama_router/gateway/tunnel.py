"""WebSocket: the handshake with a backend, and the tunnel after both sides have switched."""

from __future__ import annotations

from ..http1 import ResponseHead, client_response_head
from .body import BodyEncoder
from .exchange import FAILURES, SWITCHING_PROTOCOLS, BufferedExchange
from .loop.fiber import PEER_CLOSED, READABLE, WRITABLE, Channel, pause
from .sockets import RECEIVE_BYTES, ClientGoneError, ClientSocket, UpstreamSocket


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
        self._status = head.status
        self._begun = True
        try:
            await self._client.send(out)
            self._sent_bytes = await tunnel(
                self._client, upstream, data, idle_timeout_s=request.read_timeout_s
            )
        except FAILURES as exc:
            await self._end_early(BodyEncoder(head, http10=False), exc)


class _Direction:
    """One direction: bytes received from *source* and not yet sent to *sink*.

    Attributes:
        ended: The source has closed, and all bytes were sent to the sink.
        moved_bytes: Bytes sent so far.
    """

    def __init__(self, source: Channel, sink: Channel, pending: bytes) -> None:
        self._source = source
        self._sink = sink
        self._pending = memoryview(pending)
        self.ended = False
        self.moved_bytes = 0

    def move(self) -> bool:
        """Receive or send one piece; return whether that was possible.

        Raises:
            OSError: if a connection failed.
        """
        if not self._pending:
            return self._receive()
        try:
            sent = self._sink.socket.send(self._pending)
        except BlockingIOError:
            return False
        self._pending = self._pending[sent:]
        self.moved_bytes += sent
        return True

    def _receive(self) -> bool:
        if not self._source.readable:
            return False
        try:
            data = self._source.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            self._source.readable = False
            return False
        self.ended = not data
        self._pending = memoryview(data)
        return True

    def set_interest(self) -> None:
        """Add the events that allow the next move to the interest of both channels."""
        if self._pending:
            self._sink.interest |= WRITABLE
        else:
            self._source.interest |= READABLE | PEER_CLOSED


async def tunnel(
    client: ClientSocket, upstream: UpstreamSocket, pending: bytes, *, idle_timeout_s: float
) -> int:
    """Move bytes both ways until one side has ended; return the number sent to the client.

    All bytes that the ended side sent are delivered. Each direction has its own backpressure:
    a side that reads nothing stops only its peer.

    Args:
        client: One side.
        upstream: The other side.
        pending: Bytes that were received from *upstream* already.
        idle_timeout_s: Longest silence of both sides, in seconds.

    Raises:
        ClientGoneError: if a connection failed; both are to be closed.
        FiberTimeoutError: if both were silent for too long.

    Source: RFC 9110, section 7.8. WebSocket has its own closing handshake and uses no
    half-closed connections: RFC 6455, section 7.1.1.
    """
    down = _Direction(upstream, client, pending)
    up = _Direction(client, upstream, b"")
    while not (down.ended or up.ended):
        try:
            moved = [direction.move() for direction in (down, up)]
        except OSError as exc:
            raise ClientGoneError from exc
        if any(moved):
            client.fiber.expire_in(idle_timeout_s)
            await client.fiber.yield_if_over_budget()
            continue
        down.set_interest()
        up.set_interest()
        try:
            await pause()
        finally:
            client.interest = upstream.interest = 0
    return down.moved_bytes
