"""One exchange with a backend: the request goes up, the answer comes down as it arrives.

Nothing is buffered but what is needed to end an event stream properly when the
backend dies: an incomplete chunk is held back until the rest of it is here (`BodyEncoder`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Final

from ..backends.backend import Backend
from ..core.apis.model_names import ModelNameRewriter
from ..core.apis.registry import APIS
from ..core.apis.usage import TAIL_BYTES
from ..errors.backends import BackendError, UpstreamError, UpstreamTimeoutError
from ..errors.base import RouterError
from ..http1 import (
    Framing,
    RequestHead,
    ResponseHead,
    client_response_head,
    parse_response_head,
    upstream_request_head,
)
from .body import BodyEncoder, ErrorBody, continued
from .loop.engine import Engine
from .loop.fiber import ENDING_S, FiberCutError, FiberTimeoutError
from .pump import BrokenOffError, Pump, Tail
from .renamed_body import ModelNameEncoder, framed_anew, renaming_of
from .sockets import Client, ClientGoneError, Upstream, connect
from .tunnel import tunnel
from .waiting import EarlyStream

#: Bodies below this are sent together with the head, in one segment, in bytes.
SMALL_BODY_BYTES: Final = 64 * 1024


class _StaleError(Exception):
    """A kept connection was closed before a byte of the answer came."""


class Exchange:
    """A request, and what happened to it so far. Use `run` once.

    Every request makes one, so it is a plain class with slots: its making counts.

    Attributes:
        target: What to ask for, in the backend's own terms; set it before `run`.
        body: The request's body, decoded; None if it has none. Set it before `run`.
        connection_timeout_s: Seconds allowed for a connection to the backend.
        read_timeout_s: Longest silence, of either side, in seconds.
        close: The client's connection ends with this answer.
        withheld: Fields of the request that no backend may see; names in lower case.
        extra: Fields to add to the answer.
        early: The answer, if it has begun before there was a backend; it is continued.
        on_answer: Called when the answer begins: the body is not needed any more.
        bears: The name that the model has in the answer; None for what the backend says.
        status: The backend's status; 0 before it answered.
        first_byte_s: Clock time of the answer's first byte, in seconds.
        sent_bytes: Bytes of the answer's body, as framed, sent to the client.
        begun: The client has got a part of the answer.
        reusable: The client's connection may be used for another request.
        error: What ended the answer early, after it had begun.
    """

    __slots__ = (
        "_backend",
        "_client",
        "_engine",
        "_fiber",
        "_head",
        "_tail",
        "bears",
        "begun",
        "body",
        "close",
        "connection_timeout_s",
        "early",
        "error",
        "extra",
        "first_byte_s",
        "on_answer",
        "read_timeout_s",
        "reusable",
        "sent_bytes",
        "status",
        "target",
        "withheld",
    )

    _backend: Backend

    def __init__(self, engine: Engine, client: Client, head: RequestHead) -> None:
        self._engine = engine
        self._client = client
        self._fiber = client.fiber
        self._head = head
        self.target = head.origin
        self.body: bytes | bytearray | None = None
        self.on_answer: Callable[[], None] | None = None
        self.connection_timeout_s = math.inf
        self.read_timeout_s = math.inf
        self.close = False
        self.withheld: frozenset[bytes] = frozenset()
        self.extra: Sequence[tuple[bytes, bytes]] = ()
        self.early: EarlyStream | None = None
        self.bears: str | None = None
        self.status = 0
        self.first_byte_s: float | None = None
        self.sent_bytes = 0
        self._tail: Tail | bytes = b""
        self.begun = False
        self.reusable = False
        self.error: RouterError | None = None

    def continue_(self, early: EarlyStream | None) -> None:
        """Let the backend's answer go into *early*, if that has begun."""
        if early is not None:
            self.early = early
            self.withheld |= {b"accept-encoding"}  # ours says that it is not encoded

    def bear(self, name: str) -> None:
        """Let the answer bear *name*, as far as it says of which model it is."""
        self.bears = name
        self.withheld |= {b"accept-encoding"}  # a compressed one could not be changed

    @property
    def tail(self) -> bytes:
        """The end of the answer's body, at most `TAIL_BYTES` of it."""
        tail = self._tail
        return tail[-TAIL_BYTES:] if isinstance(tail, bytes) else tail.last()

    async def run(self, backend: Backend) -> None:
        """Send the request to *backend* and its answer to the client.

        If the backend fails before the answer has begun, the failure is raised, and the
        client has got nothing. If it fails later, an event stream is ended with an error
        event, any other body is left visibly incomplete, and `error` says why.

        Raises:
            ClientGoneError: if the client left; the backend was told by closing.
            BackendError: if the backend's process ended before it answered.
            UpstreamError: if the exchange with it failed otherwise.
            FiberCutError: if the request is ended, as if the backend had failed.
        """
        self._backend = backend
        self._client.slow = False
        try:
            try:
                await self._attempt(self._kept())
            except _StaleError:
                # Nothing at all came back, so nothing can have been done twice visibly.
                await self._attempt(None)
        except FiberTimeoutError:
            raise self._silence() from None
        except UpstreamError as exc:
            if (model := f"model {str(backend.model)!r}") in str(exc):
                raise
            raise UpstreamError(f"the backend of {model} failed: {exc}") from exc
        finally:
            self._fiber.deadline_s = math.inf

    async def _attempt(self, upstream: Upstream | None) -> None:
        """Exchange request and answer on *upstream*, or on a new connection."""
        clean = False
        try:
            if upstream is None:
                upstream = await self._connect()
            head, data = await self._receive_head(upstream, await self._send(upstream))
            if self.on_answer is not None:
                self.body = None
                self.on_answer()
            clean = await self._answer(upstream, head, data)
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
        """Send the request; return what the backend did not want of it, or None."""
        body, backend = self.body, self._backend
        request = upstream_request_head(
            self._head,
            target=self.target,
            host=backend.authority,
            content_length=None if body is None else len(body),
            withheld=self.withheld,
        )
        silence_s = self.read_timeout_s
        self._fiber.expire_in(silence_s if upstream.reused else self.connection_timeout_s)
        try:
            if not body or len(body) < SMALL_BODY_BYTES:
                request = request + body if body else request
                rest = await upstream.send(request, silence_s=silence_s)
            else:
                rest = await upstream.send(request, silence_s=silence_s)
                self._fiber.expire_in(silence_s)
                if rest is None:
                    rest = await upstream.send(body, silence_s=silence_s)
        except OSError as exc:
            if not upstream.connected:
                raise await self._explain(f"it does not accept connections: {exc}") from exc
            rest = memoryview(b"")  # it may have answered before it closed; that is read next
        except FiberTimeoutError:
            if upstream.connected:
                raise
            raise UpstreamError(
                f"the backend of model {str(backend.model)!r} did not accept a connection "
                f"within {self.connection_timeout_s:g} s (connection_timeout_s)"
            ) from None
        self._fiber.expire_in(silence_s)
        return rest

    async def _receive_head(
        self, upstream: Upstream, rest: memoryview | None
    ) -> tuple[ResponseHead, bytes]:
        """Return the final response head and the bytes behind it.

        Args:
            upstream: Where it comes from.
            rest: The part of the request that was not sent yet.
        """
        method = self._head.method
        buffer, searched = b"", 0
        while True:
            data = await upstream.receive()
            if not data:
                if upstream.reused and self.first_byte_s is None:
                    raise _StaleError
                raise await self._explain("it closed the connection without an answer")
            if self.first_byte_s is None:
                self.first_byte_s = self._engine.clock()
            buffer = buffer + data if buffer else data
            while head := parse_response_head(buffer, request_method=method, searched=searched):
                switched = head.status == HTTPStatus.SWITCHING_PROTOCOLS
                if switched and not self._head.upgrade:
                    raise UpstreamError("the backend switched protocols without being asked to")
                if switched or head.status >= HTTPStatus.OK:
                    if rest is not None:
                        head.keep_alive = False  # it still waits for the rest of the request
                    return head, buffer[head.size :]
                buffer, searched = buffer[head.size :], 0
                await self._pass_on_interim(head)
                if rest:
                    rest = await upstream.send(rest, silence_s=self.read_timeout_s)
            searched = len(buffer)
            self._fiber.expire_in(self.read_timeout_s)

    async def _pass_on_interim(self, head: ResponseHead) -> None:
        """Let the client see an interim answer, if it is for it. Source: RFC 9110, section 15.2."""
        # 100 is for this hop alone: the body is here. HTTP/1.0 knows no interim answers.
        # Nor can it follow an answer that has begun.
        if head.status != HTTPStatus.CONTINUE and self._head.version_minor and self.early is None:
            await self._client.send(client_response_head(head, close=False))

    async def _answer(self, upstream: Upstream, head: ResponseHead, data: bytes) -> bool:
        """Send the answer; return whether the backend's connection can be used again."""
        if self.early is not None:
            return await self._continue(self.early, upstream, head, data)
        if self.bears is not None:
            return await self._rename(self.bears, upstream, head, data)
        http10 = self._head.version_minor == 0
        close = self.close or not self._head.keep_alive
        self.status = head.status
        out = client_response_head(head, close=close, http10=http10, extra=self.extra)
        if head.framing is Framing.LENGTH and len(data) == head.content_length:
            # Complete already, as most that are no streams: nothing is left to watch over.
            self.begun = True
            self.sent_bytes = len(data)
            self._tail = data
            if (rest := self._client.send_nowait(out + data)) is not None:
                await self._client.send_rest(rest)
            self.reusable = not close
            return head.keep_alive
        shaper = BodyEncoder(head, http10=http10)
        try:
            if head.status == HTTPStatus.SWITCHING_PROTOCOLS:
                self.begun = True
                await self._client.send(out)
                self.sent_bytes = await tunnel(
                    self._client, upstream, data, idle_timeout_s=self.read_timeout_s
                )
                return False
            surplus = await self._pump(upstream, head, out, data, shaper)
        except (UpstreamError, BackendError, FiberTimeoutError, FiberCutError) as exc:
            if not self.begun:
                raise
            await self._end_early(shaper, exc)
            return False
        ends_with_close = head.framing is Framing.CLOSE or (
            http10 and head.framing is Framing.CHUNKED
        )
        self.reusable = not (close or ends_with_close)
        return head.keep_alive and not surplus and head.framing is not Framing.CLOSE

    async def _continue(
        self, early: EarlyStream, upstream: Upstream, head: ResponseHead, data: bytes
    ) -> bool:
        """Put the answer into the one that has begun; return as `_answer` does."""
        shaper = continued(head, early.dialect)
        if self.bears is not None and not isinstance(shaper, ErrorBody):
            renaming = ModelNameRewriter(self.bears, events=True)
            shaper = ModelNameEncoder(head, renaming, in_chunks=True)
        return await self._reframe(upstream, head, b"", data, shaper)

    async def _rename(self, name: str, upstream: Upstream, head: ResponseHead, data: bytes) -> bool:
        """Send the answer with *name* in it; return as `_answer` does."""
        self.bears = None
        renaming = renaming_of(head, name)
        if renaming is None:
            return await self._answer(upstream, head, data)
        if head.framing is Framing.LENGTH and len(data) == head.content_length:
            data = renaming.feed(data)
            head.content_length = len(data)
            return await self._answer(upstream, head, data)
        anew, http10 = framed_anew(head), not self._head.version_minor
        in_chunks = anew.framing is Framing.CHUNKED and not http10
        self.close |= not in_chunks
        close = self.close or not self._head.keep_alive
        out = client_response_head(anew, close=close, http10=http10, extra=self.extra)
        shaper = ModelNameEncoder(head, renaming, in_chunks=in_chunks)
        return await self._reframe(upstream, head, out, data, shaper)

    async def _reframe(
        self, upstream: Upstream, head: ResponseHead, out: bytes, data: bytes, shaper: BodyEncoder
    ) -> bool:
        """Send *out* and the body as *shaper* frames it anew; return as `_answer` does."""
        self.status = head.status
        try:
            surplus = await self._pump(upstream, head, out, data, shaper)
            if ending := shaper.finish():
                await self._client.send(ending)
        except (UpstreamError, BackendError, FiberTimeoutError, FiberCutError) as exc:
            if not self.begun:
                raise
            await self._end_early(shaper, exc)
            return False
        self.reusable = self._head.keep_alive and not self.close
        return head.keep_alive and not surplus and head.framing is not Framing.CLOSE

    async def _pump(
        self, upstream: Upstream, head: ResponseHead, out: bytes, data: bytes, shaper: BodyEncoder
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
        self._tail = tail = Tail()
        pump = Pump(
            self._engine,
            upstream,
            self._client,
            head=head,
            shaper=shaper,
            tail=tail,
            timeout_s=self.read_timeout_s,
        )
        try:
            return await pump.run(out, data)
        except BrokenOffError:
            raise await self._explain("it closed the connection mid-answer") from None
        finally:
            self.begun |= pump.begun
            self.sent_bytes += pump.moved_bytes

    # -- when it goes wrong -------------------------------------------------------------------

    def _in_words(self, exc: Exception) -> RouterError:
        if isinstance(exc, FiberTimeoutError):
            return self._silence()
        if isinstance(exc, FiberCutError):
            return exc.error
        assert isinstance(exc, RouterError)
        return exc

    async def _end_early(self, shaper: BodyEncoder, exc: Exception) -> None:
        """Tell the client that the answer ends here. Best effort: it may be the silent side."""
        self.error = error = self._in_words(exc)
        api = APIS.api_of_stream(self._head.path.decode("ascii", "replace"))
        ending = shaper.ending(api.last_event(error))
        if self._client.torn:
            return
        self._fiber.expire_in(ENDING_S)
        with contextlib.suppress(ClientGoneError, FiberTimeoutError):
            await self._client.send(ending)

    async def _explain(self, symptom: str) -> RouterError:
        """Return the backend's own end as the error, if it ended; else the *symptom*.

        Raises:
            ClientGoneError: if the client left meanwhile.
        """
        error = await self._engine.in_trio(
            self._fiber, partial(self._backend.error_for, symptom), unless_gone=self._client
        )
        if error is None:
            raise ClientGoneError
        return error

    def _silence(self) -> UpstreamTimeoutError:
        return UpstreamTimeoutError(
            f"the backend of model {str(self._backend.model)!r} was silent for "
            f"{self.read_timeout_s:g} s (read_timeout_s), or the client took nothing for as long"
        )


class Handshake(Exchange):
    """An exchange that may end in a tunnel; its connection to the backend serves nothing else.

    A backend that has refused a handshake may take what comes next on that connection for
    anything but a request, and never answer it. So none is kept behind a handshake, and no
    handshake goes where other requests have been.
    """

    __slots__ = ()

    def _kept(self) -> None:
        return None

    async def _answer(self, upstream: Upstream, head: ResponseHead, data: bytes) -> bool:
        await super()._answer(upstream, head, data)
        return False
