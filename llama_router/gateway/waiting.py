"""The wait of a request for its model, and the stream that begins before it ends.

A client that asked for an event stream gets one before there is a backend: notices, or at
least keepalives. From then on the answer is the router's: status 200, chunked. The answer of
the backend is put into it later (`body.continued`), and so is an error.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Final

import attrs

from ..backends.backend import Backend
from ..core.access.gate import Caller
from ..core.apis.dialect import StreamDialect, StreamInfo
from ..core.apis.notices import NOTIFY_FIELD, WaitReporter, redact_wait, wants_notices
from ..core.apis.registry import APIS
from ..core.config.names import ModelId
from ..core.scheduling.waits import Wait
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.lease import Lease
from ..errors.base import RouterError
from ..http1 import RequestHead
from .body import LAST_CHUNK, chunk
from .loop.channel import GONE
from .loop.engine import Engine
from .loop.fiber import ENDING_S, FiberTimeoutError, pause
from .sockets import Client, ClientGoneError

_NOTIFY_FIELD: Final = NOTIFY_FIELD.encode()


class EarlyStream:
    """An event stream that begins before there is a backend.

    Attributes:
        dialect: The form of its events.
        begun: Its head was sent.
        sent_bytes: Length of the events that it sent.
    """

    __slots__ = ("_client", "_close", "_fields", "begun", "dialect", "sent_bytes")

    def __init__(
        self,
        client: Client,
        dialect: StreamDialect,
        *,
        fields: Sequence[tuple[bytes, bytes]],
        close: bool,
    ) -> None:
        self.dialect = dialect
        self.begun = False
        self.sent_bytes = 0
        self._client = client
        self._fields = fields
        self._close = close

    async def send(self, events: bytes, *, timeout_s: float) -> None:
        """Send *events*, and the head before the first ones.

        Raises:
            ClientGoneError: if the client left, or takes nothing for *timeout_s* seconds.
        """
        head, self.begun = b"" if self.begun else self._head(), True
        self.sent_bytes += len(events)
        await self._send(head + chunk(events), timeout_s)

    async def end(self, error: RouterError) -> None:
        """Send *error* as the last event, and the end.

        Raises:
            ClientGoneError: as in `send`.
        """
        if self._client.torn:
            raise ClientGoneError
        await self._send(chunk(self.dialect.error(error)) + LAST_CHUNK, ENDING_S)

    def _head(self) -> bytes:
        fields = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),  # as llama-server says; else nginx would collect
            *self._fields,
            (b"transfer-encoding", b"chunked"),
        ]
        if self._close:
            fields.append((b"connection", b"close"))
        return b"HTTP/1.1 200 OK\r\n%b\r\n" % b"".join(b"%b: %b\r\n" % f for f in fields)

    async def _send(self, data: bytes, timeout_s: float) -> None:
        self._client.fiber.expire_in(timeout_s)
        try:
            await self._client.send(data)
        except FiberTimeoutError:
            raise ClientGoneError from None
        finally:
            self._client.fiber.deadline_s = math.inf


@attrs.define(eq=False, kw_only=True)
class Waiting:
    """One request that was not granted at once.

    Attributes:
        engine: Drives its connection.
        dispatcher: Grants its lease.
        client: Its connection.
        head: Its head.
        name: Name of the model in notices: as the client wrote it, or that of the preset.
        caller: Sender; decides which names of models the notices may contain.
        stream: Whether its body asks for a stream; None if its answer must not begin early.
        fields: For the head of the answer.
        close: Whether its connection ends with the answer.
        early: Set once the answer has begun.
    """

    engine: Engine
    dispatcher: Dispatcher
    client: Client
    head: RequestHead
    name: str
    caller: Caller
    stream: bool | None
    fields: Sequence[tuple[bytes, bytes]]
    close: bool
    early: EarlyStream | None = None

    async def granted(self, lease: Lease, model: ModelId) -> Backend:
        """Wait for the backend, but not for longer than the client does.

        Raises:
            ClientGoneError: if the client left.
            AdmissionError: if the request is refused.
            BackendError: if the backend cannot be brought up.
        """
        stream = self._stream()
        if stream is not None:
            return await self._report_until_granted(stream, lease, model)
        backend = await self.engine.in_trio(
            self.client.fiber, lease.granted, unless_gone=self.client
        )
        if backend is None:
            raise ClientGoneError
        return backend

    def _stream(self) -> EarlyStream | None:
        """Return the stream that can begin early, if the request is for one."""
        head = self.head
        if self.stream is None or not head.version_minor:
            return None
        if head.method == b"HEAD" or head.upgrade:
            return None
        accept = head.get(b"accept") or b""
        path = head.path.decode("ascii", "replace")
        api = APIS.api_of_requested_stream(path, stream=self.stream, accept=accept)
        if api is None:
            return None
        info = StreamInfo(
            id=f"chatcmpl-{secrets.token_hex(12)}",
            created_s=time.time(),
            model=self.name,
            path=path,
        )
        return EarlyStream(
            self.client, StreamDialect(api, info), fields=self.fields, close=self.close
        )

    def _wants_notices(self, model: ModelId) -> bool:
        field = (self.head.get(_NOTIFY_FIELD) or b"").decode("ascii", "replace")
        return wants_notices(field, self.dispatcher.config.models.get(model))

    async def _report_until_granted(
        self, stream: EarlyStream, lease: Lease, model: ModelId
    ) -> Backend:
        engine, fiber = self.engine, self.client.fiber
        notices = self._wants_notices(model)
        reporter = WaitReporter(stream.dialect, notices=notices, now_s=engine.now_s)
        waits_for = partial(self._waits_for, lease)
        with self.dispatcher.waits.watch(lease, model, partial(engine.wake, fiber)):
            while (backend := lease.granted_nowait()) is None:
                if self.client.gone:
                    raise ClientGoneError
                if events := reporter.about(waits_for, now_s=engine.now_s):
                    await self._send(stream, events)
                else:
                    await self._pause(reporter.due_s - engine.now_s)
        if events := reporter.granted(str(model)):
            await self._send(stream, events)
        return backend

    def _waits_for(self, lease: Lease) -> Wait | None:
        return redact_wait(lease.waits_for(), self.caller, self.dispatcher.config.models)

    async def _send(self, stream: EarlyStream, events: bytes) -> None:
        self.early = stream
        await stream.send(events, timeout_s=self.dispatcher.config.router.read_timeout_s)

    async def _pause(self, timeout_s: float) -> None:
        """Wait for a change of the wait, the end of the client, or *timeout_s* seconds."""
        client = self.client
        client.fiber.expire_in(timeout_s)
        client.want = GONE
        try:
            await pause()
        except FiberTimeoutError:
            pass  # as it should be
        finally:
            client.want = 0
            client.fiber.deadline_s = math.inf
