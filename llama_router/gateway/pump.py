"""Moves a body from the backend to the client, chunk by chunk; the hot loop of a stream.

Resuming a fiber costs as much as all else that is done for a chunk: eight coroutines that
await one another are entered, and left again. So while a body is in its usual course, an
event of the backend's socket goes to `Pump.note` instead, a plain function, and what it
received is sent by another one, when all of that round was received (see `Engine.sends`). As
soon as anything is unusual (the end, a cut or malformed chunk, a client that does not take
all) the fiber is resumed, and `Pump.run` looks at what came.
"""

from __future__ import annotations

from typing import Final

from ..core.apis.usage import TAIL_BYTES
from ..http1 import ResponseFraming, ResponseHead
from .body import BodyEncoder
from .loop.channel import GONE, READABLE, TELLING
from .loop.engine import Engine
from .loop.fiber import CHUNKS_PER_PIECE, pause
from .sockets import RECEIVE_BYTES, SLOW_RECEIVE_BYTES, Client, ClientGoneError, Upstream

#: Sizes of the pieces that `Tail` keeps as they are, in bytes: those of nearly all events of
#: a stream.
LEAST_PIECE_BYTES: Final = 128
MOST_PIECE_BYTES: Final = 512

#: How many pieces it keeps. However long the first one is, the others are `TAIL_BYTES`.
LEAST_PIECES: Final = 1 + TAIL_BYTES // LEAST_PIECE_BYTES
MOST_PIECES: Final = 2 * LEAST_PIECES


class BrokenOffError(Exception):
    """The backend closed its connection before the body was complete."""


class Tail:
    """The last bytes of a body.

    Attributes:
        pieces: Those that hold them, and some before; `add` says how they come here.
    """

    __slots__ = ("pieces",)

    def __init__(self) -> None:
        self.pieces: list[bytes] = []  # a deque takes longer to make

    def add(self, data: bytes) -> None:
        """Take in what comes next, of any size."""
        pieces = self.pieces
        if not LEAST_PIECE_BYTES <= len(data) <= MOST_PIECE_BYTES:
            data = (self.last() + data)[-TAIL_BYTES:]
            pieces.clear()
        pieces.append(data)
        if len(pieces) > MOST_PIECES:
            del pieces[:-LEAST_PIECES]

    def last(self) -> bytes:
        """Return at most `TAIL_BYTES`."""
        return b"".join(self.pieces)[-TAIL_BYTES:]


class Pump:
    """Moves one body. Use `run` once.

    Attributes:
        begun: The client has got a part of it.
        moved_bytes: Bytes of it, as the backend framed it, that were moved so far.
    """

    __slots__ = (
        "_client",
        "_engine",
        "_error",
        "_fiber",
        "_framing",
        "_give",
        "_pieces",
        "_receive",
        "_received",
        "_send_later",
        "_shaper",
        "_tail",
        "_timeout_s",
        "_unsent",
        "_upstream",
        "_whole",
        "begun",
        "moved_bytes",
    )

    def __init__(
        self,
        engine: Engine,
        upstream: Upstream,
        client: Client,
        *,
        head: ResponseHead,
        shaper: BodyEncoder,
        tail: Tail,
        timeout_s: float,
    ) -> None:
        """Move a body from *upstream* to *client*.

        Args:
            engine: Drives both.
            upstream: Where it comes from.
            client: Where it goes.
            head: Its head, which was sent already or is a part of what `run` is to send.
            shaper: What to make of it.
            tail: Gets all of it.
            timeout_s: Longest silence, in seconds.
        """
        self._engine = engine
        self._send_later = engine.sends.append
        self._upstream = upstream
        self._client = client
        self._fiber = client.fiber
        self._framing = ResponseFraming(head)
        self._shaper = shaper
        self._timeout_s = timeout_s
        self._whole = self._framing.whole
        self._tail = tail
        self._pieces = tail.pieces
        self._receive = upstream.socket.recv
        self._give = client.socket.send
        self._received: bytes | None = None  # what `resume` did not move
        self._unsent = b""  # the end of what it moved, which the client did not take
        self._error: Exception | None = None  # what it ran into
        self.begun = False
        self.moved_bytes = 0

    async def run(self, out: bytes, data: bytes) -> bool:
        """Move the body until it is complete; return whether surplus bytes followed it.

        Args:
            out: What to send before it.
            data: Its beginning, as far as it is here.

        Raises:
            BrokenOffError: if the backend closed too early.
            UpstreamError: if it is malformed.
            ClientGoneError: if the client left.
        """
        client, fiber, framing, chunks = self._client, self._fiber, self._framing, 0
        while True:
            size = len(data)
            used = framing.feed(data)
            if used < size:
                data = data[:used]
            self._tail.add(data)
            self.moved_bytes += used
            shaped = self._shaper.shape(data, framing.boundary)
            if out or shaped:
                self.begun = True
                await client.send(out + shaped if out else shaped)
                out = b""
            if framing.done:
                return used < size
            if size >= SLOW_RECEIVE_BYTES:
                await fiber.spend(1 + (framing.chunks - chunks) // CHUNKS_PER_PIECE)
                chunks = framing.chunks
            data = await self._next()
            fiber.expire_in(self._timeout_s)
            if not data:
                if framing.eof():
                    return False
                raise BrokenOffError

    async def _next(self) -> bytes:
        """Wait for bytes that need a closer look, and return them; empty at the end."""
        upstream, client = self._upstream, self._client
        if self._is_unusual():
            return await upstream.receive()
        self._engine.tell(upstream, self.note)
        try:
            while not client.gone:
                upstream.want = READABLE | GONE
                client.want = GONE
                await pause()
                if self._error is not None:
                    raise self._error
                if self._received is not None:
                    received, self._received = self._received, None
                    return received
                if self._unsent:
                    upstream.want = client.want = 0
                    unsent, self._unsent = self._unsent, b""
                    await client.send_rest(memoryview(unsent))
                    self._fiber.expire_in(self._timeout_s)
                if self._is_unusual():
                    return await upstream.receive()
        finally:
            self._engine.tell(upstream, upstream.note)
            upstream.want = client.want = 0
        raise ClientGoneError

    def _is_unusual(self) -> bool:
        usual = self._framing.between_chunks and self._shaper.passing
        return self._upstream.readable or self._client.slow or not usual

    def note(self, events: int) -> None:
        """Receive what came. If it is all as usual, it is sent at the end of this round.

        For each chunk of each stream this and `send` are called once, so they count tenths
        of microseconds.
        """
        upstream = self._upstream
        if events & TELLING != READABLE or not upstream.want:
            upstream.note(events)
            return
        try:
            receive = self._receive
            data = receive(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if len(data) == RECEIVE_BYTES:
            upstream.readable = True  # a short read has emptied it, a full one maybe not
        try:
            whole = self._whole
            if not upstream.readable and whole(data):
                send_later = self._send_later
                send_later((self, data))
                return
            self._received = data
        except Exception as exc:  # noqa: BLE001 -- it is raised in the fiber
            self._error = exc
        self._fiber.resume()

    def send(self, data: bytes) -> None:
        """Send what `note` received; let the fiber see to what the client does not take."""
        if not self._upstream.want:
            return  # the client left in this round, and the fiber has seen it
        size = len(data)
        sent = 0
        try:
            pieces = self._pieces
            if LEAST_PIECE_BYTES <= size <= MOST_PIECE_BYTES and len(pieces) < MOST_PIECES:
                pieces.append(data)
            else:
                self._tail.add(data)
            self.moved_bytes += size
            give = self._give
            sent = give(data)
        except BlockingIOError:
            pass
        except OSError:
            self._error = ClientGoneError()
        except Exception as exc:  # noqa: BLE001 -- it is raised in the fiber
            self._error = exc
        if sent == size:
            # To put a deadline off, this is enough: see `Fiber.tick`.
            self._fiber.deadline_s = self._engine.now_s + self._timeout_s
            return
        self._unsent = data[sent:]
        self._fiber.resume()
