"""The wait of a request for its backend, and the stream that its client gets meanwhile.

A client that asked for an event stream gets one before the backend is granted: notices, or at
least keepalives. From then on the response is the router's: status 200, chunked, or without an
end for an HTTP/1.0 client. The backend's response is inserted into it later
(`body.encoder_for_stream`), and so is an error.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

import attrs

from ..backends.upstream import Upstream
from ..core.access.caller import Caller
from ..core.apis.dialect import StreamDialect, StreamInfo
from ..core.apis.event_stream import NOT_BUFFERED
from ..core.apis.notices import NOTIFY_FIELD, WaitReporter, redact_wait, wants_notices
from ..core.apis.registry import APIS
from ..core.config.names import ModelId
from ..core.scheduling.waits import Wait
from ..dispatch.conversations import WaitingStream
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.lease import Lease
from ..errors.base import RouterError
from ..http1 import RequestHead
from .body import LAST_CHUNK, chunk
from .loop.event_loop import EventLoop
from .loop.fiber import ENDING_S, PEER_CLOSED, FiberTimeoutError
from .loop.pausing import pause
from .sockets import ClientGoneError, ClientSocket

_NOTIFY_FIELD: Final = NOTIFY_FIELD.encode()


class EarlyStream:
    """A response that may begin before the backend's does.

    Attributes:
        dialect: The API of the stream.
        begun: Its head was sent.
        events_bytes: Length of the events sent so far, in bytes.
        record: The wait of a resumable stream, which keeps what is sent; None for others.
        in_chunks: Its body is chunked; else it ends with the connection.
        closes: The client's connection ends with it.
    """

    __slots__ = (
        "_add_headers",
        "_client",
        "begun",
        "closes",
        "dialect",
        "events_bytes",
        "in_chunks",
        "record",
    )

    def __init__(
        self,
        client: ClientSocket,
        dialect: StreamDialect,
        *,
        add_headers: Sequence[tuple[bytes, bytes]],
        close: bool,
        http10: bool = False,
    ) -> None:
        """Prepare a response.

        Args:
            client: The client's connection.
            dialect: The API of the stream.
            add_headers: Fields to add.
            close: The client's connection ends with it.
            http10: The client uses HTTP/1.0, and so reads no chunks.
        """
        self.dialect = dialect
        self.begun = False
        self.events_bytes = 0
        self.record: WaitingStream | None = None
        self.in_chunks = not http10
        self.closes = close or http10
        self._client = client
        self._add_headers = add_headers

    async def send(self, events: bytes, *, timeout_s: float) -> None:
        """Send *events*, with the head before the first ones.

        Raises:
            ClientGoneError: if the client left, or reads nothing for *timeout_s* seconds.
        """
        head, self.begun = b"" if self.begun else self._head(), True
        self.events_bytes += len(events)
        if self.record is not None:
            self.record.say(events)
        await self._send(head + (chunk(events) if self.in_chunks else events), timeout_s)

    async def end(self, error: RouterError) -> None:
        """Send *error* as the last event, and end the stream.

        Raises:
            ClientGoneError: as in `send`.
        """
        if self._client.mid_send:
            raise ClientGoneError
        event = self.dialect.error(error)
        await self._send(chunk(event) + LAST_CHUNK if self.in_chunks else event, ENDING_S)

    def _head(self) -> bytes:
        fields = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache"),
            NOT_BUFFERED,
            *self._add_headers,
        ]
        if self.in_chunks:
            fields.append((b"transfer-encoding", b"chunked"))
        if self.closes:
            fields.append((b"connection", b"close"))
        return b"HTTP/1.1 200 OK\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % field for field in fields)

    async def _send(self, data: bytes, timeout_s: float) -> None:
        self._client.fiber.expire_in(timeout_s)
        try:
            await self._client.send(data)
        except FiberTimeoutError:
            raise ClientGoneError from None
        finally:
            self._client.fiber.deadline_s = math.inf


def early_stream(
    client: ClientSocket,
    head: RequestHead,
    *,
    model_name: str,
    stream: bool | None,
    add_headers: Sequence[tuple[bytes, bytes]],
    close: bool,
) -> EarlyStream | None:
    """Return the response that may begin early; None if the request asks for no event stream.

    Args:
        client: The client's connection.
        head: The request's head.
        model_name: The model's name in the response: the requested one, or its preset's.
        stream: The body asks for a stream; None if the response must not begin early.
        add_headers: Fields to add to the response.
        close: The client's connection ends with the response.
    """
    if stream is None or head.method == b"HEAD":
        return None
    accept = head.get(b"accept") or b""
    path = head.path.decode("ascii", "replace")
    api = APIS.api_of_requested_stream(path, stream=stream, accept=accept)
    if api is None:
        return None
    info = StreamInfo(
        id=f"chatcmpl-{secrets.token_hex(12)}",
        created_s=time.time(),
        model=model_name,
        path=path,
    )
    http10 = not head.version_minor
    return EarlyStream(
        client, StreamDialect(api, info), add_headers=add_headers, close=close, http10=http10
    )


@attrs.define(eq=False, kw_only=True)
class RequestWait:
    """The wait of one request that was not granted at once. Use `run` once.

    Attributes:
        loop: Runs its connection.
        dispatcher: Grants the backend.
        client: The client's connection.
        head: The request's head.
        caller: Determines which models notices may name.
        early: The response, if it may begin before the wait is over, or has begun during an
            earlier one.
        reporter: Decides what its client gets meanwhile; None before the wait.
    """

    loop: EventLoop
    dispatcher: Dispatcher
    client: ClientSocket
    head: RequestHead
    caller: Caller
    early: EarlyStream | None
    reporter: WaitReporter | None = attrs.field(default=None, init=False)

    async def run(self, lease: Lease, model: ModelId) -> Upstream:
        """Return the backend once it is granted; stop waiting when the client leaves.

        Raises:
            ClientGoneError: if the client left.
            AdmissionError: if the request is refused.
            BackendError: if the backend cannot be brought up.
        """
        if self.early is not None:
            return await self._wait_with_events(self.early, lease, model)
        backend = await self.loop.run_in_trio(
            self.client.fiber, lease.granted, unless_closed=self.client
        )
        if backend is None:
            raise ClientGoneError
        return backend

    def _wants_notices(self, model: ModelId) -> bool:
        field = (self.head.get(_NOTIFY_FIELD) or b"").decode("ascii", "replace")
        return wants_notices(field, self.dispatcher.config.models.get(model))

    async def _wait_with_events(
        self, stream: EarlyStream, lease: Lease, model: ModelId
    ) -> Upstream:
        loop, fiber = self.loop, self.client.fiber
        notices = self._wants_notices(model)
        self.reporter = reporter = WaitReporter(stream.dialect, notices=notices, now_s=loop.now_s)
        waits_for = partial(self._waits_for, lease)
        with self.dispatcher.waits.watch(lease, model, partial(loop.wake, fiber)):
            while (backend := lease.granted_nowait()) is None:
                if self.client.peer_closed:
                    raise ClientGoneError
                if events := reporter.about(waits_for, now_s=loop.now_s):
                    await self._send(stream, events)
                else:
                    await self._pause(reporter.due_s - loop.now_s)
        if events := reporter.granted(str(model)):
            await self._send(stream, events)
        return backend

    def _waits_for(self, lease: Lease) -> Wait | None:
        return redact_wait(lease.waits_for(), self.caller, self.dispatcher.config.models)

    async def _send(self, stream: EarlyStream, events: bytes) -> None:
        await stream.send(events, timeout_s=self.dispatcher.config.router.read_timeout_s)

    async def _pause(self, timeout_s: float) -> None:
        """Wait until the state of the wait changes, the client closes, or a keepalive is due."""
        client = self.client
        client.fiber.expire_in(timeout_s)
        client.interest = PEER_CLOSED
        try:
            await pause()
        except FiberTimeoutError:
            pass  # a keepalive is due
        finally:
            client.interest = 0
            client.fiber.deadline_s = math.inf
