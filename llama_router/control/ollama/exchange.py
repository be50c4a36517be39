"""One request of Ollama's API that needs a model: lease, backend, translated answer."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Final

import msgspec
import trio
from quart import Response, request

from ...backends.client import BackendExchange, Timeouts
from ...backends.upstream import Upstream
from ...core.access.caller import Caller
from ...core.access.gate import Gate
from ...core.apis.dialect import StreamDialect, StreamInfo
from ...core.apis.notices import NOTIFY_FIELD, WaitReporter, wants_notices
from ...core.apis.ollama import OLLAMA, failure_lines
from ...core.apis.usage import HEAD_BYTES, TAIL_BYTES, usage_of
from ...core.config.names import ModelId
from ...core.config.specs import ModelSpec
from ...core.requests.routes import allowed, autoload_of, may_load
from ...dispatch.lease import Lease
from ...dispatch.request_log import Outcome, RequestLog
from ...dispatch.stream_wait import StreamWait
from ...errors.backends import BackendError, UpstreamError
from ...errors.base import RouterError
from ...errors.requests import EndpointNotAllowedError, RequestError
from ...threads import in_thread
from ..web.connection import request_stack
from ..web.context import ControlContext
from ..web.guard import may_change
from .answers import (
    RequestTimes,
    StreamTranslator,
    empty_answer,
    json_line,
    translate_answer,
)
from .listing import find_model
from .requests import COMPLETION_PATH, INFILL_PATH, TranslatedRequest, insert_error

#: Media type of lines of JSON.
LINES: Final = "application/x-ndjson"

#: Longest answer that is translated as a whole, in bytes: a large batch of embeddings, say 2048
#: of 4096 numbers, has 170 MB.
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024

#: Longer answers are translated in a thread.
_LARGE_BYTES: Final = 256 * 1024


class OllamaExchange:
    """Serves one request. Use `answer` once.

    Args:
        context: The router.
        translated: The request.
        body: The body for the backend.
        caller: The client.
    """

    def __init__(
        self, context: ControlContext, translated: TranslatedRequest, body: bytes, caller: Caller
    ) -> None:
        self._context = context
        self._request = translated
        self._body = body
        self._caller = caller
        self._address = request.remote_addr or ""
        self._begun_s = trio.current_time()
        # Made now, because a stream goes on when the request is no longer the current one.
        self._log = RequestLog(
            request.method, request.path, began_s=self._begun_s, peer=request.remote_addr or ""
        )
        self._log.model, self._log.key = translated.model, caller.name
        self._log.streamed = translated.stream
        self._log.outcome = Outcome.CLIENT_GONE  # until another end is known
        self._holding = AsyncExitStack()
        self._upstream: BackendExchange | None = None
        self._autoload = autoload_of(request.args.to_dict(flat=False))
        self._may_change = bool(self._autoload) and may_change(context.gate)
        self._may_load = True
        self._notify = request.headers.get(NOTIFY_FIELD, "")
        self._fields = _authorization(context.gate)
        self._is_repeated = False
        # Silence of the backend after which the client of a stream gets a keepalive, in seconds.
        keepalive_s = context.dispatcher.config.router.stream_keepalive_s
        self._pause_s = (keepalive_s if translated.stream else 0.0) or math.inf
        self._info = StreamInfo(
            id="",
            created_s=time.time(),
            model=translated.model,
            path=request.path,
            hides_thinking=translated.hide_thinking,
        )

    async def answer(self) -> Response:
        """Return the answer; a stream goes on after that.

        Raises:
            RouterError: if the request fails before the answer begins.
        """
        request_stack().callback(self._write_log)
        self._context.dispatcher.activity.begin(self._log)
        try:
            async with self._holding:
                return await self._answer()
        except RouterError as exc:
            self._log.refuse(exc)
            raise

    async def _answer(self) -> Response:
        dispatcher, translated = self._context.dispatcher, self._request
        spec = find_model(dispatcher.config, translated.model, self._caller, or_default=True)
        self._log.model = spec.id
        self._may_load = may_load(
            requested=self._autoload, configured=spec.autoload, may_change=self._may_change
        )
        if translated.path is not None:
            _check_allowed(translated.path, spec)
        elif translated.unloads:
            dispatcher.keep(spec.id, translated.keep_s)
            return self._complete(self._empty_answer(load_s=0.0))
        lease = self._lease(spec.id)
        self._log.lease = self._holding.enter_context(lease)
        lease.moved_bytes = lambda: self._log.sent_bytes
        if translated.stream and lease.granted_nowait() is None:
            wait = self._stream_wait(lease, spec)
            if lines := await wait.next_lines():
                return self._streamed(self._stream(lease, None, lines, wait))
        await lease.granted()
        if translated.path is None:
            dispatcher.keep(spec.id, translated.keep_s)
            return self._complete(self._empty_answer(load_s=lease.load_s))
        upstream = await self._deliver(translated.path)
        if translated.stream:
            return self._streamed(self._stream(lease, upstream))
        data = await upstream.receive_all(MAX_ANSWER_BYTES)
        return await self._translate(data, self._times(lease))

    def _lease(self, model: ModelId) -> Lease:
        return self._context.dispatcher.lease(
            model,
            caller=self._caller,
            address=self._address,
            may_load=self._may_load,
        )

    def _stream_wait(self, lease: Lease, spec: ModelSpec) -> StreamWait:
        now_s = trio.current_time()
        stream = StreamDialect(OLLAMA, self._info)
        notices = wants_notices(self._notify, spec)
        reporter = WaitReporter(stream, notices=notices, now_s=now_s)
        return StreamWait(self._context.dispatcher, lease, spec.id, reporter, self._caller)

    async def _deliver(self, path: str) -> BackendExchange:
        """Send the request to the granted backend; return when a successful answer begins.

        It is sent to the next backend, once, if this one ended before it read the request. The
        exchange of a stream is returned without a status when a keepalive is due; a further call
        goes on.
        """
        while True:
            try:
                upstream = self._upstream
                if upstream is None or upstream.undelivered:
                    upstream = await self._begin(path)
                await upstream.within(self._pause_s, upstream.head)
                if upstream.status:
                    await self._check(upstream, path)
            except BackendError:
                upstream = self._upstream
                if self._is_repeated or upstream is None or not upstream.undelivered:
                    raise
                self._lease_again(upstream.backend)
            else:
                return upstream

    def _lease_again(self, ended: Upstream) -> None:
        """Take a lease on the backend that follows *ended*, in place of the one on that."""
        self._is_repeated = True
        dispatcher, lease = self._context.dispatcher, self._log.lease
        assert lease is not None, "it granted the backend"
        dispatcher.release(lease.request)  # not at the end: max_in_flight may be 1
        again = self._lease(ended.model)
        self._log.lease = self._holding.enter_context(again)
        again.moved_bytes = lease.moved_bytes

    async def _begin(self, path: str) -> BackendExchange:
        """Send the request to the backend that the lease grants."""
        dispatcher, lease = self._context.dispatcher, self._log.lease
        assert lease is not None, "the request has one"
        backend = await lease.granted()
        dispatcher.activity.granted(self._log)
        dispatcher.keep(backend.model, self._request.keep_s)
        upstream = BackendExchange(backend, Timeouts.of(dispatcher.config.router))
        self._upstream = self._holding.enter_context(upstream)
        lease.cut = upstream.cancel
        await upstream.begin("POST", path, fields=self._fields, body=self._body)
        return upstream

    async def _check(self, upstream: BackendExchange, path: str) -> None:
        """Make sure that the response of the backend is a success, and of the right kind."""
        try:
            await upstream.check()
        except (RequestError, UpstreamError) as exc:
            refusal = insert_error(self._request.model, upstream.status, str(exc))
            if path == INFILL_PATH and refusal is not None:
                raise refusal from exc
            raise
        if self._request.stream:
            await upstream.expect_events()

    async def _translate(self, data: bytes, times: RequestTimes) -> Response:
        path = self._request.path or ""
        self._log.usage = usage_of(path, data[-TAIL_BYTES:], data[:HEAD_BYTES])
        now_s = trio.current_time()

        def translate() -> bytes:
            answer = translate_answer(self._request, data, now_s=now_s, times=times)
            return msgspec.json.encode(answer)

        if len(data) < _LARGE_BYTES:
            body = translate()
        else:
            body = await in_thread(translate, abandon_on_cancel=True)
        return self._complete(body)

    def _streamed(self, lines: AsyncIterator[bytes]) -> Response:
        """Return an answer of *lines*; the request then holds lease and connection to its end."""
        # The request, not the generator, which is never started if the client leaves at once.
        self._holding = self._holding.pop_all()
        request_stack().push_async_exit(self._holding)
        return Response(lines, content_type=LINES)

    async def _stream(
        self,
        lease: Lease,
        upstream: BackendExchange | None,
        lines: bytes = b"",
        wait: StreamWait | None = None,
    ) -> AsyncIterator[bytes]:
        """Yield lines until the answer is complete; a failure is the last line.

        Args:
            lease: The lease of the backend.
            upstream: The exchange with the backend; None if it has not begun.
            lines: The first lines of *wait*.
            wait: The wait for the backend; None if there is none.
        """
        failed, begun = Outcome.REFUSED, False
        try:
            while wait is not None and lines:
                self._log.sent_bytes += len(lines)
                yield lines
                lines = await wait.next_lines()
            backend = await lease.granted()
            if self._request.path is None:
                self._context.dispatcher.keep(backend.model, self._request.keep_s)
                yield self._empty_answer(load_s=lease.load_s)
                self._log.outcome = Outcome.OK
                return
            if upstream is None:
                upstream = await self._deliver(self._request.path)
            while not upstream.status:
                yield OLLAMA.keepalive(self._info)
                upstream = await self._deliver(self._request.path)
            failed = Outcome.CUT
            translator = StreamTranslator(self._request, self._times(lease))
            data: bytes | None = b""
            while not translator.done:
                data, lines = await self._next_lines(upstream, translator)
                if lines:
                    self._log.sent_bytes += len(lines)
                    begun = begun or data is not None
                    yield lines
            if (error := translator.error) is not None:
                # The stream may have ended because the process did, which explains more.
                raise error if data else await upstream.error_for(str(error))
        except RouterError as exc:
            self._log.error, self._log.outcome = exc, failed
            yield failure_lines(self._info, exc, begun=begun)
        else:
            self._log.outcome = Outcome.OK

    async def _next_lines(
        self, upstream: BackendExchange, translator: StreamTranslator
    ) -> tuple[bytes | None, bytes]:
        """Return what the backend sends next, and the lines that it makes, perhaps none.

        Where a keepalive is due, that is the line, of None.
        """
        data = await upstream.within(self._pause_s, upstream.receive)
        if data is None:
            return None, OLLAMA.keepalive(self._info)
        lines = translator.feed(data, now_s=trio.current_time())
        self._log.usage = translator.usage
        return data, lines

    def _empty_answer(self, *, load_s: float) -> bytes:
        now_s = trio.current_time()
        times = RequestTimes(
            arrived_s=self._begun_s, load_s=load_s, granted_s=now_s, epoch_s=time.time() - now_s
        )
        return json_line(empty_answer(self._request, now_s=now_s, times=times))

    def _complete(self, body: bytes) -> Response:
        self._log.sent_bytes = len(body)
        self._log.outcome = Outcome.OK
        return Response(body, content_type=LINES if self._request.stream else "application/json")

    def _times(self, lease: Lease) -> RequestTimes:
        return RequestTimes(
            arrived_s=lease.arrived_s,
            load_s=lease.load_s,
            granted_s=lease.granted_s,
            epoch_s=time.time() - trio.current_time(),
        )

    def _write_log(self) -> None:
        """Log the request, once it is over."""
        log, upstream = self._log, self._upstream
        if upstream is not None and upstream.status:
            log.first_body_s = upstream.first_body_s
        if log.outcome in (Outcome.OK, Outcome.CUT):
            log.status = int(HTTPStatus.OK)
        if upstream is not None and log.outcome is not Outcome.CLIENT_GONE:
            self._context.dispatcher.note_outcome(
                upstream.backend, status=upstream.status, error=log.error
            )
        log.write(now_s=trio.current_time())


def _authorization(gate: Gate) -> list[tuple[bytes, bytes]]:
    """Return the current request's key for the backend, unless it is one for the router."""
    given = request.headers.get("authorization")
    if given is None or b"authorization" in gate.strip_headers:
        return []
    return [(b"authorization", given.encode("latin-1"))]


def _check_allowed(path: str, spec: ModelSpec) -> None:
    endpoints = spec.spawn.proxy_endpoints
    # `proxy_endpoints` that allow completions allow insertions, too.
    paths = (path, COMPLETION_PATH) if path == INFILL_PATH else (path,)
    if not any(allowed(each.encode(), endpoints) for each in paths):
        raise EndpointNotAllowedError(
            f"this asks model {str(spec.id)!r} at {path!r}, which is not among its "
            f"proxy_endpoints: {', '.join(endpoints)}"
        )
