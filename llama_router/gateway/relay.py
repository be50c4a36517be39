"""One exchange with a backend: the request goes up, the answer comes down as it arrives.

Nothing is buffered but what is needed to end an event stream properly when the
backend dies: an incomplete chunk is held back until the rest of it is here.
"""

from __future__ import annotations

from typing import Final

import attrs
import trio

from ..backends.backend import Backend
from ..core.answers import error_event
from ..core.usage import TAIL_BYTES
from ..errors import BackendError, RouterError, UpstreamError, UpstreamTimeoutError
from .sockets import Client, ClientGoneError, Progress, Upstream, connect
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


class _StaleError(Exception):
    """A kept connection was closed before a byte of the answer came."""


async def relay(
    client: Client,
    head: RequestHead,
    target: bytes,
    body: bytes | bytearray | None,
    backend: Backend,
    exchange: Exchange,
    *,
    connection_timeout_s: float,
    read_timeout_s: float,
    close: bool,
) -> None:
    """Send the request to *backend* and its answer to *client*.

    If the backend fails before the answer has begun, the failure is raised, and the
    client has got nothing. If it fails later, an event stream is ended with an error
    event, any other body is left visibly incomplete, and `Exchange.error` says why.

    Args:
        client: Who asked.
        head: Its request.
        target: What to ask the backend for.
        body: The request's body, decoded; None if it has none.
        backend: Whom to ask.
        exchange: Filled in on the way.
        connection_timeout_s: Seconds allowed for a connection to the backend.
        read_timeout_s: Longest silence, of either side, in seconds.
        close: The client's connection ends with this answer.

    Raises:
        ClientGoneError: if the client left; the backend was told by closing.
        BackendError: if the backend's process ended before it answered.
        UpstreamError: if the exchange with it failed otherwise.
    """
    progress = Progress(read_timeout_s)
    with progress.scope:
        request = upstream_request_head(
            head,
            target=target,
            host=b"%b:%d" % (backend.host.encode(), backend.port),
            content_length=None if body is None else len(body),
        )
        attempt = _Attempt(client, head, backend, exchange, progress, close=close)
        try:
            await attempt.run(request, body, await _open(client, backend, connection_timeout_s))
        except _StaleError:
            fresh = await _open(client, backend, connection_timeout_s, fresh=True)
            await attempt.run(request, body, fresh)
    if progress.scope.cancelled_caught:
        error = UpstreamTimeoutError(
            f"the backend of model {str(backend.model)!r} was silent for {read_timeout_s:g} s "
            "(read_timeout_s), or the client took nothing for as long"
        )
        if not exchange.begun:
            raise error
        exchange.error = exchange.error or error


async def _open(
    client: Client, backend: Backend, timeout_s: float, *, fresh: bool = False
) -> Upstream:
    """Return a connection to *backend*: a kept one, unless a *fresh* one is asked for."""
    kept = None if fresh else backend.take_connection()
    if kept is not None:
        return Upstream(kept, client, reused=True)
    try:
        with trio.fail_after(timeout_s):
            return Upstream(await connect(backend.host, backend.port), client, reused=False)
    except trio.TooSlowError:
        raise UpstreamError(
            f"the backend of model {str(backend.model)!r} did not accept a connection within "
            f"{timeout_s:g} s (connection_timeout_s)"
        ) from None
    except OSError as exc:
        raise await _explain(backend, f"it does not accept connections: {exc}") from exc


async def _explain(backend: Backend, symptom: str) -> RouterError:
    """Return the backend's own end as the error, if it ended; else the *symptom*."""
    with trio.move_on_after(OBITUARY_S):
        await backend.gone.wait()
    if backend.error is not None:
        return backend.error
    if backend.gone.is_set():
        return BackendError(f"the backend of model {str(backend.model)!r} was stopped")
    return UpstreamError(f"the backend of model {str(backend.model)!r} failed: {symptom}")


class _Attempt:
    """One try to get the answer; a second one is made only if nothing came back."""

    def __init__(
        self,
        client: Client,
        request: RequestHead,
        backend: Backend,
        exchange: Exchange,
        progress: Progress,
        *,
        close: bool,
    ) -> None:
        self._client = client
        self._request = request
        self._backend = backend
        self._exchange = exchange
        self._progress = progress
        self._close = close
        self._held = b""

    async def run(
        self, request: bytes, body: bytes | bytearray | None, upstream: Upstream
    ) -> None:
        clean = False
        try:
            await self._send(upstream, request, body)
            head, rest = await self._receive_head(upstream)
            clean = await self._relay_body(upstream, head, rest)
        except ClientGoneError:
            self._exchange.reusable = False
            raise
        finally:
            if clean:
                self._backend.give_connection(upstream.detach())
            else:
                upstream.close()

    async def _send(
        self, upstream: Upstream, request: bytes, body: bytes | bytearray | None
    ) -> None:
        try:
            if body is None or len(body) < 65536:
                await upstream.send(request + body if body else request)
            else:
                await upstream.send(request)
                await upstream.send(body)
        except OSError:
            # It may have answered before it closed, e.g. 413; the answer is read next.
            pass
        self._progress.note()

    async def _receive_head(self, upstream: Upstream) -> tuple[ResponseHead, bytes]:
        """Return the final response head and the bytes behind it."""
        buffer, searched = b"", 0
        while True:
            head = parse_response_head(
                buffer, request_method=self._request.method, searched=searched
            )
            if head is not None and head.status >= 200:
                return head, buffer[head.size :]
            if head is not None and head.status == 101:
                raise UpstreamError("the backend switched protocols without being asked to")
            if head is not None:  # an interim response is for this hop only
                buffer, searched = buffer[head.size :], 0
                continue
            searched = len(buffer)
            data = await upstream.receive()
            if not data:
                if upstream.reused and not buffer:
                    raise _StaleError
                raise await _explain(self._backend, "it closed the connection without an answer")
            if self._exchange.first_byte_s is None:
                self._exchange.first_byte_s = trio.current_time()
            self._progress.note()
            buffer += data

    async def _relay_body(self, upstream: Upstream, head: ResponseHead, data: bytes) -> bool:
        """Send the answer; return whether the backend's connection can be used again."""
        exchange = self._exchange
        framing = ResponseFraming(head)
        http10 = self._request.version_minor == 0
        close = self._close or not self._request.keep_alive
        exchange.status = head.status
        chunked = head.framing is Framing.CHUNKED
        out = client_response_head(head, close=close, http10=http10)
        decode = Dechunker() if chunked and http10 else None
        hold = head.is_event_stream and chunked and not http10
        closes = close or head.framing is Framing.CLOSE or decode is not None
        try:
            while True:
                used = framing.feed(data)
                surplus = used < len(data)
                if surplus:
                    data = data[:used]
                exchange.tail = (exchange.tail + data)[-TAIL_BYTES:]
                exchange.sent_bytes += used
                if decode is not None:
                    data = decode.feed(data)
                elif hold:
                    data = self._hold_back(data, framing.boundary)
                    hold = len(self._held) <= MAX_HELD_BYTES
                    if not hold:
                        data, self._held = data + self._held, b""
                out += data
                if out:
                    exchange.begun = True
                    await self._client.send(out)
                if framing.done:
                    exchange.reusable = not closes
                    return head.keep_alive and not surplus
                out = b""
                data = await upstream.receive()
                self._progress.note()
                if not data:
                    if framing.eof():
                        return False
                    raise await _explain(self._backend, "it closed the connection mid-answer")
        except (UpstreamError, BackendError) as exc:
            exchange.error = exc
            await self._end_stream(head, exc, hold=hold, decoded=decode is not None)
            return False
        except trio.Cancelled:
            if self._progress.scope.cancel_called:
                await self._end_stream_shielded(head, hold=hold, decoded=decode is not None)
            raise

    def _hold_back(self, data: bytes, boundary: int) -> bytes:
        """Return what ends with a complete chunk; keep the rest for later."""
        if not boundary:
            self._held += data
            return b""
        complete = self._held + data[:boundary] if self._held else data[:boundary]
        self._held = data[boundary:]
        return complete

    async def _end_stream(
        self, head: ResponseHead, error: RouterError, *, hold: bool, decoded: bool
    ) -> None:
        """Tell a client that is in the middle of an event stream that it is over."""
        if not head.is_event_stream:
            return  # an incomplete body is the only honest sign that is left
        event = error_event(error)
        if hold:
            await self._client.send(b"%x\r\n%b\r\n%b" % (len(event), event, _LAST_CHUNK))
        elif decoded or head.framing is Framing.CLOSE:
            await self._client.send(event)

    async def _end_stream_shielded(self, head: ResponseHead, *, hold: bool, decoded: bool) -> None:
        """The same after the silence time-out; best effort, a second at most."""
        error = UpstreamTimeoutError(
            f"the backend of model {str(self._backend.model)!r} was silent for too long "
            "(read_timeout_s)"
        )
        self._exchange.error = error
        with trio.move_on_after(1, shield=True):
            try:
                await self._end_stream(head, error, hold=hold, decoded=decoded)
            except ClientGoneError:
                pass
