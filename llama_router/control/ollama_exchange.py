"""One request of an Ollama client that needs a model: lease, backend, translated answer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

import msgspec
import trio
from quart import Response, request

from .. import logs
from ..core.access import Asker
from ..core.config import ModelSpec
from ..core.ollama import answers, listing
from ..core.ollama.answers import Stream, Times
from ..core.ollama.requests import Wanted
from ..core.routes import allowed
from ..core.usage import TAIL_BYTES, Usage, usage_of
from ..dispatcher import Lease
from ..errors import EndpointNotAllowedError, RouterError
from .context import ControlContext
from .upstream import Upstream, request_stack

#: Answers above this are translated in a thread.
_LARGE_BYTES: Final = 256 * 1024


class Exchange:
    """Serves one request. Use `answer` once.

    Args:
        context: The router.
        wanted: What the client wants.
        asker: Who it is.
    """

    def __init__(self, context: ControlContext, wanted: Wanted, asker: Asker) -> None:
        self._context = context
        self._wanted = wanted
        self._asker = asker
        self._begun_s = trio.current_time()
        self._lease: Lease | None = None
        self._upstream: Upstream | None = None
        self._model: str = wanted.model
        self._method, self._path = request.method, request.path
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
            return await self._answer()
        except RouterError as exc:
            self._error, self._outcome = exc, "refused"
            raise

    async def _answer(self) -> Response:
        dispatcher, wanted = self._context.dispatcher, self._wanted
        spec = listing.find(dispatcher.config, wanted.model, self._asker)
        self._model = spec.id
        if wanted.path is not None:
            _check_allowed(wanted.path, spec)
        elif wanted.unloads:
            dispatcher.keep(spec.id, wanted.keep_s)
            return self._nothing_said(load_s=0.0)
        async with AsyncExitStack() as holding:
            lease = holding.enter_context(dispatcher.lease(spec.id, asker=self._asker.name))
            self._lease = lease
            backend = await lease.granted()
            dispatcher.keep(spec.id, wanted.keep_s)
            if wanted.path is None:
                return self._nothing_said(load_s=lease.load_s)
            router = dispatcher.config.router
            upstream = Upstream(
                backend,
                connection_timeout_s=router.connection_timeout_s,
                read_timeout_s=router.read_timeout_s,
            )
            self._upstream = holding.enter_context(upstream)
            lease.cut = upstream.cut
            await upstream.post(wanted.path, wanted.body, self._passed_on())
            if wanted.stream:
                # Here, not in the body: nobody may ever begin to read it.
                request_stack().push_async_exit(holding.pop_all())
                stream = self._stream(upstream, Stream(wanted, self._times(lease)))
                return Response(stream, content_type="application/x-ndjson")
            data = await upstream.receive_all()
            return await self._whole(data, self._times(lease))

    async def _whole(self, data: bytes, times: Times) -> Response:
        self._usage = usage_of(data[-TAIL_BYTES:])
        now_s = trio.current_time()

        def translate() -> bytes:
            return msgspec.json.encode(answers.whole(self._wanted, data, now_s=now_s, times=times))

        if len(data) < _LARGE_BYTES:
            body = translate()
        else:
            body = await trio.to_thread.run_sync(translate, abandon_on_cancel=True)
        return self._complete(body)

    async def _stream(self, upstream: Upstream, stream: Stream) -> AsyncIterator[bytes]:
        """Yield lines until the answer is complete; a failure is the last line."""
        try:
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
            self._error, self._outcome = exc, "cut"
            yield answers.ollama_error(exc)
        else:
            self._outcome = "ok"

    def _nothing_said(self, *, load_s: float) -> Response:
        now_s = trio.current_time()
        times = Times(
            arrived_s=self._begun_s, load_s=load_s, granted_s=now_s, epoch_s=time.time() - now_s
        )
        said = answers.nothing_said(self._wanted, now_s=now_s, times=times)
        media = "application/x-ndjson" if self._wanted.stream else "application/json"
        return self._complete(msgspec.json.encode(said) + b"\n", media)

    def _complete(self, body: bytes, media: str = "application/json") -> Response:
        self._sent_bytes = len(body)
        self._outcome = "ok"
        return Response(body, content_type=media)

    def _times(self, lease: Lease) -> Times:
        return Times(
            arrived_s=lease.arrived_s,
            load_s=lease.load_s,
            granted_s=lease.granted_s,
            epoch_s=time.time() - trio.current_time(),
        )

    def _passed_on(self) -> dict[str, str]:
        """Return the fields of the request that the backend gets, too."""
        given = request.headers.get("authorization")
        if given is None or b"authorization" in self._context.gate.withheld:
            return {}
        return {"authorization": given}

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
                logs.info("request.refused", fields)
                return
        fields["status"] = 200 if self._outcome in ("ok", "cut") else 0
        fields["outcome"] = self._outcome
        fields["sent_bytes"] = self._sent_bytes
        fields["prompt_tokens"] = self._usage.prompt_tokens
        fields["completion_tokens"] = self._usage.completion_tokens
        logs.info("request.completed", fields)


def _check_allowed(path: str, spec: ModelSpec) -> None:
    endpoints = spec.spawn.proxy_endpoints
    if not allowed(path.encode(), endpoints):
        raise EndpointNotAllowedError(
            f"this asks model {str(spec.id)!r} at {path!r}, which is not among its "
            f"proxy_endpoints: {', '.join(endpoints)}"
        )
