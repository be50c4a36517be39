"""The HTTP client for backends: one exchange on one connection.

For answers that are translated, and for requests on the router's own account. Everything else
goes through the data plane (`gateway`), which is far quicker. h11 over a socket, not httpx: httpx
is built of asynchronous generators, which Trio cannot end when a client leaves.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self, TypeAlias, TypeVar

import attrs
import h11
import trio

from ..core.apis.errors import message_in_body
from ..core.config.specs import RouterSpec
from ..errors.backends import UpstreamError, UpstreamTimeoutError
from ..errors.base import RouterError
from ..errors.requests import RequestError
from ..timeouts import was_held_up
from .upstream import Upstream

T = TypeVar("T")

#: Header fields as they are sent; received names are in lower case.
Fields: TypeAlias = Sequence[tuple[bytes, bytes]]

#: Most bytes that are read at a time; fewer are passed on as they come.
_READ_BYTES: Final = 64 * 1024

#: Longest part of an error body that is read, in bytes.
_MAX_ERROR_BYTES: Final = 64 * 1024

#: Longest quotation of an answer that is not an event stream, in characters.
_QUOTED_CHARACTERS: Final = 300

#: Most interim responses before the final one.
_MAX_INTERIM: Final = 128

_EVENT_STREAM: Final = "text/event-stream"

#: Statuses of errors.
_ERRORS: Final = frozenset(status.value for status in HTTPStatus if status >= 400)


@attrs.frozen(kw_only=True)
class Timeouts:
    """The time limits of one exchange, in seconds.

    Attributes:
        connection_s: To open the connection.
        silence_s: Between two bytes of the backend.
        total_s: For the whole exchange.
    """

    connection_s: float
    silence_s: float
    total_s: float = math.inf

    @classmethod
    def of(cls, router: RouterSpec) -> Timeouts:
        """Return the configured limits, which are without a total."""
        return cls(connection_s=router.connection_timeout_s, silence_s=router.read_timeout_s)


class BackendExchange:
    """One request to a backend, and its response. A context manager; leaving it never blocks.

    `send`, or `request` where only a success is of use; then `receive` until it returns no bytes,
    or `receive_all`. In place of `request`: `begin`, then `head`, then `check`; so `head` can be
    awaited `within` a time, as `receive` can. Each of them raises

    * `UpstreamTimeoutError` when a limit of *timeouts* is over;
    * the process's own end (a `BackendError`), if that is why the connection broke;
    * `UpstreamError` for every other failure;
    * the error given to `cancel`.

    Attributes:
        backend: The backend.
        undelivered: The process ended by itself before it read the request: the connection was
            refused, or reset before the first byte of the response.
        status: Status of the response; 0 before it.
        fields: Header fields of the response.
        first_body_s: Clock time of the first byte of its body, in seconds; None before.
    """

    def __init__(self, backend: Upstream, timeouts: Timeouts) -> None:
        """Prepare an exchange; the total time begins now."""
        self.backend = backend
        self._timeouts = timeouts
        self._deadline_s = trio.current_time() + timeouts.total_s
        self._scope = trio.CancelScope()
        self._cancelled: RouterError | None = None
        self._socket: trio.SocketStream | None = None
        self._unsent = memoryview(b"")
        self._http = h11.Connection(h11.CLIENT)
        self._silent_s = 0.0  # since the last byte, as far as `within` counted it
        self._interim_count = 0
        self._closed = False
        self.undelivered = False
        self.status = 0
        self.fields: Fields = ()
        self.first_body_s: float | None = None
        self._has_begun = False  # the response, of which a byte is here

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._socket is not None:
            self._socket.socket.close()  # a backend ends the request when its client is gone

    @property
    def media_type(self) -> str:
        """Return the media type of the response without parameters; empty if it has none."""
        content_type = (_field(self.fields, b"content-type") or b"").decode("latin-1")
        return content_type.partition(";")[0].strip().lower()

    def cancel(self, error: RouterError) -> None:
        """End the exchange: the call in progress, and every later one, raises *error*."""
        self._cancelled = error
        self._scope.cancel()

    async def send(
        self, method: str, target: str, *, fields: Fields = (), body: bytes | None = None
    ) -> None:
        """Send a request; return when the head of the response is here, of any status.

        Args:
            method: The HTTP method.
            target: Path and query.
            fields: Further header fields.
            body: JSON to send.
        """
        await self.begin(method, target, fields=fields, body=body)
        await self.head()

    async def begin(
        self, method: str, target: str, *, fields: Fields = (), body: bytes | None = None
    ) -> None:
        """Send a request; return when it is sent. The arguments are those of `send`."""
        await self._step(self._connect, self._timeouts.connection_s, "did not accept a connection")
        head, data = self._encode(method, target, fields, body)
        if len(data) < _READ_BYTES:
            await self._send(head + data)
        else:  # two calls cost less than a copy
            await self._send(head)
            await self._send(data)

    async def head(self) -> None:
        """Return when the head of the response is here, of any status."""
        response = await self._next(h11.Response)
        assert isinstance(response, h11.Response)
        self.status = response.status_code
        self.fields = [(bytes(name), bytes(value)) for name, value in response.headers]

    async def request(
        self, method: str, target: str, *, fields: Fields = (), body: bytes | None = None
    ) -> None:
        """Send a request as `send` does; return only for a success (200 or 204).

        Raises:
            RequestError: if the backend refuses it, with the backend's sentence and status.
            UpstreamError: if the backend failed, likewise.
        """
        await self.send(method, target, fields=fields, body=body)
        await self.check()

    async def check(self) -> None:
        """Make sure that the response is a success.

        Raises:
            RequestError, UpstreamError: if it is not, as in `request`.
        """
        if self.status not in (HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            raise await self._refusal()

    async def within(self, seconds: float, step: Callable[[], Awaitable[T]]) -> T | None:
        """Return the result of *step*, or None if the backend is silent for *seconds*.

        Args:
            seconds: The time; it counts as silence of the backend.
            step: `head` or `receive`; after None it can be taken again, and nothing is lost.
        """
        left_s = self._timeouts.silence_s - self._silent_s
        with trio.move_on_after(seconds if seconds < left_s else math.inf):
            return await step()
        self._silent_s += seconds
        return None

    async def expect_events(self) -> None:
        """Make sure that the response is an event stream, or at least has no other media type.

        Raises:
            UpstreamError: if it has, with the error that the backend reports, or the beginning
                of the body.
        """
        if self.media_type in ("", _EVENT_STREAM):
            return
        body = await self._error_body()
        quoted = body.decode("utf-8", "replace").strip()[:_QUOTED_CHARACTERS]
        message = f"{self._name} answered with {self.media_type} instead of a stream"
        if quoted:
            message = f"{message}: {quoted}"
        raise UpstreamError(message_in_body(body) or message)

    async def receive(self) -> bytes:
        """Return the next bytes of the body; none at its end."""
        event = await self._next(h11.Data, h11.EndOfMessage)
        if not isinstance(event, h11.Data):
            return b""
        if self.first_body_s is None:
            self.first_body_s = trio.current_time()
        return bytes(event.data)

    async def receive_all(self, max_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            UpstreamError: if it is over *max_bytes*.
        """
        body = bytearray()
        while data := await self.receive():
            body += data
            if len(body) > max_bytes:
                raise UpstreamError(f"the answer of {self._name} is over {max_bytes} bytes")
        return bytes(body)

    async def error_for(self, symptom: str) -> RouterError:
        """Return the end of the backend's process as the error, if it ended; else *symptom*."""
        return await self.backend.error_for(symptom)

    # -- steps ----------------------------------------------------------------------------

    def _encode(
        self, method: str, target: str, fields: Fields, body: bytes | None
    ) -> tuple[bytes, bytes]:
        """Return head and body as they are sent.

        Raises:
            UpstreamError: if HTTP does not allow the target or a field.
        """
        backend = self.backend
        target = backend.prefix.decode() + target
        head = [(b"host", backend.authority), (b"connection", b"close"), *backend.own_fields]
        if body is not None:
            head.append((b"content-type", b"application/json"))
            head.append((b"content-length", b"%d" % len(body)))
        try:
            passed = [field for field in fields if field[0] not in backend.strips]
            request = h11.Request(method=method, target=target, headers=[*head, *passed])
            sent = self._http.send(request) or b""
        except h11.LocalProtocolError as exc:
            raise UpstreamError(f"{self._name} cannot be sent {target!r}: {exc}") from exc
        data = b"" if body is None else self._http.send(h11.Data(data=body)) or b""
        self._http.send(h11.EndOfMessage())
        return sent, data

    async def _connect(self) -> None:
        host, port = self.backend.host, self.backend.port
        if host.startswith("/"):
            self._socket = await trio.open_unix_socket(host)
            return
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Not open_tcp_stream(): its error names no reason.
        connection = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            await connection.connect((host, port))
        except OSError as exc:
            connection.close()
            if exc.errno is None:
                raise
            raise OSError(exc.errno, os.strerror(exc.errno)) from exc  # without the address
        except BaseException:
            connection.close()
            raise
        self._socket = trio.SocketStream(connection)

    async def _send(self, data: bytes) -> None:
        self._unsent = memoryview(data)
        await self._wait(self._send_rest)

    async def _send_rest(self) -> None:
        assert self._socket is not None
        with suppress(OSError):  # it may have answered before it closed: that is read next
            # Not send_all(): when that is cancelled, the number of bytes sent is unknown.
            while self._unsent:
                sent_bytes = await self._socket.socket.send(self._unsent)
                self._unsent = self._unsent[sent_bytes:]

    async def _read(self) -> None:
        assert self._socket is not None
        data = await self._socket.receive_some(_READ_BYTES)
        self._has_begun |= bool(data)
        self._closed = not data
        self._silent_s = 0.0
        self._http.receive_data(data)

    async def _next(self, *kinds: type[h11.Event]) -> h11.Event:
        """Return the next event of one of these kinds."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                raise await self.error_for(self._violation(exc)) from exc
            if event is h11.NEED_DATA:
                await self._wait(self._read)
            elif isinstance(event, kinds):
                return event
            elif isinstance(event, h11.ConnectionClosed):
                raise await self.error_for("it closed the connection without an answer")
            elif isinstance(event, h11.InformationalResponse):
                self._interim_count += 1
                if self._interim_count > _MAX_INTERIM:
                    raise UpstreamError(
                        f"{self._name} sent {_MAX_INTERIM} interim responses and no other"
                    )

    def _violation(self, exc: h11.RemoteProtocolError) -> str:
        """Return a symptom for *exc*; h11's sentence about a closed connection names its states."""
        if not self._closed:
            return f"it broke the rules of HTTP: {exc}"
        if not self._has_begun:
            return "it closed the connection without an answer"
        return "it closed the connection mid-answer"

    async def _wait(self, step: Callable[[], Awaitable[T]]) -> T:
        return await self._step(step, self._timeouts.silence_s, "was silent", self._silent_s)

    async def _step(
        self, step: Callable[[], Awaitable[T]], limit_s: float, symptom: str, passed_s: float = 0.0
    ) -> T:
        """Take one step, within *limit_s* and the total time, unless the exchange is cancelled.

        Of *limit_s*, *passed_s* have passed already.

        Time in which the router was held up does not count: both limits begin anew then.
        """
        while True:
            if self._cancelled is not None:
                raise self._cancelled
            now_s = trio.current_time()
            until_s = min(now_s + limit_s - passed_s, self._deadline_s)
            with trio.move_on_at(until_s) as self._scope:
                try:
                    return await step()
                except OSError as exc:  # of a connection
                    raise await self._unread(f"it does not accept connections: {exc}") from exc
                except trio.BrokenResourceError as exc:
                    raise await self._unread("it closed the connection mid-answer") from exc
            if was_held_up(self._scope):
                self._deadline_s = trio.current_time() + self._timeouts.total_s
            elif self._cancelled is None:
                raise self._timeout(f"{symptom} for {limit_s:g} s")

    async def _unread(self, symptom: str) -> RouterError:
        """Return the error for *symptom*; note whether the request was not read."""
        error = await self.error_for(symptom)
        self.undelivered = self.backend.error is not None and not self._has_begun
        return error

    def _timeout(self, symptom: str) -> UpstreamTimeoutError:
        if trio.current_time() >= self._deadline_s:
            symptom = f"did not complete its answer within {self._timeouts.total_s:g} s"
        return UpstreamTimeoutError(f"{self._name} {symptom}")

    @property
    def _name(self) -> str:
        return self.backend.title

    async def _refusal(self) -> RouterError:
        """Return the error that the backend reports, with its status."""
        message = (
            message_in_body(await self._error_body())
            or f"{self._name} answered with status {self.status}"
        )
        status = HTTPStatus(self.status) if self.status in _ERRORS else HTTPStatus.BAD_GATEWAY
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return RequestError(message, status=status)
        error = UpstreamError(message)
        error.status = status
        return error

    async def _error_body(self) -> bytes:
        """Return the body, or its beginning if it is long."""
        body = bytearray()
        while len(body) < _MAX_ERROR_BYTES and (data := await self.receive()):
            body += data
        return bytes(body)


@attrs.frozen
class BackendResponse:
    """A response with its whole body.

    Attributes:
        status: The HTTP status.
        fields: Header fields; names in lower case.
        body: The body, as it was sent.
    """

    status: int
    fields: Fields
    body: bytes

    def get(self, name: bytes) -> bytes | None:
        """Return the value of the field *name*, or None."""
        return _field(self.fields, name)


async def fetch(
    backend: Upstream,
    target: str,
    *,
    fields: Fields = (),
    body: bytes | None = None,
    max_bytes: int,
    timeout_s: float,
) -> BackendResponse:
    """Send a GET, or with a *body* a POST of JSON; return the response, of any status.

    Args:
        backend: The backend.
        target: Path and query.
        fields: Further header fields.
        body: JSON to send.
        max_bytes: Longest body of a response.
        timeout_s: Seconds allowed for all of it.

    Raises:
        UpstreamError, BackendError: as in `BackendExchange`.
    """
    timeouts = Timeouts(connection_s=timeout_s, silence_s=timeout_s, total_s=timeout_s)
    with BackendExchange(backend, timeouts) as exchange:
        await exchange.send("GET" if body is None else "POST", target, fields=fields, body=body)
        received = await exchange.receive_all(max_bytes)
        return BackendResponse(exchange.status, exchange.fields, received)


def _field(fields: Fields, name: bytes) -> bytes | None:
    return next((value for field, value in fields if field == name), None)
