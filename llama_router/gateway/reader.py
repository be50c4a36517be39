"""Reads the requests of one client's connection: heads, and bodies that are wanted whole."""

from __future__ import annotations

import math
from typing import Final

import trio

from ..core.requests.json_scan import Skim
from ..core.requests.multipart import FormSearch
from ..core.requests.request_target import ASKED, SKIMMED_BYTES, form_search, skim_of
from ..errors.requests import BodyTooLargeError, RequestTimeoutError
from ..http1 import ChunkedBody, RequestHead, parse_request_head
from .loop.engine import Engine
from .loop.fiber import Fiber, FiberTimeoutError, pause
from .sockets import Client, ClientGoneError

#: How long an idle connection is kept for the next request, in seconds.
IDLE_CONNECTION_S: Final = 75.0

#: How long a request's head may take from its first byte, in seconds.
HEAD_TIMEOUT_S: Final = 30.0

#: How long the rest of a head may take once draining has begun, in seconds: it is usually on
#: its way.
DRAINING_HEAD_S: Final = 1.0

#: Longest silence while a request's body is received, in seconds.
BODY_TIMEOUT_S: Final = 60.0

#: Room that is kept behind a body for what shaping puts into it, in bytes.
ROOM_BYTES: Final = 4096

#: What may be left behind a request that is not the beginning of another one: some
#: clients send an empty line behind a body. Source: RFC 9112, section 2.2.
_NOTHING: Final = (b"", b"\r\n")


class Reader:
    """What arrives on one connection.

    Attributes:
        buffer: Received, and not used yet: the head, then the beginning of the next request.
        seen: What has looked into the current request's body while it arrived.
    """

    __slots__ = ("_client", "_draining", "_engine", "_fiber", "_idle", "buffer", "seen")

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
        self.seen: FormSearch | Skim | None = None

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
        self.seen = None
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

        Raises:
            BodyTooLargeError: if it is over *limit_bytes*.
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
        if head.expect_continue and not received:
            await self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.buffer = b""
        content_type = head.get(b"content-type") or b""
        self.seen = form = form_search(content_type)
        try:
            if length is not None:
                body = await self._receive_length(received, length, form)
            else:
                body = await self._receive_chunks(received, limit_bytes, form)
        except FiberTimeoutError:
            raise RequestTimeoutError(
                f"nothing of the request body came for {BODY_TIMEOUT_S:g} s"
            ) from None
        finally:
            self._fiber.deadline_s = math.inf
        if form is None and len(body) > SKIMMED_BYTES:
            self.seen = await self._skim(body, content_type, touched)
        return body

    async def _skim(
        self, body: bytearray, content_type: bytes, touched: frozenset[str]
    ) -> Skim | None:
        """Return what matters in a large body, if that can be told; others have their turns."""
        skim = skim_of(body, content_type, ASKED | touched)
        if skim is None:
            return None
        while not skim.go_on():
            self._engine.wake(self._fiber)
            await pause()
        return None if skim.lost else skim

    async def _receive_length(
        self, received: bytes, length: int, form: FormSearch | None
    ) -> bytearray:
        # Memory that is not written to yet costs nothing, so nobody can claim it by a head.
        # Room behind it: what is put into a large one must not move all of it elsewhere.
        body = bytearray(length + ROOM_BYTES)
        del body[length:]
        at = len(received)
        body[:at] = received
        with memoryview(body) as view:
            while at < length:
                self._fiber.expire_in(BODY_TIMEOUT_S)
                with view[at:] as rest:
                    size = await self._client.receive_into(rest)
                if not size:
                    raise ClientGoneError
                at += size
                if form is not None:
                    form.look(body, at)
        return body

    async def _receive_chunks(
        self, received: bytes, limit_bytes: int, form: FormSearch | None
    ) -> bytearray:
        decoder = ChunkedBody(limit_bytes)
        body = bytearray(decoder.feed(received))
        while not decoder.done:
            self._fiber.expire_in(BODY_TIMEOUT_S)
            data = await self._client.receive()
            if not data:
                raise ClientGoneError
            body += decoder.feed(data)
            if form is not None:
                form.look(body, len(body))
            await self._fiber.spend()
        self.buffer = decoder.excess
        return body


def _too_large(limit_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the request body is over {limit_bytes // (1024 * 1024)} MiB (max_body_mib)"
    )
