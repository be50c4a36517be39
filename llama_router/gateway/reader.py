"""Reads the requests of one client's connection: heads, and bodies that are kept in memory."""

from __future__ import annotations

import math
from typing import Final

import trio

from ..core.requests.body_budget import ROOM_TIMEOUT_S, BodyShare
from ..core.requests.body_overrides import cut_out, notices_in, without_notices
from ..core.requests.json_scan import FieldScanner
from ..core.requests.multipart import FormScanner
from ..core.requests.request_target import TARGET_FIELDS, field_scanner, form_scanner, needs_scan
from ..core.scheduling import refusals
from ..errors.requests import BodyTooLargeError, RequestTimeoutError
from ..http1 import ChunkedBody, RequestHead, RequestHeads
from .backend_request import RequestBody
from .loop.event_loop import EventLoop
from .loop.fiber import CHUNKS_PER_PIECE, PEER_CLOSED, READ_EVENTS, Fiber, FiberTimeoutError
from .loop.pausing import pause
from .sockets import RECEIVE_BYTES, ClientGoneError, ClientSocket

#: Time for which an idle connection is kept for the next request, in seconds.
IDLE_CONNECTION_S: Final = 75.0

#: Longest time from the first to the last byte of a request's head, in seconds.
HEAD_TIMEOUT_S: Final = 30.0

#: The same for the rest of a head or a body once draining has begun, in seconds: it is usually
#: on its way.
DRAINING_S: Final = 1.0

#: Longest time for the next `PROGRESS_BYTES` of a request's body, in seconds.
BODY_TIMEOUT_S: Final = 60.0

#: Bytes of a body that must arrive in that time, so that a trickle cannot occupy memory.
#: The slowest modem, and live speech, are several times as fast.
PROGRESS_BYTES: Final = 16 * 1024

#: Growth of a body's memory: this factor times the bytes that have arrived, within these
#: bounds in bytes. The largest step is a fraction of a millisecond of work.
GROWTH: Final = 4
FIRST_STEP_BYTES: Final = 16 * 1024
LAST_STEP_BYTES: Final = 1024 * 1024

#: Spare room after a body for the parameters that a model overrides, in bytes.
ROOM_BYTES: Final = 4096

#: Bytes after a request that do not begin another one: some clients send an empty line after
#: a body. Source: RFC 9112, section 2.2.
_NOTHING: Final = (b"", b"\r\n")

#: Source of the bytes that lengthen a body. Never written to, so it occupies no memory.
_ZEROS: Final = memoryview(bytes(LAST_STEP_BYTES + ROOM_BYTES))


class Reader:
    """Reads from one connection.

    Attributes:
        buffer: Received and unprocessed bytes: the head, then the start of the next request.
    """

    __slots__ = ("_client", "_draining", "_fiber", "_heads", "_idle", "_loop", "_share", "buffer")

    def __init__(
        self, loop: EventLoop, client: ClientSocket, idle: set[Fiber], draining: trio.Event
    ) -> None:
        """Read from *client*.

        Args:
            loop: Runs the connection.
            client: The connection.
            idle: Contains the connection's fiber while no complete request has arrived.
            draining: Set when no further request is accepted.
        """
        self._loop = loop
        self._client = client
        self._fiber = client.fiber
        self._idle = idle
        self._draining = draining
        self._heads = RequestHeads()
        self.buffer = b""
        self._share: BodyShare | None = None  # of the budget, for a body being received

    async def receive_head(self) -> RequestHead | None:
        """Return the next request's head; None if the client closed, or draining has begun."""
        if self.buffer in _NOTHING and not await self._wait_for_first_bytes():
            return None
        heads, buffer = self._heads, self.buffer
        head = heads.known(buffer) or heads.parse(buffer)
        if head is None:
            head = await self._receive_rest_of_head()
        if self._client.unsent is not None:  # the client did not wait for the last response
            await self._client.flush()
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
                        self._fiber.expire_in(DRAINING_S)
                    await self._client.wait_readable()
                if not data:
                    return None
                searched = len(self.buffer)
                self.buffer += data
                head = self._heads.parse(self.buffer, searched=searched)
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
            # A body may have ended with the bytes of its last edge: readable, but empty. Only
            # here, in the set of idle connections, is the fiber woken at shutdown.
            while (data := client.receive_nowait()) is None:
                if self._draining.is_set():
                    await client.flush()
                    return False
                client.interest = READ_EVENTS
                await pause()
                if client.unsent is not None:
                    await self._flush()
        finally:
            client.interest = 0
            self._idle.discard(self._fiber)
        self.buffer = data
        return bool(data)

    async def _flush(self) -> None:
        """Send the rest of the last response; the connection is not idle meanwhile."""
        self._client.interest = 0
        self._idle.discard(self._fiber)
        await self._client.flush()
        self._idle.add(self._fiber)
        self._fiber.expire_in(IDLE_CONNECTION_S)

    def take_body(self, head: RequestHead, limit_bytes: int) -> RequestBody | None:
        """Return the body if all of it has arrived, as nearly always; else None.

        A request without a body has a `RequestBody` without data.
        """
        length, start = head.content_length, head.size
        end = start + (length or 0)
        buffer = self.buffer
        if head.chunked or len(buffer) < end or end > limit_bytes:
            return None
        self.buffer = buffer[end:]
        return RequestBody(None if length is None else without_notices(buffer[start:end]))

    async def receive_body(
        self, head: RequestHead, limit_bytes: int, override_names: frozenset[str]
    ) -> RequestBody:
        """Return the complete body, decoded; the bytes after it stay in the buffer.

        It takes memory as it arrives, from the budget of all bodies, until it is released.

        Args:
            head: The request's head.
            limit_bytes: Largest body allowed.
            override_names: Names of the parameters that the configuration overrides.

        Raises:
            BodyTooLargeError: if it is over *limit_bytes*.
            BodiesFullError: if the bodies of other requests leave no room for it.
            RequestError: if it is malformed, or stops arriving.
            ShuttingDownError: if it stops arriving, and draining has begun.
            ClientGoneError: if the client left.
        """
        self._idle.add(self._fiber)
        try:
            return await self._receive_body(head, limit_bytes, override_names)
        except BaseException:
            if self._share is not None:
                self._share.give_back()
            raise
        finally:
            self._idle.discard(self._fiber)
            self._share = None

    async def _receive_body(
        self, head: RequestHead, limit_bytes: int, override_names: frozenset[str]
    ) -> RequestBody:
        received = self.buffer[head.size :]
        length = head.content_length
        if not head.chunked and not length:
            self.buffer = received
            return RequestBody(None if length is None else b"")
        if length is not None and length > limit_bytes:
            raise _too_large(limit_bytes)
        if length is not None and len(received) >= length:
            self.buffer = received[length:]
            return RequestBody(without_notices(received[:length]))
        self._share = self._loop.bodies.share(self._wake)
        body: bytes | bytearray
        try:
            await self._reserve(_first_bytes(received, length))
            if head.expect_continue and not received:
                await self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.buffer = b""
            content_type = head.get(b"content-type") or b""
            form = form_scanner(content_type)
            if length is not None:
                body = await self._receive_length(received, length, form)
            else:
                body = await self._receive_chunks(received, limit_bytes, form)
        except FiberTimeoutError:
            if self._draining.is_set():
                raise refusals.shutting_down() from None
            raise RequestTimeoutError(
                f"less than {PROGRESS_BYTES // 1024} KiB of the request body came within "
                f"{BODY_TIMEOUT_S:g} s"
            ) from None
        finally:
            self._fiber.deadline_s = math.inf
        scan: FormScanner | FieldScanner | None = form
        if form is not None:
            return RequestBody(body, scan=scan, share=self._share)
        cleared = await self._without_notices(body)
        scan = await self._scan(cleared, content_type, override_names)
        return RequestBody(cleared, scan=scan, share=self._share)

    async def _scan(
        self, body: bytes | bytearray, content_type: bytes, override_names: frozenset[str]
    ) -> FieldScanner | None:
        """Return the relevant parts of a large body; None for one that is decoded quickly."""
        if not needs_scan(body, has_overrides=bool(override_names)):
            return None
        return await self.scan_fields(body, content_type, override_names)

    async def scan_fields(
        self, body: bytes | bytearray, content_type: bytes, override_names: frozenset[str]
    ) -> FieldScanner | None:
        """Return the relevant fields of *body*; None if it is a form. Others run meanwhile."""
        scanner = field_scanner(body, content_type, TARGET_FIELDS | override_names)
        if scanner is not None:
            while not scanner.step():
                await self.yield_turn()
        return scanner

    async def _without_notices(self, body: bytes | bytearray) -> bytes | bytearray:
        spans: list[tuple[int, int]] = []
        for span in notices_in(body):
            if span is not None:
                spans.append(span)
            await self.yield_turn()
        return cut_out(body, spans)

    async def yield_turn(self) -> None:
        """Let the other fibers run."""
        self._loop.wake(self._fiber)
        await pause()

    def _wake(self) -> None:
        self._loop.wake(self._fiber)

    async def _reserve(self, size_bytes: int) -> None:
        """Reserve *size_bytes* more of the budget; wait if there is no room.

        Raises:
            BodiesFullError: if there was no room for `ROOM_TIMEOUT_S`.
            ClientGoneError: if the client left meanwhile.
        """
        share = self._share
        assert share is not None, "a body is being received"
        if share.take(size_bytes):
            return
        client, fiber = self._client, self._fiber
        fiber.expire_in(ROOM_TIMEOUT_S)
        client.interest = PEER_CLOSED
        try:
            while not share.take(size_bytes):
                if client.peer_closed:
                    raise ClientGoneError
                await pause()
        except FiberTimeoutError:
            raise refusals.no_room_for_body(ROOM_TIMEOUT_S) from None
        finally:
            client.interest = 0
        fiber.expire_in(BODY_TIMEOUT_S)

    async def _receive_length(
        self, received: bytes, length: int, form: FormScanner | None
    ) -> bytearray:
        # As long as its reservation; *at* is the end of the bytes that have arrived. The spare
        # room lets an override be inserted into a large body without moving all of it.
        at = len(received)
        size = _next_size(at, length)
        await self._reserve_total(size)
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
        """Lengthen *body*, to *length* at most."""
        size = len(body)
        new_size = _next_size(size, length)
        await self._reserve_total(new_size)
        body += _ZEROS[: new_size - size + ROOM_BYTES]
        del body[new_size:]

    async def _reserve_total(self, size_bytes: int) -> None:
        """Reserve *size_bytes* of the budget in total; otherwise as `_reserve`."""
        share = self._share
        assert share is not None, "a body is being received"
        if size_bytes > share.held_bytes:
            await self._reserve(size_bytes - share.held_bytes)

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
                await self._reserve(min(max(len(body), RECEIVE_BYTES), LAST_STEP_BYTES))
            data = await self._client.receive()
            if not data:
                raise ClientGoneError
            body += decoder.feed(data)
            if len(body) >= due:
                self._fiber.expire_in(BODY_TIMEOUT_S)
                due = len(body) + PROGRESS_BYTES
            if form is not None:
                await self._search(form, body, len(body))
            before, chunks = chunks, decoder.chunks
            await self._fiber.yield_if_over_budget(1 + (chunks - before) // CHUNKS_PER_PIECE)
        self.buffer = decoder.excess
        return body

    async def _search(self, form: FormScanner, body: bytearray, size_bytes: int) -> None:
        """Let *form* search the new bytes; the other fibers run meanwhile if these are many."""
        while not form.scan(body, size_bytes):
            await self.yield_turn()


def _next_size(size_bytes: int, length: int) -> int:
    """Return the next size of a body's memory, of which *size_bytes* are filled."""
    step_bytes = max(GROWTH * size_bytes, FIRST_STEP_BYTES)
    return min(size_bytes + min(step_bytes, LAST_STEP_BYTES), length)


def _first_bytes(received: bytes, length: int | None) -> int:
    """Return the first reservation of a body, before more of it is received."""
    first = max(FIRST_STEP_BYTES, len(received))
    return first if length is None else min(first, length)


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the request body is over {limit_bytes // (1024 * 1024)} MiB (max_body_mib)"
    )
