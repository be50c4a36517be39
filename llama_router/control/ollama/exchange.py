"""One request of an Ollama client that needs a model: lease, backend, translated answer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec
import trio
from quart import Response, request

from ...backends.backend import Backend
from ...backends.client import BackendExchange, Timeouts
from ...core.access.gate import Caller, Gate
from ...core.apis.notices import NOTIFY_FIELD, WaitReporter, wants_notices
from ...core.apis.usage import TAIL_BYTES, Usage, usage_of
from ...core.config.specs import ModelSpec
from ...core.requests.routes import allowed
from ...dispatch.lease import Lease
from ...errors.backends import UpstreamError
from ...errors.base import RouterError
from ...errors.requests import EndpointNotAllowedError, RequestError
from ...logs.output import log_info
from ...threads import in_thread
from ..web.connection import request_stack
from ..web.context import ControlContext
from . import answers, listing
from .answers import Stream, Times
from .requests import COMPLETION_PATH, INFILL_PATH, Wanted, cannot_insert
from .waiting import Waiting

#: Media type of lines of JSON.
LINES: Final = "application/x-ndjson"

#: Longest answer that is translated as a whole, in bytes: a large batch of embeddings, say 2048
#: of 4096 numbers, has 170 MB.
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024

#: Answers above this are translated in a thread.
_LARGE_BYTES: Final = 256 * 1024


class Exchange:
    """Serves one request. Use `answer` once.

    Args:
        context: The router.
        wanted: What the client wants.
        body: What to ask the backend.
        asker: Who it is.
    """

    def __init__(self, context: ControlContext, wanted: Wanted, body: bytes, asker: Caller) -> None:
        self._context = context
        self._wanted = wanted
        self._body = body
        self._asker = asker
        self._begun_s = trio.current_time()
        self._holding = AsyncExitStack()
        self._lease: Lease | None = None
        self._upstream: BackendExchange | None = None
        self._model: str = wanted.model
        # Taken now, because a stream goes on when the request is no longer the current one.
        self._method, self._path = request.method, request.path
        self._notify = request.headers.get(NOTIFY_FIELD, "")
        self._fields = _passed_on(context.gate)
        self._usage = Usage()
        self._sent_bytes = 0
        self._error: RouterError | None = None
        self._outcome = "client_gone"  # until it is known to have ended otherwise

    async def answer(self) -> Response:
        """Return the answer; a stream goes on after that.

        Raises:
            RouterError: if there is none.
        """
        request_stack().callback(self._record)
        try:
            async with self._holding:
                return await self._answer()
        except RouterError as exc:
            self._error, self._outcome = exc, "refused"
            raise

    async def _answer(self) -> Response:
        dispatcher, wanted = self._context.dispatcher, self._wanted
        spec = listing.find(dispatcher.config, wanted.model, self._asker, needed=True)
        self._model = spec.id
        if wanted.path is not None:
            _check_allowed(wanted.path, spec)
        elif wanted.unloads:
            dispatcher.keep(spec.id, wanted.keep_s)
            return self._complete(self._nothing_said(load_s=0.0))
        lease = dispatcher.lease(spec.id, asker=self._asker.name)
        self._lease = self._holding.enter_context(lease)
        if wanted.stream and lease.granted_nowait() is None:
            waiting = self._waiting(lease, spec)
            if said := await waiting.heard():
                return self._going_on(self._stream(lease, None, said, waiting))
        backend = await lease.granted()
        if wanted.path is None:
            dispatcher.keep(spec.id, wanted.keep_s)
            return self._complete(self._nothing_said(load_s=lease.load_s))
        upstream = await self._ask(lease, backend, wanted.path)
        if wanted.stream:
            return self._going_on(self._stream(lease, upstream))
        data = await upstream.receive_all(MAX_ANSWER_BYTES)
        return await self._whole(data, self._times(lease))

    def _waiting(self, lease: Lease, spec: ModelSpec) -> Waiting:
        now_s = trio.current_time()
        voice = answers.OllamaStreamDialect(self._wanted, answers.timestamp(time.time()))
        company = WaitReporter(voice, notices=wants_notices(self._notify, spec), now_s=now_s)
        return Waiting(self._context.dispatcher, lease, spec.id, company, self._asker)

    async def _ask(self, lease: Lease, backend: Backend, path: str) -> BackendExchange:
        """Ask the backend; return its answer, once that begins."""
        dispatcher = self._context.dispatcher
        dispatcher.keep(backend.model, self._wanted.keep_s)
        upstream = BackendExchange(backend, Timeouts.of(dispatcher.config.router))
        self._upstream = self._holding.enter_context(upstream)
        lease.cut = upstream.cancel
        try:
            await upstream.request("POST", path, fields=self._fields, body=self._body)
        except (RequestError, UpstreamError) as exc:
            refusal = cannot_insert(self._wanted.model, upstream.status, str(exc))
            if path == INFILL_PATH and refusal is not None:
                raise refusal from exc
            raise
        if self._wanted.stream:
            await upstream.expect_events()
        return upstream

    async def _whole(self, data: bytes, times: Times) -> Response:
        self._usage = usage_of(data[-TAIL_BYTES:])
        now_s = trio.current_time()

        def translate() -> bytes:
            return msgspec.json.encode(answers.whole(self._wanted, data, now_s=now_s, times=times))

        if len(data) < _LARGE_BYTES:
            body = translate()
        else:
            body = await in_thread(translate, abandon_on_cancel=True)
        return self._complete(body)

    def _going_on(self, lines: AsyncIterator[bytes]) -> Response:
        """Return an answer that goes on after `answer`, and keeps what it needs as long."""
        # On the request, not in the lines: nobody may ever begin to read them.
        self._holding = self._holding.pop_all()
        request_stack().push_async_exit(self._holding)
        # As llama-server says; else nginx would collect them.
        return Response(lines, content_type=LINES, headers={"x-accel-buffering": "no"})

    async def _stream(
        self,
        lease: Lease,
        upstream: BackendExchange | None,
        said: bytes = b"",
        waiting: Waiting | None = None,
    ) -> AsyncIterator[bytes]:
        """Yield lines until the answer is complete; a failure is the last line.

        Args:
            lease: The hold on the backend.
            upstream: The backend's answer; None if it was not asked yet.
            said: What the client is to hear first.
            waiting: What it waits for; None if it does not.
        """
        failed = "refused"
        try:
            while waiting is not None and said:
                self._sent_bytes += len(said)
                yield said
                said = await waiting.heard()
            backend = await lease.granted()
            if self._wanted.path is None:
                self._context.dispatcher.keep(backend.model, self._wanted.keep_s)
                yield self._nothing_said(load_s=lease.load_s)
                self._outcome = "ok"
                return
            if upstream is None:
                upstream = await self._ask(lease, backend, self._wanted.path)
            failed = "cut"
            stream = Stream(self._wanted, self._times(lease))
            data = b""
            while not stream.done:
                data = await upstream.receive()
                lines = stream.feed(data, now_s=trio.current_time())
                self._usage = stream.usage
                if lines:
                    self._sent_bytes += len(lines)
                    yield lines
            if stream.error is not None:
                # The end of a connection may be that of a process, which explains more.
                raise stream.error if data else await upstream.explain(str(stream.error))
        except RouterError as exc:
            self._error, self._outcome = exc, failed
            yield answers.ollama_error(exc)
        else:
            self._outcome = "ok"

    def _nothing_said(self, *, load_s: float) -> bytes:
        now_s = trio.current_time()
        times = Times(
            arrived_s=self._begun_s, load_s=load_s, granted_s=now_s, epoch_s=time.time() - now_s
        )
        said = answers.nothing_said(self._wanted, now_s=now_s, times=times)
        return msgspec.json.encode(said) + b"\n"

    def _complete(self, body: bytes) -> Response:
        self._sent_bytes = len(body)
        self._outcome = "ok"
        return Response(body, content_type=LINES if self._wanted.stream else "application/json")

    def _times(self, lease: Lease) -> Times:
        return Times(
            arrived_s=lease.arrived_s,
            load_s=lease.load_s,
            granted_s=lease.granted_s,
            epoch_s=time.time() - trio.current_time(),
        )

    def _record(self) -> None:
        """Log the request, once it is over."""
        fields: dict[str, Any] = {
            "model": self._model,
            "method": self._method,
            "path": self._path,
        }
        lease, upstream = self._lease, self._upstream
        if lease is not None and lease.asker is not None:
            fields["key"] = lease.asker
        if lease is not None and lease.backend is not None:
            fields["queue_s"] = round(lease.queue_s, 4)
            fields["load_s"] = round(lease.load_s, 4)
            if upstream is not None and upstream.status:
                fields["ttft_s"] = round(upstream.first_byte_s - lease.arrived_s, 4)
        fields["duration_s"] = round(trio.current_time() - self._begun_s, 4)
        if self._error is not None:
            fields |= {"code": self._error.code, "reason": str(self._error)}
            if self._outcome == "refused":
                fields["status"] = int(self._error.status)
                log_info("request.refused", fields)
                return
        fields["status"] = 200 if self._outcome in ("ok", "cut") else 0
        fields["outcome"] = self._outcome
        fields["sent_bytes"] = self._sent_bytes
        fields["prompt_tokens"] = self._usage.prompt_tokens
        fields["completion_tokens"] = self._usage.completion_tokens
        log_info("request.completed", fields)


def _passed_on(gate: Gate) -> list[tuple[bytes, bytes]]:
    """Return the fields of the current request that the backend gets, too."""
    given = request.headers.get("authorization")
    if given is None or b"authorization" in gate.withheld:
        return []
    return [(b"authorization", given.encode("latin-1"))]


def _check_allowed(path: str, spec: ModelSpec) -> None:
    endpoints = spec.spawn.proxy_endpoints
    # Where completions are wanted, this is one of them.
    paths = (path, COMPLETION_PATH) if path == INFILL_PATH else (path,)
    if not any(allowed(each.encode(), endpoints) for each in paths):
        raise EndpointNotAllowedError(
            f"this asks model {str(spec.id)!r} at {path!r}, which is not among its "
            f"proxy_endpoints: {', '.join(endpoints)}"
        )
