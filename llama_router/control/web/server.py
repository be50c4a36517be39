"""Serves the control plane: one request, one answer, the end of the connection.

The data plane has read the request's head and knows how its body ends. `HTTPStream`, the part
of Hypercorn that runs an ASGI application for one request, gets exactly this message; h11
frames the answer. What the client sends behind the message is read and thrown away meanwhile,
so that its leaving is always seen, and so that no unread byte resets the answer away.

Hypercorn's own connections are not used: they stop reading when bytes follow a request, and
then neither its answer nor its end is seen to. `HTTPStream` is one level below Hypercorn's
public API: ``hypercorn==0.18.*`` is pinned for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final

import h11
import structlog
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

log = structlog.get_logger()

#: A client that takes nothing of its answer for so long is given up, in seconds.
WRITE_TIMEOUT_S: Final = 30.0

#: How long a client may take to read its answer and close, once all of it is sent, in seconds.
LINGER_S: Final = 2.0

#: Most that is thrown away of what a client sends behind its request, and again of what it
#: sends when it is answered, in bytes: as much as the largest body by default. A client that
#: sends more is given up.
MAX_DISCARDED_BYTES: Final = 64 * 1024 * 1024

#: How long a view may go on for a client that closed its sending side, in seconds. It may have
#: left, or wait for its answer; only sending would tell.
HALF_CLOSED_S: Final = 0.5

#: How long a client may take to complete its body, or to read its answer and close, once
#: draining has begun, in seconds.
DRAINING_S: Final = 1.0

#: What is read at a time, in bytes.
_READ_BYTES: Final = 64 * 1024

#: What a connection raises that is no more.
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)

#: Longest control request, in seconds, whatever the client does meanwhile.
REQUEST_TIMEOUT_S: Final = 600.0

#: Key of an ASGI message that ends a body before it is complete: the `RouterError` that says
#: why, for a view that reads it.
BODY_ERROR: Final = "llama_router.body_error"

_STREAM_ID: Final = 1

_deadline: ContextVar[trio.CancelScope | None] = ContextVar("control_deadline", default=None)


def without_deadline() -> None:
    """Let the current request take as long as it likes.

    For views that end by themselves, or write now and then: writing to a client that is
    gone fails.
    """
    scope = _deadline.get()
    if scope is not None:
        scope.deadline = math.inf


class ControlServer:
    """Serves an ASGI application to requests that the data plane hands over."""

    def __init__(self, app: ASGIFramework) -> None:
        self._application = app
        self.app = ASGIWrapper(self._run_app)
        self.config = Config()
        self.config.accesslog = None  # its lines can be forged; ours are in the app
        self.config.errorlog = None
        self.config.include_server_header = False
        self.context = WorkerContext(None)
        self._draining = False
        self._waits: set[trio.CancelScope] = set()  # for what clients are to do

    async def drain(self) -> None:
        """Wait no longer for clients that are slow; requests that are complete are answered."""
        self._draining = True
        for scope in self._waits:
            _shorten(scope)

    @contextmanager
    def waiting_for_client(self, timeout_s: float = math.inf) -> Iterator[trio.CancelScope]:
        """Cancel what is done in this context after *timeout_s*, and earlier when draining."""
        with trio.move_on_after(timeout_s) as scope:
            if self._draining:
                _shorten(scope)
            self._waits.add(scope)
            try:
                yield scope
            finally:
                self._waits.discard(scope)

    async def serve(
        self, stream: trio.SocketStream, request: ControlRequest, moving: Callable[[], None]
    ) -> None:
        """Answer *request* on *stream*, and close that.

        Never raises for what a client did. *moving* is called whenever bytes come or go.

        Raises:
            OSError: if the client left before anything was done.
        """
        await _Exchange(self, stream, request, moving).run()

    async def _run_app(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        try:
            await self._application(scope, receive, send)
        except* Exception:  # Hypercorn answers with 500, and says nothing
            log.exception("control.crashed", request_id=None)
            raise


def _shorten(wait: trio.CancelScope) -> None:
    """Leave no more than `DRAINING_S` to *wait*."""
    wait.deadline = min(wait.deadline, trio.current_time() + DRAINING_S)


class _Exchange:
    """One request, its answer, and the end of their connection."""

    def __init__(
        self,
        server: ControlServer,
        stream: trio.SocketStream,
        request: ControlRequest,
        moving: Callable[[], None],
    ) -> None:
        self._server = server
        self._stream = stream
        self._request = request
        self._moving = moving
        self._framing = _answer_framing(request)
        self._reading = trio.CancelScope()
        self._ended = False  # the application has nothing more to say
        self._gone = False  # the client takes nothing more

    async def run(self) -> None:
        with trio.move_on_after(REQUEST_TIMEOUT_S) as scope:
            _deadline.set(scope)  # each connection is a task, and this its own context
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
        if self._framing.our_state is h11.SEND_RESPONSE:  # else the application said a line
            path = decoded(self._request.target.partition(b"?")[0])
            log.debug("control.abandoned", method=self._request.method.decode(), path=path)

    # -- what the client sends ----------------------------------------------------------------

    async def _receive(self) -> None:
        """Pass the body on, then read until the client left; cancelled when it is answered."""
        try:
            await self._receive_body()
            if not await self._discard():
                return
        except _GONE:
            return
        await trio.sleep(HALF_CLOSED_S)

    async def _receive_body(self) -> None:
        try:
            with self._server.waiting_for_client() as in_time:
                await self._pass_body()
        except RequestError as exc:
            await self._break_off(exc)
        else:
            if in_time.cancelled_caught:
                await self._break_off(ShuttingDownError("the router is shutting down"))

    async def _pass_body(self) -> None:
        """Pass the body on, as it comes.

        Raises:
            RequestError: if it is malformed, or ends too early.
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

    async def _break_off(self, error: RouterError) -> None:
        """Let a view that reads the body fail with *error*."""
        put: Any = self._http.app_put  # the message is ours: see `BODY_ERROR`
        await put({"type": "http.request", "body": b"", "more_body": False, BODY_ERROR: error})

    async def _discard(self) -> bool:
        """Read until the client closes its sending side; return False if it sends too much."""
        left_bytes = MAX_DISCARDED_BYTES
        while left_bytes > 0:
            data = await self._read()
            if not data:
                return True
            left_bytes -= len(data)
        return False

    async def _read(self) -> bytes:
        data = bytes(await self._stream.receive_some(_READ_BYTES))
        self._moving()
        return data

    # -- what it gets ---------------------------------------------------------------------------

    async def _send(self, event: Event) -> None:
        """Send what the application says; called by `HTTPStream`."""
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
            case _:  # server push and early hints, which nothing here uses
                pass

    async def _send_framed(self, part: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        data = self._framing.send(part)
        if data:
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        if self._gone:
            await trio.lowlevel.checkpoint()
            return
        self._moving()
        try:
            with trio.move_on_after(WRITE_TIMEOUT_S) as in_time:
                await self._stream.send_all(data)
            self._gone = in_time.cancelled_caught
        except _GONE:
            self._gone = True
        if self._gone:
            self._reading.cancel()

    async def _linger(self) -> None:
        """Close, but let the client read its answer first.

        Closing with unread bytes in the socket would reset the connection and destroy an
        answer that is still on its way. Source: RFC 9112, section 9.6.
        """
        if not self._gone:
            with self._server.waiting_for_client(LINGER_S), suppress(*_GONE):
                await self._stream.send_eof()
                await self._discard()
        await trio.aclose_forcefully(self._stream)


def _answer_framing(request: ControlRequest) -> h11.Connection:
    """Return what frames the answer to *request*: only its method and version matter for that."""
    connection = h11.Connection(h11.SERVER)
    line = b"%b / HTTP/%b\r\n" % (request.method, request.version.encode())
    connection.receive_data(line + b"host: router\r\n\r\n")
    while not isinstance(connection.next_event(), h11.EndOfMessage):
        pass
    return connection
