"""Reads the requests of one client's connection: heads, and bodies that are wanted whole."""

from __future__ import annotations

import math
from typing import Final

import trio

from ..core.requests.body_budget import ROOM_TIMEOUT_S, BodyShare
from ..core.requests.json_scan import FieldScanner
from ..core.requests.multipart import FormScanner
from ..core.requests.request_target import TARGET_FIELDS, field_scanner, form_scanner, needs_scan
from ..core.scheduling import refusals
from ..errors.requests import BodyTooLargeError, RequestTimeoutError
from ..http1 import ChunkedBody, RequestHead, parse_request_head
from .loop.channel import GONE
from .loop.engine import Engine
from .loop.fiber import CHUNKS_PER_PIECE, Fiber, FiberTimeoutError, pause
from .sockets import RECEIVE_BYTES, Client, ClientGoneError

#: How long an idle connection is kept for the next request, in seconds.
IDLE_CONNECTION_S: Final = 75.0

#: How long a request's head may take from its first byte, in seconds.
HEAD_TIMEOUT_S: Final = 30.0

#: How long the rest of a head may take once draining has begun, in seconds: it is usually on
#: its way.
DRAINING_HEAD_S: Final = 1.0

#: How long the next `PROGRESS_BYTES` of a request's body may take, in seconds.
BODY_TIMEOUT_S: Final = 60.0

#: So much of a body must come in that time: a trickle cannot keep what has come in memory.
#: The slowest modem, and speech while it is spoken, are several times as fast.
PROGRESS_BYTES: Final = 16 * 1024

#: By how much the memory of a body grows: by so many times what has come, within these bounds
#: in bytes. The most is a fraction of a millisecond of work.
GROWTH: Final = 4
FIRST_STEP_BYTES: Final = 16 * 1024
LAST_STEP_BYTES: Final = 1024 * 1024

#: Room that is kept behind a body for what shaping puts into it, in bytes.
ROOM_BYTES: Final = 4096

#: What may be left behind a request that is not the beginning of another one: some
#: clients send an empty line behind a body. Source: RFC 9112, section 2.2.
_NOTHING: Final = (b"", b"\r\n")

#: What a body is made longer with. Never written to, so that it takes no memory itself.
_ZEROS: Final = memoryview(bytes(LAST_STEP_BYTES + ROOM_BYTES))


class Reader:
    """What arrives on one connection.

    Attributes:
        buffer: Received, and not used yet: the head, then the beginning of the next request.
        scanner: Has scanned the body of the current request, if that was necessary.
    """

    __slots__ = (
        "_client",
        "_draining",
        "_engine",
        "_fiber",
        "_idle",
        "_share",
        "buffer",
        "scanner",
    )

    def __init__(
        self, engine: Engine, client: Client, idle: set[Fiber], draining: trio.Event
    ) -> None:
        """Read from *client*.

        Args:
            engine: Drives it.
            client: The connection.
            idle: Has its fiber while no whole head of a request is here.
            draining: Set when there is to be none any more.
        """
        self._engine = engine
        self._client = client
        self._fiber = client.fiber
        self._idle = idle
        self._draining = draining
        self.buffer = b""
        self.scanner: FormScanner | FieldScanner | None = None
        self._share: BodyShare | None = None  # what the current body holds of the budget

    async def receive_head(self) -> RequestHead | None:
        """Return the next request's head, or None if there is none."""
        if self.buffer in _NOTHING and not await self._wait_for_first_bytes():
            return None
        head = parse_request_head(self.buffer)
        if head is None:
            head = await self._receive_rest_of_head()
        self._fiber.deadline_s = math.inf
        return head

    async def _receive_rest_of_head(self) -> RequestHead | None:
        self._fiber.expire_in(HEAD_TIMEOUT_S)
        self._idle.add(self._fiber)
        head: RequestHead | None = None
        draining = False
        try:
            while head is None:
                while (data := self._client.receive_nowait()) is None:
                    if self._draining.is_set() and not draining:
                        draining = True
                        self._fiber.expire_in(DRAINING_HEAD_S)
                    await self._client.wait_readable()
                if not data:
                    return None
                searched = len(self.buffer)
                self.buffer += data
                head = parse_request_head(self.buffer, searched=searched)
        except FiberTimeoutError:
            if draining:
                return None
            raise RequestTimeoutError(
                f"the request head did not arrive within {HEAD_TIMEOUT_S:g} s"
            ) from None
        finally:
            self._idle.discard(self._fiber)
        return head

    async def _wait_for_first_bytes(self) -> bool:
        client = self._client
        self._fiber.expire_in(IDLE_CONNECTION_S)
        self._idle.add(self._fiber)
        try:
            # A body may have ended with the bytes of its last edge: readable, with nothing to
            # read. Only here, as an idle connection, is it woken at shutdown.
            while (data := client.receive_nowait()) is None:
                if self._draining.is_set():
                    return False
                await client.wait_readable()
        finally:
            self._idle.discard(self._fiber)
        self.buffer = data
        return bool(data)

    def take_body(self, head: RequestHead, limit_bytes: int) -> tuple[bool, bytes | None]:
        """Return whether the body is here completely, as nearly always, and the body if so.

        None is no body. Then `receive_body` need not be called.
        """
        self.scanner = None
        length, start = head.content_length, head.size
        end = start + (length or 0)
        buffer = self.buffer
        if head.chunked or len(buffer) < end or end > limit_bytes:
            return False, None
        self.buffer = buffer[end:]
        return True, None if length is None else buffer[start:end]

    async def receive_body(
        self, head: RequestHead, limit_bytes: int, touched: frozenset[str]
    ) -> bytes | bytearray | None:
        """Return the whole body, decoded; the bytes behind it go to the buffer.

        It takes memory as it comes, out of the budget of all bodies, until `let_go`.

        Raises:
            BodyTooLargeError: if it is over *limit_bytes*.
            BodiesFullError: if the bodies of other requests leave no room for it.
            RequestError: if it is malformed, or stops arriving.
            ClientGoneError: if the client left.
        """
        received = self.buffer[head.size :]
        length = head.content_length
        if not head.chunked and not length:
            self.buffer = received
            return None if length is None else b""
        if length is not None and length > limit_bytes:
            raise _too_large(limit_bytes)
        if length is not None and len(received) >= length:
            self.buffer = received[length:]
            return received[:length]
        self._share = self._engine.bodies.share(self._wake)
        try:
            await self._claim(_first_bytes(received, length))
            if head.expect_continue and not received:
                await self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.buffer = b""
            content_type = head.get(b"content-type") or b""
            self.scanner = form = form_scanner(content_type)
            if length is not None:
                body = await self._receive_length(received, length, form)
            else:
                body = await self._receive_chunks(received, limit_bytes, form)
        except FiberTimeoutError:
            raise RequestTimeoutError(
                f"less than {PROGRESS_BYTES // 1024} KiB of the request body came within "
                f"{BODY_TIMEOUT_S:g} s"
            ) from None
        finally:
            self._fiber.deadline_s = math.inf
        if form is None:
            self.scanner = await self.scan(body, content_type, touched)
        return body

    def let_go(self) -> None:
        """Say that the body's memory is not needed any more; safe to call at any time."""
        self.scanner = None  # which may have the body
        if self._share is not None:
            self._share.give_back()
            self._share = None

    async def scan(
        self, body: bytes | bytearray, content_type: bytes, touched: frozenset[str]
    ) -> FieldScanner | None:
        """Return the scanner of a large body, done; None for a body that a decoder may take."""
        if not needs_scan(body, has_overrides=bool(touched)):
            return None
        scanner = field_scanner(body, content_type, TARGET_FIELDS | touched)
        if scanner is not None:
            while not scanner.step():
                await self.pass_on()
        return scanner

    async def pass_on(self) -> None:
        """Let others have their turns."""
        self._engine.wake(self._fiber)
        await pause()

    def _wake(self) -> None:
        self._engine.wake(self._fiber)

    async def _claim(self, size_bytes: int) -> None:
        """Take *size_bytes* more of the budget, maybe after a wait.

        Raises:
            BodiesFullError: if there was no room for too long.
            ClientGoneError: if the client left meanwhile.
        """
        share = self._share
        assert share is not None, "a body is being received"
        if share.take(size_bytes):
            return
        client, fiber = self._client, self._fiber
        fiber.expire_in(ROOM_TIMEOUT_S)
        client.want = GONE
        try:
            while not share.take(size_bytes):
                if client.gone:
                    raise ClientGoneError
                await pause()
        except FiberTimeoutError:
            raise refusals.no_room_for_body(ROOM_TIMEOUT_S) from None
        finally:
            client.want = 0
        fiber.expire_in(BODY_TIMEOUT_S)

    async def _receive_length(
        self, received: bytes, length: int, form: FormScanner | None
    ) -> bytearray:
        # As long as what was claimed for it; *at* is where that ends which has come. Room behind
        # it: what is put into a large one must not move all of it elsewhere.
        at = len(received)
        size = _next_size(at, length)
        await self._claim_in_all(size)
        body = bytearray(size + ROOM_BYTES)
        del body[size:]
        body[:at] = received
        self._fiber.expire_in(BODY_TIMEOUT_S)
        due = at + PROGRESS_BYTES
        while at < length:
            if at == len(body):
                await self._grow(body, length)
            with memoryview(body)[at:] as rest:
                size = await self._client.receive_into(rest)
            if not size:
                raise ClientGoneError
            at += size
            if at >= due:
                self._fiber.expire_in(BODY_TIMEOUT_S)
                due = at + PROGRESS_BYTES
            if form is not None:
                await self._search(form, body, at)
        return body

    async def _grow(self, body: bytearray, length: int) -> None:
        """Make *body* longer, but not longer than *length*."""
        size = len(body)
        new_size = _next_size(size, length)
        await self._claim_in_all(new_size)
        body += _ZEROS[: new_size - size + ROOM_BYTES]
        del body[new_size:]

    async def _claim_in_all(self, size_bytes: int) -> None:
        """Hold *size_bytes* of the budget at least; otherwise as `_claim`."""
        share = self._share
        assert share is not None, "a body is being received"
        if size_bytes > share.held_bytes:
            await self._claim(size_bytes - share.held_bytes)

    async def _receive_chunks(
        self, received: bytes, limit_bytes: int, form: FormScanner | None
    ) -> bytearray:
        share, decoder = self._share, ChunkedBody(limit_bytes)
        assert share is not None, "a body is being received"
        body = bytearray(decoder.feed(received))
        self._fiber.expire_in(BODY_TIMEOUT_S)
        due, chunks = len(body) + PROGRESS_BYTES, 0
        while not decoder.done:
            if len(body) + RECEIVE_BYTES > share.held_bytes:
                await self._claim(min(max(len(body), RECEIVE_BYTES), LAST_STEP_BYTES))
            data = await self._client.receive()
            if not data:
                raise ClientGoneError
            body += decoder.feed(data)
            if len(body) >= due:
                self._fiber.expire_in(BODY_TIMEOUT_S)
                due = len(body) + PROGRESS_BYTES
            if form is not None:
                await self._search(form, body, len(body))
            await self._fiber.spend(1 + (decoder.chunks - chunks) // CHUNKS_PER_PIECE)
            chunks = decoder.chunks
        self.buffer = decoder.excess
        return body

    async def _search(self, form: FormScanner, body: bytearray, size_bytes: int) -> None:
        """Let *form* scan what is new; other connections are served where that is much."""
        while not form.scan(body, size_bytes):
            await self.pass_on()


def _next_size(size_bytes: int, length: int) -> int:
    """Return how long the memory of a body becomes that has filled *size_bytes*."""
    step_bytes = max(GROWTH * size_bytes, FIRST_STEP_BYTES)
    return min(size_bytes + min(step_bytes, LAST_STEP_BYTES), length)


def _first_bytes(received: bytes, length: int | None) -> int:
    """Return what a body claims before anything more of it is received."""
    first = max(FIRST_STEP_BYTES, len(received))
    return first if length is None else min(first, length)


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the request body is over {limit_bytes // (1024 * 1024)} MiB (max_body_mib)"
    )
