"""Hypercorn's Trio pieces behind our own accept loop.

``hypercorn.trio.serve`` ends as a whole when one connection breaks a rule, so only
the part that serves one connection is used. That is one level below its public API:
``hypercorn==0.18.*`` is pinned for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework

#: A client that takes nothing of its answer for so long is given up, in seconds.
WRITE_TIMEOUT_S: Final = 30.0

#: Bound on the last, shielded steps of a connection, in seconds.
CLOSE_TIMEOUT_S: Final = 5.0

#: How long a client that still sends when it is answered may take to read that, in seconds.
LINGER_S: Final = 2.0

#: What is thrown away at a time of such a request, in bytes.
_DISCARDED_BYTES: Final = 256 * 1024

#: States in which a client has not sent a whole request.
_SENDING: Final = frozenset((h11.SEND_BODY, h11.ERROR))

#: A request target that is a whole URI: its authority, and what is behind that.
_WHOLE_URI: Final = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)

#: What a connection raises that is no more.
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)

#: Longest control request, in seconds, whatever the client does meanwhile: one
#: pipelined byte is enough to hide a disconnect.
REQUEST_TIMEOUT_S: Final = 600.0


_deadline: ContextVar[trio.CancelScope | None] = ContextVar("control_deadline", default=None)


def without_deadline() -> None:
    """Let the current request take as long as it likes.

    For views that end by themselves, or write now and then: writing to a client that is
    gone fails.
    """
    scope = _deadline.get()
    if scope is not None:
        scope.deadline = math.inf


class _ReplayStream:
    """A connection with what was read from it already put back in front."""

    def __init__(
        self, stream: trio.SocketStream, replay: bytes, moving: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._replay = replay
        self._moving = moving
        self.socket = stream.socket

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._replay:
            data, self._replay = self._replay, b""
        else:
            data = bytes(await self._stream.receive_some(max_bytes))
        self._moving()
        return data

    async def send_all(self, data: bytes) -> None:
        self._moving()
        await self._stream.send_all(data)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _no_upgrade(_protocol: H11Protocol, _request: object) -> None:
    """Speak HTTP/1.1 only: Hypercorn's h2c has ways to end a server, and no switch."""


_create_stream = H11Protocol._create_stream  # noqa: SLF001 -- see `_http_only`


def split_target(target: bytes) -> tuple[bytes, bytes | None]:
    """Return the path of a request target, with its query, and the host that it is sent to.

    Returns:
        None for the host if *target* has none; then the field ``Host`` says it. Otherwise that
        field is to be ignored. Source: RFC 9112, section 3.2.2.
    """
    uri = _WHOLE_URI.fullmatch(target)
    if uri is None:
        return target, None
    authority, path = uri.groups()
    return (path if path.startswith(b"/") else b"/" + path), authority


async def _http_only(protocol: H11Protocol, request: h11.Request) -> None:
    """Answer in HTTP/1.1 whoever offers another protocol, e.g. websockets: nothing here needs one.

    Hypercorn would end the connection with an error if a byte followed such a request. And it
    knows nothing of a target that is a whole URI: its path and its host count.
    """
    fields = [(name, value) for name, value in request.headers if name != b"upgrade"]
    target, authority = split_target(request.target)
    if authority is not None:
        fields = [(name, value) for name, value in fields if name != b"host"]
        fields.insert(0, (b"host", authority))
    plain = h11.Request(
        method=request.method,
        target=target,
        headers=fields,
        http_version=request.http_version,
    )
    await _create_stream(protocol, plain)


class _Connection(TCPServer):
    """One connection, with a deadline on everything that Hypercorn shields."""

    stream: Any

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 -- Hypercorn's
        super().__init__(*args)
        self._reading = trio.CancelScope()

    async def run(self) -> None:
        """Serve until the connection ends; never raises for what a client did."""
        with trio.move_on_after(REQUEST_TIMEOUT_S) as scope:
            _deadline.set(scope)  # each connection is a task, and this its own context
            await super().run()
        await self._linger()

    async def _close(self) -> None:
        """Close, or if the client still sends, only end what it is to read: see `_linger`."""
        self._reading.cancel()  # it may wait for a view that takes no more
        if self._is_client_sending():
            with suppress(*_GONE, trio.BusyResourceError):
                await self.stream.send_eof()
        else:
            await super()._close()

    def _is_client_sending(self) -> bool:
        protocol: Any = getattr(self, "protocol", None)  # there may be none yet
        return protocol is not None and protocol.protocol.connection.their_state in _SENDING

    async def _linger(self) -> None:
        """Let the client read the answer, if there was one while it still sent its request.

        Closing with unread bytes in the socket would reset the connection and destroy an
        answer that is still on its way. Source: RFC 9112, section 9.6.
        """
        with trio.move_on_after(LINGER_S), suppress(*_GONE):
            while await self.stream.receive_some(_DISCARDED_BYTES):
                pass
        await self.stream.aclose()

    async def _read_data(self) -> None:
        try:
            with self._reading:
                await super()._read_data()
        finally:
            # Else its task stays until the keep-alive time-out, long after the client left.
            await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            # Quart-Trio cancels itself while the connection is being closed.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S):
                await super().protocol_send(event)
            return
        gone = False
        async with self.send_lock:
            deadline = trio.current_time() + WRITE_TIMEOUT_S
            with trio.CancelScope(shield=True, deadline=deadline) as scope:
                try:
                    await self.stream.send_all(event.data)
                except (*_GONE, trio.BusyResourceError):  # busy: Hypercorn closes it just now
                    gone = True
        if scope.cancelled_caught:
            await trio.aclose_forcefully(self.stream)
            gone = True
        if gone:
            await self.protocol.handle(Closed())


class ControlServer:
    """Serves an ASGI application to connections that somebody else accepted."""

    def __init__(self, app: ASGIFramework) -> None:
        self._app = ASGIWrapper(app)
        self._config = Config()
        self._config.accesslog = None  # its lines can be forged; ours are in the app
        self._config.errorlog = None
        self._config.include_server_header = False
        self._config.h11_max_incomplete_size = 64 * 1024
        self._config.keep_alive_timeout = 5.0
        self._context = WorkerContext(None)
        H11Protocol._create_stream = _http_only  # type: ignore[method-assign, assignment]  # noqa: SLF001 -- same
        H11Protocol._check_protocol = _no_upgrade  # type: ignore[method-assign, assignment]  # noqa: SLF001 -- it is built by name

    async def drain(self) -> None:
        """Let connections end with their current answer."""
        await self._context.terminated.set()

    async def serve(
        self, stream: trio.SocketStream, replay: bytes, moving: Callable[[], None]
    ) -> None:
        """Serve *stream* to its end, beginning with the bytes *replay*.

        *moving* is called whenever bytes come or go.
        """
        connection: Any = _ReplayStream(stream, replay, moving)
        await _Connection(self._app, self._config, self._context, {}, connection).run()
