"""One exchange with a backend: the request goes up, the answer comes down as it arrives.

Nothing is buffered but what is needed to end an event stream properly when the
backend dies: an incomplete chunk is held back until the rest of it is here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import attrs
import trio

from ..backends.backend import Backend
from ..core.answers import error_event
from ..core.usage import TAIL_BYTES
from ..errors import BackendError, RouterError, UpstreamError, UpstreamTimeoutError
from .engine import Engine, FiberCutError, FiberTimeoutError
from .sockets import RECEIVE_BYTES, Client, ClientGoneError, Upstream, connect
from .wire import (
    Dechunker,
    Framing,
    RequestHead,
    ResponseFraming,
    ResponseHead,
    client_response_head,
    parse_response_head,
    upstream_request_head,
)

#: Most bytes of an incomplete chunk that are held back. Events are far smaller; a
#: larger chunk is passed on in pieces, and then cannot be ended politely.
MAX_HELD_BYTES: Final = 64 * 1024

#: How long to wait for the news of a backend's end once its connection broke, in
#: seconds: the exit is seen within a millisecond, and explains far more.
OBITUARY_S: Final = 0.5

#: Bodies below this are sent together with the head, in one segment, in bytes.
SMALL_BODY_BYTES: Final = 64 * 1024

#: How long a client gets to take the last event of a stream that is cut, in seconds.
ENDING_S: Final = 0.5

_LAST_CHUNK: Final = b"0\r\n\r\n"


@attrs.define(eq=False)
class Exchange:
    """What happened so far; complete when `relay` has returned or raised.

    Attributes:
        status: The backend's status; 0 before it answered.
        first_byte_s: Clock time of the answer's first byte, in seconds.
        sent_bytes: Bytes of the answer's body, as framed, sent to the client.
        tail: The end of the body, at least `TAIL_BYTES` long if the body is.
        begun: The client has got a part of the answer.
        reusable: The client's connection may be used for another request.
        error: What ended the answer early, after it had begun.
    """

    status: int = 0
    first_byte_s: float | None = None
    sent_bytes: int = 0
    tail: bytes = b""
    begun: bool = False
    reusable: bool = False
    error: RouterError | None = None


@attrs.define(kw_only=True)  # not frozen: that would take three times as long to make
class Ask:
    """What to ask a backend for, in whose name, and under which limits.

    Attributes:
        head: The client's request.
        target: What to ask for, in the backend's own terms.
        body: The request's body, decoded; None if it has none.
        connection_timeout_s: Seconds allowed for a connection to the backend.
        read_timeout_s: Longest silence, of either side, in seconds.
        close: The client's connection ends with this answer.
        extra: Fields to add to the answer.
    """

    head: RequestHead
    target: bytes
    body: bytes | bytearray | None
    connection_timeout_s: float
    read_timeout_s: float
    close: bool
    extra: Sequence[tuple[bytes, bytes]] = ()


class _StaleError(Exception):
    """A kept connection was closed before a byte of the answer came."""


async def relay(
    engine: Engine, client: Client, ask: Ask, backend: Backend, exchange: Exchange
) -> None:
    """Send the request to *backend* and its answer to *client*; fill in *exchange*.

    If the backend fails before the answer has begun, the failure is raised, and the
    client has got nothing. If it fails later, an event stream is ended with an error
    event, any other body is left visibly incomplete, and `Exchange.error` says why.

    Raises:
        ClientGoneError: if the client left; the backend was told by closing.
        BackendError: if the backend's process ended before it answered.
        UpstreamError: if the exchange with it failed otherwise.
        FiberCutError: if the router ends; as if the backend had failed.
    """
    attempt = _Attempt(engine, client, ask, backend, exchange)
    try:
        await attempt.run()
    except _StaleError:
        await attempt.run(fresh=True)
    finally:
        client.fiber.deadline_s = math.inf


class _Shaper:
    """What becomes of a body's bytes on their way to the client.

    Most pass as they are. Of a chunked event stream only complete chunks pass, so that
    an error event can always be put behind them. For an HTTP/1.0 client chunks are decoded.
    """

    __slots__ = ("_decoder", "_events", "_held", "_holding", "_open_ended")

    def __init__(self, head: ResponseHead, *, http10: bool) -> None:
        chunked = head.framing is Framing.CHUNKED
        self._events = head.is_event_stream
        self._decoder = Dechunker() if chunked and http10 else None
        self._holding = self._events and chunked and not http10
        self._open_ended = head.framing is Framing.CLOSE or self._decoder is not None
        self._held = b""

    def shape(self, data: bytes, boundary: int) -> bytes:
        """Return what to send now; *boundary* is where the last complete chunk ends."""
        if self._holding:
            held = self._held
            if boundary == len(data):
                if held:
                    self._held = b""
                    return held + data
                return data
            self._held = data[boundary:] if boundary else held + data
            if len(self._held) > MAX_HELD_BYTES:
                self._holding = False
                return held + data
            return held + data[:boundary] if boundary else b""
        if self._decoder is not None:
            return self._decoder.feed(data)
        return data

    def ending(self, error: RouterError) -> bytes:
        """Return what tells the client, in the middle of the body, that it is over.

        Nothing, where an incomplete body is the only honest sign that is left.
        """
        if not self._events:
            return b""
        event = error_event(error)
        if self._holding:
            return b"%x\r\n%b\r\n%b" % (len(event), event, _LAST_CHUNK)
        return event if self._open_ended else b""


class _Attempt:
    """Tries to get the answer; a second time only if nothing at all came back."""

    def __init__(
        self, engine: Engine, client: Client, ask: Ask, backend: Backend, exchange: Exchange
    ) -> None:
        self._engine = engine
        self._client = client
        self._ask = ask
        self._backend = backend
        self._exchange = exchange

    async def run(self, *, fresh: bool = False) -> None:
        """Exchange request and answer, on a new connection if a *fresh* one is asked for."""
        upstream = None if fresh else self._kept()
        clean = False
        try:
            if upstream is None:
                upstream = await self._connect()
            rest = await self._send(upstream)
            head, data = await self._receive_head(upstream, rest)
            clean = await self._relay_body(upstream, head, data)
        except FiberTimeoutError:
            raise _silence(self._backend, self._ask.read_timeout_s) from None
        finally:
            if upstream is None:
                pass
            elif clean:
                upstream.keep()
                self._backend.keep_connection(upstream)
            else:
                upstream.close()

    def _kept(self) -> Upstream | None:
        while (kept := self._backend.take_connection()) is not None:
            assert isinstance(kept, Upstream), "only this module gives connections"
            if kept.use(self._client):
                return kept
        return None

    async def _connect(self) -> Upstream:
        backend = self._backend
        try:
            return connect(self._engine, self._client, backend.host, backend.port)
        except OSError as exc:
            raise await self._explain(f"it does not accept connections: {exc}") from exc

    async def _send(self, upstream: Upstream) -> memoryview | None:
        """Send the request; return what the backend did not want of it."""
        ask, fiber = self._ask, self._client.fiber
        body = ask.body
        request = upstream_request_head(
            ask.head,
            target=ask.target,
            host=b"%b:%d" % (self._backend.host.encode(), self._backend.port),
            content_length=None if body is None else len(body),
        )
        fiber.expire_in(ask.read_timeout_s if upstream.reused else ask.connection_timeout_s)
        try:
            if body is None or len(body) < SMALL_BODY_BYTES:
                rest = await upstream.send(request + body if body else request)
            else:
                rest = await upstream.send(request)
                fiber.expire_in(ask.read_timeout_s)
                rest = await upstream.send(body) if rest is None else rest
        except OSError as exc:
            if not upstream.connected:
                raise await self._explain(f"it does not accept connections: {exc}") from exc
            rest = memoryview(b"")  # it may have answered before it closed; that is read next
        except FiberTimeoutError:
            if upstream.connected:
                raise
            raise UpstreamError(
                f"the backend of model {str(self._backend.model)!r} did not accept a connection "
                f"within {ask.connection_timeout_s:g} s (connection_timeout_s)"
            ) from None
        fiber.expire_in(ask.read_timeout_s)
        return rest

    async def _receive_head(
        self, upstream: Upstream, rest: memoryview | None
    ) -> tuple[ResponseHead, bytes]:
        """Return the final response head and the bytes behind it.

        Args:
            upstream: Where it comes from.
            rest: The part of the request that was not sent yet.
        """
        exchange, fiber, method = self._exchange, self._client.fiber, self._ask.head.method
        buffer, searched = b"", 0
        while True:
            data = await upstream.receive()
            if not data:
                if upstream.reused and not buffer:
                    raise _StaleError
                raise await self._explain("it closed the connection without an answer")
            if exchange.first_byte_s is None:
                exchange.first_byte_s = trio.current_time()
            fiber.expire_in(self._ask.read_timeout_s)
            buffer = buffer + data if buffer else data
            while head := parse_response_head(buffer, request_method=method, searched=searched):
                if head.status == HTTPStatus.SWITCHING_PROTOCOLS:
                    raise UpstreamError("the backend switched protocols without being asked to")
                if head.status >= HTTPStatus.OK:
                    if rest is not None:
                        head.keep_alive = False  # it still waits for the rest of the request
                    return head, buffer[head.size :]
                # An interim response is for this hop only; the final one follows.
                buffer, searched = buffer[head.size :], 0
                if rest:
                    rest = await upstream.send(rest)
            searched = len(buffer)

    async def _relay_body(self, upstream: Upstream, head: ResponseHead, rest: bytes) -> bool:
        """Send the answer; return whether the backend's connection can be used again."""
        exchange = self._exchange
        http10 = self._ask.head.version_minor == 0
        close = self._ask.close or not self._ask.head.keep_alive
        exchange.status = head.status
        shaper = _Shaper(head, http10=http10)
        out = client_response_head(head, close=close, http10=http10, extra=self._ask.extra)
        try:
            surplus = await self._pump(upstream, head, out, rest, shaper)
        except (UpstreamError, BackendError, FiberTimeoutError, FiberCutError) as exc:
            if not exchange.begun:
                raise
            exchange.error = self._in_words(exc)
            await self._end_early(shaper.ending(exchange.error))
            return False
        ends_with_close = head.framing is Framing.CLOSE or (
            http10 and head.framing is Framing.CHUNKED
        )
        exchange.reusable = not (close or ends_with_close)
        return head.keep_alive and not surplus and head.framing is not Framing.CLOSE

    def _in_words(self, exc: Exception) -> RouterError:
        if isinstance(exc, FiberTimeoutError):
            return _silence(self._backend, self._ask.read_timeout_s)
        if isinstance(exc, FiberCutError):
            return exc.error
        assert isinstance(exc, RouterError)
        return exc

    async def _end_early(self, ending: bytes) -> None:
        """Tell the client that the answer ends here. Best effort: it may be the silent side."""
        self._client.fiber.expire_in(ENDING_S)
        with contextlib.suppress(ClientGoneError, FiberTimeoutError):
            await self._client.send(ending)

    async def _pump(
        self, upstream: Upstream, head: ResponseHead, out: bytes, data: bytes, shaper: _Shaper
    ) -> bool:
        """Move the body until it is complete; return whether surplus bytes followed it.

        Args:
            upstream: Where it comes from.
            head: Its head.
            out: What to send before it.
            data: Its beginning, as far as it is here.
            shaper: What to make of it.

        Raises:
            UpstreamError, BackendError: if it breaks off or is malformed.
            ClientGoneError: if the client left.
        """
        exchange, client, timeout_s = self._exchange, self._client, self._ask.read_timeout_s
        fiber = client.fiber
        framing = ResponseFraming(head)
        while True:
            size = len(data)
            used = framing.feed(data)
            if used < size:
                data = data[:used]
            exchange.tail = (
                data[-TAIL_BYTES:] if used > TAIL_BYTES else (exchange.tail + data)[-TAIL_BYTES:]
            )
            exchange.sent_bytes += used
            shaped = shaper.shape(data, framing.boundary)
            if out or shaped:
                exchange.begun = True
                await client.send(out + shaped if out else shaped)
                out = b""
            if framing.done:
                return used < size
            if size == RECEIVE_BYTES:
                await fiber.spend()
            data = await upstream.receive()
            fiber.expire_in(timeout_s)
            if not data:
                if framing.eof():
                    return False
                raise await self._explain("it closed the connection mid-answer")

    async def _explain(self, symptom: str) -> RouterError:
        """Return the backend's own end as the error, if it ended; else the *symptom*.

        Raises:
            ClientGoneError: if the client left meanwhile.
        """
        backend, client = self._backend, self._client

        async def obituary() -> bool:
            with trio.move_on_after(OBITUARY_S):
                await backend.gone.wait()
            return True

        if await self._engine.in_trio(client.fiber, obituary, unless_gone=client) is None:
            raise ClientGoneError
        if backend.error is not None:
            return backend.error
        if backend.gone.is_set():
            return BackendError(f"the backend of model {str(backend.model)!r} was stopped")
        return UpstreamError(f"the backend of model {str(backend.model)!r} failed: {symptom}")


def _silence(backend: Backend, read_timeout_s: float) -> UpstreamTimeoutError:
    return UpstreamTimeoutError(
        f"the backend of model {str(backend.model)!r} was silent for {read_timeout_s:g} s "
        "(read_timeout_s), or the client took nothing for as long"
    )
