"""The server of the control plane: one request, one response, then the connection is closed.

The data plane has read the request's head and hands over the connection. `HTTPStream`, the
part of Hypercorn that runs an ASGI application for one request, receives that request and no
byte behind it; h11 frames the response. Bytes that follow the request are read and discarded,
for two reasons: a disconnect of the client is noticed at once, and no unread byte makes the
kernel reset the connection and destroy the response.

Hypercorn's own connection class is not used: it stops reading when bytes follow a request,
and then notices neither the disconnect nor the end of the response. `HTTPStream` is one level
below Hypercorn's public API; ``hypercorn==0.18.*`` is pinned for that reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.protocol.events import Body, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveCallable,
    ASGISendCallable,
    ConnectionState,
    LifespanState,
    Scope,
)
from hypercorn.utils import parse_socket_addr

from ...core.requests.control_request import ControlRequest
from ...core.requests.routes import decoded
from ...errors.admission import ShuttingDownError
from ...errors.base import RouterError
from ...errors.requests import RequestError
from ...logs.events import log

#: Longest time in which a client reads nothing of its response, in seconds; then it is given up.
WRITE_TIMEOUT_S: Final = 30.0

#: Time for the client to read the end of its response and close, in seconds.
LINGER_S: Final = 2.0

#: Most bytes that are discarded behind a request, and again after its response: as many as the
#: largest body has by default. A client that sends more is given up.
MAX_DISCARDED_BYTES: Final = 64 * 1024 * 1024

#: Time that a view gets after the client closed its sending side, in seconds. The client may
#: have disconnected or wait for its response; only a write would tell.
HALF_CLOSED_S: Final = 0.5

#: Time for a client to complete its body, or to read its response and close, once the router
#: drains, in seconds.
DRAINING_S: Final = 1.0

#: Size of one read, in bytes.
_READ_BYTES: Final = 64 * 1024

#: Exceptions of a connection that is broken or closed.
_DISCONNECTED: Final = (trio.BrokenResourceError, trio.ClosedResourceError)

#: Longest request, in seconds, unless its view calls `without_deadline`.
REQUEST_TIMEOUT_S: Final = 600.0

#: Key of an ASGI message that ends a body early. Its value is the `RouterError` that the view
#: gets when it reads the body.
BODY_ERROR: Final = "llama_router.body_error"

_STREAM_ID: Final = 1

_deadline: ContextVar[trio.CancelScope | None] = ContextVar("control_deadline", default=None)


def without_deadline() -> None:
    """Lift `REQUEST_TIMEOUT_S` for the current request.

    For views with deadlines of their own, and for streams: a write to a client that has
    disconnected fails, or times out after `WRITE_TIMEOUT_S`.
    """
    scope = _deadline.get()
    if scope is not None:
        scope.deadline = math.inf


class ControlServer:
    """Runs an ASGI application for requests that the data plane hands over."""

    def __init__(self, app: ASGIFramework) -> None:
        self._application = app
        self.app = ASGIWrapper(self._run_app)
        self.config = Config()
        self.config.accesslog = None  # a request could forge its lines; `app` logs instead
        self.config.errorlog = None
        self.config.include_server_header = False
        self.context = WorkerContext(None)
        self._draining = False
        self._waits: set[trio.CancelScope] = set()  # waits for clients

    def drain(self) -> None:
        """Shorten all waits for clients to `DRAINING_S`; complete requests are still answered."""
        self._draining = True
        for scope in self._waits:
            _shorten(scope)

    @contextmanager
    def waiting_for_client(self, timeout_s: float = math.inf) -> Iterator[trio.CancelScope]:
        """Cancel the block after *timeout_s*, or `DRAINING_S` after a drain has begun."""
        with trio.move_on_after(timeout_s) as scope:
            if self._draining:
                _shorten(scope)
            self._waits.add(scope)
            try:
                yield scope
            finally:
                self._waits.discard(scope)

    async def serve(
        self, stream: trio.SocketStream, request: ControlRequest, on_activity: Callable[[], None]
    ) -> None:
        """Answer *request* on *stream*, then close the stream.

        A client that breaks off or disconnects causes no exception. *on_activity* is called
        whenever bytes are received or sent.

        Raises:
            OSError: if the client had disconnected before the request was served.
        """
        await _Exchange(self, stream, request, on_activity).run()

    async def _run_app(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        try:
            await self._application(scope, receive, send)
        except* Exception:  # Hypercorn answers 500 and logs nothing
            log.exception("control.crashed", request_id=None)
            raise


def _shorten(wait: trio.CancelScope) -> None:
    """Let *wait* end within `DRAINING_S`."""
    wait.deadline = min(wait.deadline, trio.current_time() + DRAINING_S)


class _Exchange:
    """One request, its response, and the end of the connection."""

    def __init__(
        self,
        server: ControlServer,
        stream: trio.SocketStream,
        request: ControlRequest,
        on_activity: Callable[[], None],
    ) -> None:
        self._server = server
        self._stream = stream
        self._request = request
        self._on_activity = on_activity
        self._framing = _response_framing(request)
        self._reading = trio.CancelScope()
        self._ended = False  # the application has completed its response
        self._disconnected = False  # the client reads nothing more

    async def run(self) -> None:
        with trio.move_on_after(REQUEST_TIMEOUT_S) as scope:
            _deadline.set(scope)  # seen by this connection's task and its children only
            await self._serve()
        await self._linger()

    async def _serve(self) -> None:
        server, socket = self._server, self._stream.socket
        async with TaskGroup() as tasks:
            self._http = HTTPStream(
                server.app,
                server.config,
                server.context,
                tasks,
                ssl=False,
                client=parse_socket_addr(socket.family, socket.getpeername()),
                server=parse_socket_addr(socket.family, socket.getsockname()),
                send=self._send,
                stream_id=_STREAM_ID,
            )
            await self._begin()
            with self._reading:
                await self._receive()
            if not self._ended:
                self._log_unanswered()
                await self._http.handle(StreamClosed(stream_id=_STREAM_ID))

    async def _begin(self) -> None:
        request = self._request
        if request.expects_continue and not (request.received or request.body.done):
            await self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await self._http.handle(
            Request(
                stream_id=_STREAM_ID,
                headers=list(request.fields),
                http_version=request.version,
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=ConnectionState(LifespanState({})),
            )
        )

    def _log_unanswered(self) -> None:
        if self._framing.our_state is h11.SEND_RESPONSE:  # else the application has logged it
            path = decoded(self._request.target.partition(b"?")[0])
            log.debug("control.abandoned", method=self._request.method.decode(), path=path)

    # -- the request --------------------------------------------------------------------------

    async def _receive(self) -> None:
        """Pass the body on, then read until the client disconnects; cancelled by the response."""
        try:
            await self._receive_body()
            if not await self._discard():
                return
        except _DISCONNECTED:
            return
        await trio.sleep(HALF_CLOSED_S)

    async def _receive_body(self) -> None:
        try:
            with self._server.waiting_for_client() as in_time:
                await self._pass_body()
        except RequestError as exc:
            await self._fail_body(exc)
        else:
            if in_time.cancelled_caught:
                await self._fail_body(ShuttingDownError("the router is shutting down"))

    async def _pass_body(self) -> None:
        """Pass the body on as it is received.

        Raises:
            RequestError: if it is malformed or incomplete.
        """
        body, data = self._request.body, self._request.received
        while True:
            if payload := body.feed(data):
                await self._http.handle(Body(stream_id=_STREAM_ID, data=payload))
            if body.done:
                await self._http.handle(EndBody(stream_id=_STREAM_ID))
                return
            data = await self._read()
            if not data:
                raise RequestError("the connection ended in the middle of the request body")

    async def _fail_body(self, error: RouterError) -> None:
        """Let the view that reads the body raise *error*."""
        put: Any = self._http.app_put  # untyped: ASGI has no key `BODY_ERROR`
        await put({"type": "http.request", "body": b"", "more_body": False, BODY_ERROR: error})

    async def _discard(self) -> bool:
        """Read until the client closes its sending side.

        Returns:
            False if it sends more than `MAX_DISCARDED_BYTES`.
        """
        left_bytes = MAX_DISCARDED_BYTES
        while left_bytes > 0:
            data = await self._read()
            if not data:
                return True
            left_bytes -= len(data)
        return False

    async def _read(self) -> bytes:
        data = bytes(await self._stream.receive_some(_READ_BYTES))
        self._on_activity()
        return data

    # -- the response -------------------------------------------------------------------------

    async def _send(self, event: Event) -> None:
        """Send a part of the response; called by `HTTPStream`."""
        match event:
            case Response():
                fields = [*event.headers, *self._server.config.response_headers("h11")]
                await self._send_framed(h11.Response(status_code=event.status_code, headers=fields))
            case Body():
                await self._send_framed(h11.Data(data=event.data))
            case EndBody():
                await self._send_framed(h11.EndOfMessage())
            case StreamClosed():
                self._ended = True
                self._reading.cancel()
            case _:  # server push and early hints, which no view uses
                pass

    async def _send_framed(self, part: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        data = self._framing.send(part)
        if data:
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        if self._disconnected:
            await trio.lowlevel.checkpoint()
            return
        self._on_activity()
        try:
            with trio.move_on_after(WRITE_TIMEOUT_S) as in_time:
                await self._stream.send_all(data)
            self._disconnected = in_time.cancelled_caught
        except _DISCONNECTED:
            self._disconnected = True
        if self._disconnected:
            self._reading.cancel()

    async def _linger(self) -> None:
        """Close the connection after the client has had time to read its response.

        Closing a socket with unread bytes resets the connection and destroys a response that
        is still on its way. Source: RFC 9112, section 9.6.
        """
        if not self._disconnected:
            with self._server.waiting_for_client(LINGER_S), suppress(*_DISCONNECTED):
                await self._stream.send_eof()
                await self._discard()
        await trio.aclose_forcefully(self._stream)


def _response_framing(request: ControlRequest) -> h11.Connection:
    """Return the h11 connection that frames the response; it needs only the method and version."""
    connection = h11.Connection(h11.SERVER)
    line = b"%b / HTTP/%b\r\n" % (request.method, request.version.encode())
    connection.receive_data(line + b"host: router\r\n\r\n")
    while not isinstance(connection.next_event(), h11.EndOfMessage):
        pass
    return connection
