"""Moves a response's body from the backend to the client; the hot path of a stream.

Resuming a fiber costs as much as all other work for a chunk: eight coroutines that await one
another are entered and left again. So in the normal case, complete chunks and a client that
accepts them at once, the events of the backend's socket go to `Pump.on_events`, a plain
function. It receives and checks; `Pump.send_now` sends, after all sockets of that iteration were
read (`EventLoop.pending_sends`). For any other case (the end, an incomplete or malformed
chunk, a client that does not accept all) the fiber is resumed, and `Pump.run` handles it.
"""

from __future__ import annotations

from typing import Final

from ..core.apis.usage import HEAD_BYTES, TAIL_BYTES
from ..http1 import ResponseFraming, ResponseHead
from .body import BodyEncoder
from .loop.event_loop import EventLoop
from .loop.fiber import (
    CHUNKS_PER_PIECE,
    PEER_CLOSED,
    READ_EVENTS,
    READABLE,
    FiberTimeoutError,
)
from .loop.pausing import pause
from .silence import Silence
from .sockets import (
    RECEIVE_BYTES,
    SLOW_RECEIVE_BYTES,
    ClientGoneError,
    ClientSocket,
    UpstreamSocket,
)

#: Sizes of the pieces that `Tail` keeps uncopied, in bytes: nearly all events of a stream.
LEAST_PIECE_BYTES: Final = 128
MOST_PIECE_BYTES: Final = 512

#: Number of pieces that it keeps. The pieces after the first have at least `TAIL_BYTES`.
LEAST_PIECES: Final = 1 + TAIL_BYTES // LEAST_PIECE_BYTES
MOST_PIECES: Final = 2 * LEAST_PIECES


class BrokenOffError(Exception):
    """The backend closed its connection before the body was complete."""


class Tail:
    """The last bytes of a body, and the first ones.

    Attributes:
        pieces: Pieces that contain them, and some before; only `add` and `Pump.send_now` append.
    """

    __slots__ = ("_first", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []  # a deque is slower to create
        self._first: bytes | None = None  # once bytes are dropped; until then they are in `pieces`

    def add(self, data: bytes) -> None:
        """Append the next bytes, of any size."""
        pieces = self.pieces
        if not LEAST_PIECE_BYTES <= len(data) <= MOST_PIECE_BYTES:
            data = b"".join((*pieces, data))
            pieces.clear()
            if len(data) > TAIL_BYTES:
                self._keep_first(data)
                data = data[-TAIL_BYTES:]
        pieces.append(data)
        if len(pieces) > MOST_PIECES:
            self._keep_first(b"".join(pieces))
            del pieces[:-LEAST_PIECES]

    def _keep_first(self, data: bytes) -> None:
        if self._first is None:
            self._first = data[:HEAD_BYTES]

    def first(self) -> bytes:
        """Return the first bytes, `HEAD_BYTES` at most."""
        return b"".join(self.pieces)[:HEAD_BYTES] if self._first is None else self._first

    def last(self) -> bytes:
        """Return the last bytes, `TAIL_BYTES` at most."""
        return b"".join(self.pieces)[-TAIL_BYTES:]


class Pump:
    """Moves one body. Use `run` once.

    Attributes:
        begun: Bytes of the response were sent to the client.
        first_s: Clock time of the first byte of the body, in seconds; None before.
        moved_bytes: Bytes of the body, as the backend framed it, that were moved so far.
    """

    __slots__ = (
        "_client",
        "_encoder",
        "_error",
        "_fiber",
        "_framing",
        "_loop",
        "_pieces",
        "_receive",
        "_received",
        "_send",
        "_send_later",
        "_silence",
        "_silent_at_bytes",
        "_tail",
        "_take_whole_chunks",
        "_timeout_s",
        "_unsent",
        "_upstream",
        "begun",
        "first_s",
        "moved_bytes",
    )

    def __init__(
        self,
        loop: EventLoop,
        upstream: UpstreamSocket,
        client: ClientSocket,
        *,
        head: ResponseHead,
        encoder: BodyEncoder,
        tail: Tail,
        silence: Silence,
    ) -> None:
        """Prepare to move a body from *upstream* to *client*.

        Args:
            loop: Runs both.
            upstream: The source.
            client: The sink.
            head: The head of the response; already sent, or a part of `run`'s *out*.
            encoder: Encodes the body for the client.
            tail: Receives a copy of the body's end.
            silence: The silence of the backend; between its events keepalives are sent.
        """
        self._loop = loop
        self._send_later = loop.pending_sends.append
        self._upstream = upstream
        self._client = client
        self._fiber = client.fiber
        self._framing = ResponseFraming(head)
        self._encoder = encoder
        self._silence = silence
        self._silent_at_bytes = 0  # `moved_bytes` at the last step of the silence
        self._timeout_s = silence.step_s
        self._take_whole_chunks = self._framing.take_whole_chunks
        self._tail = tail
        self._pieces = tail.pieces
        self._receive = upstream.socket.recv
        self._send = client.send_some
        self._received: bytes | None = None  # received by `on_events`, for the fiber to handle
        self._unsent = b""  # the rest that the client did not accept
        self._error: Exception | None = None  # raised in the fiber
        self.begun = False
        self.first_s: float | None = None
        self.moved_bytes = 0

    async def run(self, out: bytes, data: bytes) -> bool:
        """Move the body until it is complete; return whether surplus bytes followed it.

        Args:
            out: Bytes to send before it.
            data: The part of it that has arrived.

        Raises:
            BrokenOffError: if the backend closed before its end.
            UpstreamError: if it is malformed.
            ClientGoneError: if the client left.
        """
        client, fiber, framing, chunks = self._client, self._fiber, self._framing, 0
        while True:
            size = len(data)
            if size and self.first_s is None:
                self.first_s = self._loop.clock()
            used = framing.feed(data)
            if used < size:
                data = data[:used]
            self._tail.add(data)
            self.moved_bytes += used
            encoded = self._encoder.encode(data, framing.boundary)
            if out or encoded:
                self.begun = True
                await client.send(out + encoded if out else encoded)
                out = b""
            if framing.done:
                return used < size
            if size >= SLOW_RECEIVE_BYTES:
                await fiber.yield_if_over_budget(1 + (framing.chunks - chunks) // CHUNKS_PER_PIECE)
                chunks = framing.chunks
            data = await (self._next_in_time() if self._silence.has_steps else self._next())
            fiber.expire_in(self._silence.limit_s)
            if not data:
                if framing.eof():
                    return False
                raise BrokenOffError

    async def _next_in_time(self) -> bytes:
        """Wait for bytes as `_next` does; send keepalives meanwhile.

        Raises:
            FiberTimeoutError: if the backend was silent for too long, or the client stuck.
        """
        silence, client = self._silence, self._client
        silence.broken()
        while True:
            self._fiber.expire_in(silence.next_s)
            try:
                return await self._next()
            except FiberTimeoutError:
                if client.mid_send:
                    raise
                if self.moved_bytes != self._silent_at_bytes:
                    self._silent_at_bytes = self.moved_bytes
                    silence.broken()
                if not silence.step():
                    raise
            self._fiber.expire_in(silence.limit_s)
            keepalive = self._encoder.keepalive(
                self._tail.last(), between_chunks=self._framing.between_chunks
            )
            if keepalive:
                await client.send(keepalive)

    async def _next(self) -> bytes:
        """Wait for bytes that `on_events` does not handle, and return them; empty at the end."""
        upstream, client = self._upstream, self._client
        if self._needs_fiber():
            return await upstream.receive()
        self._loop.set_handler(upstream, self.on_events)
        try:
            while not client.peer_closed:
                upstream.interest = READABLE | PEER_CLOSED
                client.interest = PEER_CLOSED
                await pause()
                if self._error is not None:
                    raise self._error
                if self._received is not None:
                    received, self._received = self._received, None
                    return received
                if self._unsent:
                    upstream.interest = client.interest = 0
                    unsent, self._unsent = self._unsent, b""
                    self._fiber.expire_in(self._silence.limit_s)
                    await client.send_rest(memoryview(unsent))
                    self._fiber.expire_in(self._timeout_s)
                if self._needs_fiber():
                    return await upstream.receive()
        finally:
            self._loop.set_handler(upstream, upstream.on_events)
            upstream.interest = client.interest = 0
        raise ClientGoneError

    def _needs_fiber(self) -> bool:
        normal = self._framing.between_chunks and self._encoder.passes_through
        return self._upstream.readable or self._client.slow or not normal

    def on_events(self, events: int) -> None:
        """Receive, and queue complete chunks for the end of this iteration; else resume the fiber.

        This and `send_now` run once for each chunk of a stream: tenths of a microsecond count.
        """
        upstream = self._upstream
        if events & READ_EVENTS != READABLE or not upstream.interest:
            upstream.on_events(events)
            return
        try:
            receive = self._receive
            data = receive(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if len(data) == RECEIVE_BYTES:
            upstream.readable = True  # a short read emptied it, a full one perhaps not
        try:
            take_whole_chunks = self._take_whole_chunks
            if not upstream.readable and take_whole_chunks(data):
                send_later = self._send_later
                send_later((self, data))
                return
            self._received = data
        except Exception as exc:  # noqa: BLE001 -- it is raised in the fiber
            self._error = exc
        self._fiber.resume()

    def send_now(self, data: bytes) -> None:
        """Send *data*; resume the fiber if the client does not accept all of it."""
        if not self._upstream.interest:
            return  # the client closed in this iteration, and the fiber handled it
        size = len(data)
        sent = 0
        try:
            pieces = self._pieces
            if LEAST_PIECE_BYTES <= size <= MOST_PIECE_BYTES and len(pieces) < MOST_PIECES:
                pieces.append(data)
            else:
                self._tail.add(data)
            if self.first_s is None:
                self.first_s = self._loop.now_s
            self.moved_bytes += size
            send = self._send
            sent = send(data)
        except BlockingIOError:
            pass
        except OSError:
            self._error = ClientGoneError()
        except Exception as exc:  # noqa: BLE001 -- it is raised in the fiber
            self._error = exc
        if sent == size:
            # An assignment is enough to extend a deadline: see `Fiber.check_deadline`.
            self._fiber.deadline_s = self._loop.now_s + self._timeout_s
            return
        self._unsent = data[sent:]
        self._fiber.resume()
