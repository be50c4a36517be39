"""One exchange of the control plane with a backend, for answers that have to be translated.

What needs no translation goes through the data plane, which is far quicker. h11 and a socket
do here: httpx is built of asynchronous generators, which Trio cannot end when a client leaves.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self, TypeVar

import h11
import trio

from ...backends.backend import Backend
from ...errors.backends import UpstreamError, UpstreamTimeoutError
from ...errors.base import RouterError
from ...errors.requests import RequestError
from ...timeouts import was_held_up
from ..ollama.answers import message_of

T = TypeVar("T")

#: What is read at a time, in bytes; less is passed on as it comes.
_READ_BYTES: Final = 64 * 1024

#: Longest error of a backend that is looked at, in bytes.
_MAX_ERROR_BYTES: Final = 64 * 1024

#: How much of an answer that is no stream is quoted, in characters.
_QUOTED: Final = 300

#: Media type of a stream of events.
_EVENTS: Final = "text/event-stream"

#: Statuses of errors.
_ERRORS: Final = frozenset(status.value for status in HTTPStatus if status >= 400)


class Upstream:
    """A request to a backend, and its answer. A context manager; leaving it never waits.

    Every wait ends when the backend was silent for too long, or when `cut` is called.

    Attributes:
        status: Of the answer; 0 before there is one.
        media_type: Of the answer, without parameters; empty if it does not say.
        first_byte_s: Clock time of its first byte, in seconds; NaN before.
    """

    def __init__(
        self, backend: Backend, *, connection_timeout_s: float, read_timeout_s: float
    ) -> None:
        """Prepare an exchange.

        Args:
            backend: Whom to ask.
            connection_timeout_s: Seconds allowed for a connection.
            read_timeout_s: Longest silence, in seconds.
        """
        self._backend = backend
        self._connection_timeout_s = connection_timeout_s
        self._read_timeout_s = read_timeout_s
        self._scope = trio.CancelScope()
        self._cut: RouterError | None = None
        self._socket: trio.SocketStream | None = None
        self._unsent = memoryview(b"")
        self._http = h11.Connection(h11.CLIENT)
        self._closed = False
        self.status = 0
        self.media_type = ""
        self.first_byte_s = math.nan

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._socket.socket.close()  # the backend takes it as the order to stop

    def cut(self, error: RouterError) -> None:
        """End the exchange: whoever waits for the backend gets *error*."""
        self._cut = error
        self._scope.cancel()

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send JSON; return when the backend begins to answer with success.

        Raises:
            RequestError: if the backend refuses it, with the backend's sentence and status.
            BackendError: if the backend's process ended.
            UpstreamError: if the exchange failed otherwise.
        """
        about = {"content-type": "application/json", "content-length": str(len(body))}
        await self._begin("POST", path, {**about, **headers}, body)

    async def get(self, path: str) -> None:
        """Ask for *path*; otherwise as `post`."""
        await self._begin("GET", path, {})

    async def delete(self, path: str) -> None:
        """Delete *path*; otherwise as `post`."""
        await self._begin("DELETE", path, {})

    async def _begin(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> None:
        await self._step(self._connect, self._connection_timeout_s, "did not accept a connection")
        fields = {"host": self._backend.authority.decode(), "connection": "close", **headers}
        head = h11.Request(method=method, target=path, headers=list(fields.items()))
        sent = self._http.send(head) or b""
        data = self._http.send(h11.Data(data=body)) or b""
        self._http.send(h11.EndOfMessage())
        if len(data) < _READ_BYTES:
            await self._send(sent + data)
        else:  # two calls cost less than a copy
            await self._send(sent)
            await self._send(data)
        answer = await self._next(h11.Response)
        assert isinstance(answer, h11.Response)
        self.status = answer.status_code
        content_type = dict(answer.headers).get(b"content-type", b"").decode("latin-1")
        self.media_type = content_type.partition(";")[0].strip().lower()
        if self.status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            raise await self._refusal()

    async def expect_events(self) -> None:
        """Make sure that the answer is a stream of events, as far as it says what it is.

        Raises:
            UpstreamError: if it is not, with the beginning of what it is instead.
            BackendError: as `post`.
        """
        if self.media_type in ("", _EVENTS):
            return
        body = await self._beginning()
        said = body.decode("utf-8", "replace").strip()[:_QUOTED]
        message = f"{self._name} answered with {self.media_type} instead of a stream"
        raise UpstreamError(message_of(body) or (f"{message}: {said}" if said else message))

    async def receive(self) -> bytes:
        """Return the next bytes of the body; none at its end.

        Raises:
            BackendError, UpstreamError: as `post`.
        """
        event = await self._next(h11.Data, h11.EndOfMessage)
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def receive_all(self) -> bytes:
        """Return the whole body.

        Raises:
            BackendError, UpstreamError: as `post`.
        """
        body = bytearray()
        while data := await self.receive():
            body += data
        return bytes(body)

    # -- steps ----------------------------------------------------------------------------

    async def _connect(self) -> None:
        self._socket = await trio.open_tcp_stream(self._backend.host, self._backend.port)

    async def _send(self, data: bytes) -> None:
        self._unsent = memoryview(data)
        await self._wait(self._send_rest)

    async def _send_rest(self) -> None:
        assert self._socket is not None
        with suppress(OSError):  # it may have answered before it closed: that is read next
            # Not send_all(): when that is cancelled, nobody knows how much was sent.
            while self._unsent:
                sent_bytes = await self._socket.socket.send(self._unsent)
                self._unsent = self._unsent[sent_bytes:]

    async def _read(self) -> None:
        assert self._socket is not None
        data = await self._socket.receive_some(_READ_BYTES)
        if data and math.isnan(self.first_byte_s):
            self.first_byte_s = trio.current_time()
        self._closed = not data
        self._http.receive_data(data)

    async def _next(self, *wanted: type[h11.Event]) -> h11.Event:
        """Return the next event of one of these kinds."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                raise await self.explain(self._broken(exc)) from exc
            if event is h11.NEED_DATA:
                await self._wait(self._read)
            elif isinstance(event, wanted):
                return event
            elif isinstance(event, h11.ConnectionClosed):
                raise await self.explain("it closed the connection without an answer")

    def _broken(self, exc: h11.RemoteProtocolError) -> str:
        """Return what the backend did, in words; h11's own are about its states."""
        if not self._closed:
            return f"it broke the rules of HTTP: {exc}"
        if math.isnan(self.first_byte_s):
            return "it closed the connection without an answer"
        return "it closed the connection mid-answer"

    async def _wait(self, step: Callable[[], Awaitable[T]]) -> T:
        return await self._step(step, self._read_timeout_s, "was silent")

    async def _step(self, step: Callable[[], Awaitable[T]], limit_s: float, what_it_did: str) -> T:
        """Take one step, for no longer than *limit_s* and not after `cut`.

        Time in which the router was held up does not count: the step is begun anew then.
        """
        while True:
            if self._cut is not None:
                raise self._cut
            with trio.move_on_after(limit_s) as self._scope:
                try:
                    return await step()
                except OSError as exc:  # of open_tcp_stream()
                    raise await self.explain(f"it does not accept connections: {exc}") from exc
                except trio.BrokenResourceError as exc:
                    raise await self.explain("it closed the connection mid-answer") from exc
            if was_held_up(self._scope):
                continue
            if self._cut is not None:
                raise self._cut
            raise UpstreamTimeoutError(f"{self._name} {what_it_did} for {limit_s:g} s")

    @property
    def _name(self) -> str:
        return f"the backend of model {str(self._backend.model)!r}"

    async def explain(self, symptom: str) -> RouterError:
        """Return the backend's own end as the error, if it ended; else the *symptom*."""
        return await self._backend.explain(symptom)

    async def _refusal(self) -> RouterError:
        """Return what the backend says instead of an answer."""
        message = (
            message_of(await self._beginning())
            or f"{self._name} answered with status {self.status}"
        )
        status = HTTPStatus(self.status) if self.status in _ERRORS else HTTPStatus.BAD_GATEWAY
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return RequestError(message, status=status)
        error = UpstreamError(message)
        error.status = status
        return error

    async def _beginning(self) -> bytes:
        """Return the body, or as much of it as is looked at."""
        body = bytearray()
        while len(body) < _MAX_ERROR_BYTES and (data := await self.receive()):
            body += data
        return bytes(body)
