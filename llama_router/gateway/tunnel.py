"""Two connections as one, once both sides have switched to a protocol of their own."""

from __future__ import annotations

from .loop.channel import GONE, READABLE, WRITABLE, Channel
from .loop.fiber import pause
from .sockets import RECEIVE_BYTES, Client, ClientGoneError, Upstream


class _Way:
    """One direction: what was received from *source* and not yet sent to *sink*.

    Attributes:
        ended: The source has closed, and the sink has got everything.
        moved_bytes: Sent so far.
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
            OSError: if a side broke off.
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

    def set_wants(self) -> None:
        """Say which events would let it move on."""
        if self._pending:
            self._sink.want |= WRITABLE
        else:
            self._source.want |= READABLE | GONE


async def tunnel(
    client: Client, upstream: Upstream, pending: bytes, *, idle_timeout_s: float
) -> int:
    """Move bytes both ways until one side has ended; return how many went to the client.

    What the side that ended has sent is delivered. Backpressure goes each way by itself: a
    side that takes nothing holds up nobody but its peer.

    Args:
        client: One side.
        upstream: The other.
        pending: What was received from *upstream* already.
        idle_timeout_s: Longest silence of both sides, in seconds.

    Raises:
        ClientGoneError: if a side broke off; both are to be closed.
        FiberTimeoutError: if both were silent for too long.

    Source: RFC 9110, section 7.8. WebSocket has a closing handshake of its own and does
    without half-closed connections: RFC 6455, section 7.1.1.
    """
    down = _Way(upstream, client, pending)
    up = _Way(client, upstream, b"")
    while not (down.ended or up.ended):
        try:
            moved = [way.move() for way in (down, up)]
        except OSError as exc:
            raise ClientGoneError from exc
        if any(moved):
            client.fiber.expire_in(idle_timeout_s)
            await client.fiber.spend()
            continue
        down.set_wants()
        up.set_wants()
        try:
            await pause()
        finally:
            client.want = upstream.want = 0
    return down.moved_bytes
