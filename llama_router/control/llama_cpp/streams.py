"""llama.cpp's resumable streams: requests go to the backend that keeps the conversation.

Source: llama.cpp, tools/server/server-stream.cpp.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, suppress
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import msgspec
import trio
from quart import Blueprint, Response, request

from ...backends.backend import Backend
from ...backends.client import BackendExchange, Timeouts, fetch
from ...core.access.gate import Scope
from ...core.apis.model_names import ModelNameRewriter
from ...core.apis.registry import APIS
from ...core.config.names import ModelId
from ...core.requests.routes import allowed
from ...core.scheduling.lifecycle import Phase
from ...dispatch.conversations import MAX_LOOKED_UP, Conversations, Owner, Replay
from ...errors.base import RouterError
from ...errors.requests import RequestError
from ..web.connection import request_stack
from ..web.context import ControlContext
from ..web.guard import answer, caller, json_body, open_to
from ..web.server import without_deadline

#: Paths of the router and of the backend.
_STREAM: Final = "/v1/stream"
_LOOKUP: Final = "/v1/streams/lookup"

#: llama-server keeps streams of chat completions only.
_API: Final = APIS.api_of_stream("/v1/chat/completions")

#: Time limit for the list of conversations that a backend keeps, in seconds.
LOOKUP_TIMEOUT_S: Final = 2.0

#: Largest response with that list, in bytes.
_MAX_BYTES: Final = 4 * 1024 * 1024


class StreamNotFoundError(RequestError):
    """No running backend that the client may use keeps this conversation."""

    code = "stream_not_found"
    status = HTTPStatus.NOT_FOUND


class LookupBody(msgspec.Struct):
    """The conversations of a client."""

    conversation_ids: list[str] = []


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("conversations", __name__)
    finder = _Finder(context)

    @routes.get(_STREAM)
    @open_to(Scope.MODELS)
    async def resume() -> Response:
        name, from_bytes = _name(), _from_bytes()
        owner, backend = finder.find(name)
        replay = Replay(owner, from_bytes)
        target = _target(name, replay.from_bytes)
        without_deadline()
        with ExitStack() as holding:
            upstream = holding.enter_context(finder.hold(owner.model, backend, holding))
            try:
                await upstream.request("GET", target)
            except RequestError as exc:
                if exc.status is HTTPStatus.NOT_FOUND:
                    finder.forget(name)
                    raise _unknown(name) from exc
                raise
            request_stack().push(holding.pop_all())
        return Response(
            _stream(upstream, replay),
            content_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    @routes.delete(_STREAM)
    @open_to(Scope.MODELS)
    async def cancel() -> Response:
        name = _name()
        with suppress(StreamNotFoundError):  # then there is nothing to cancel
            _, backend = finder.find(name)
            finder.forget(name)
            with finder.exchange(backend) as upstream:
                await upstream.request("DELETE", _target(name))
        return Response(b"", HTTPStatus.NO_CONTENT)

    @routes.post(_LOOKUP)
    @open_to(Scope.MODELS)
    async def look_up() -> Response:
        names = (await json_body(LookupBody)).conversation_ids
        if len(names) > MAX_LOOKED_UP:
            raise RequestError(
                f"at most {MAX_LOOKED_UP} conversations are looked up at once",
                param="conversation_ids",
            )
        return answer(await finder.look_up(names))

    return routes


def _name() -> str:
    name = request.args.get("conv_id")
    if not name:
        raise RequestError("'?conv_id=' must name a conversation", param="conv_id")
    return name


def _from_bytes() -> int:
    text = request.args.get("from") or "0"
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RequestError("'?from=' must be a number of bytes", param="from")
    return int(text)


def _target(name: str, from_bytes: int | None = None) -> str:
    """Return path and query of the stream of conversation *name* at a backend."""
    target = f"{_STREAM}?conv_id={quote(name, safe='')}"
    return target if from_bytes is None else f"{target}&from={from_bytes}"


def _unknown(name: str) -> StreamNotFoundError:
    return StreamNotFoundError(
        f"no running model keeps a stream of the conversation {name[:100]!r}; send the request "
        "again",
        param="conv_id",
    )


async def _stream(upstream: BackendExchange, replay: Replay) -> AsyncIterator[bytes]:
    """Yield the backend's replay, adapted for the client, until it is complete."""
    if replay.begin:
        yield replay.begin
    try:
        while data := await upstream.receive():
            if piece := replay.feed(data):
                yield piece
    except RouterError as exc:
        yield b"\n\n" + _API.last_event(exc)


class _Finder:
    """Finds the backends that keep conversations, for the current caller."""

    def __init__(self, context: ControlContext) -> None:
        self._dispatcher = context.dispatcher
        self._conversations: Conversations = context.conversations

    def find(self, name: str) -> tuple[Owner, Backend]:
        """Return the owner of the conversation *name* and its backend.

        Raises:
            StreamNotFoundError: if no running backend that the caller may use keeps it.
        """
        found = self._kept_by(self._conversations.owner(name))
        if found is None:
            raise _unknown(name)
        return found

    def forget(self, name: str) -> None:
        """Record that no backend keeps *name* any more."""
        self._conversations.forget(name)

    def hold(self, model: ModelId, backend: Backend, stack: ExitStack) -> BackendExchange:
        """Return an exchange that holds a lease of *model*, if one is granted at once.

        The lease prevents a swap. Without it the exchange goes on: if the model is draining, a
        wait for a lease would last until the backend has ended.
        """
        upstream = self.exchange(backend)
        if self._dispatcher.phase(model) is not Phase.READY:
            return upstream
        with ExitStack() as holding, suppress(RouterError):
            lease = holding.enter_context(
                self._dispatcher.lease(
                    model, caller=caller().name, may_load=False, takes_slot=False
                )
            )
            if lease.granted_nowait() is backend:
                lease.cut = upstream.cancel
                stack.push(holding.pop_all())
        return upstream

    def exchange(self, backend: Backend) -> BackendExchange:
        """Return an exchange with *backend*."""
        return BackendExchange(backend, Timeouts.of(self._dispatcher.config.router))

    async def look_up(self, names: list[str]) -> list[dict[str, Any]]:
        """Return the backends' entries of those conversations that they keep."""
        self._conversations.forget_gone(
            {backend.model: backend.pid for backend in self._dispatcher.ready_backends()}
        )
        asked: dict[int, tuple[Backend, dict[str, Owner]]] = {}
        for name, owner in self._conversations.looked_up(names).items():
            if (found := self._kept_by(owner)) is not None:
                asked.setdefault(owner.pid, (found[1], {}))[1][name] = owner
        streams: list[dict[str, Any]] = []
        async with trio.open_nursery() as nursery:
            for backend, owners in asked.values():
                nursery.start_soon(self._add_known, backend, owners, streams)
        return streams

    async def _add_known(
        self, backend: Backend, owners: dict[str, Owner], streams: list[dict[str, Any]]
    ) -> None:
        """Add the entries of *backend* for these conversations to *streams*."""
        for stream in await _known_to(backend, owners):
            name = str(stream["conversation_id"])
            owner = owners[name]
            if isinstance(total_bytes := stream.get("total_bytes"), int):
                if owner.response_model is not None:
                    total_bytes = await self._renamed_bytes(
                        name, backend, owner.response_model, total_bytes
                    )
                stream["total_bytes"] = total_bytes + owner.said_bytes
            streams.append(stream)

    async def _renamed_bytes(
        self, name: str, backend: Backend, response_model: str, total_bytes: int
    ) -> int:
        """Return the size of the stream so far for a client, which gets another model name.

        Each event contains the name, and their number is unknown, so the stream is read. A part
        that cannot be read in time counts with the backend's size.
        """
        read_bytes = renamed_bytes = 0
        renaming = ModelNameRewriter(response_model, events=True)
        waiting = trio.move_on_after(LOOKUP_TIMEOUT_S)
        with waiting, suppress(RouterError), self.exchange(backend) as upstream:
            await upstream.request("GET", _target(name, 0))
            while read_bytes < total_bytes and (data := await upstream.receive()):
                kept = data[: total_bytes - read_bytes]
                read_bytes += len(kept)
                renamed_bytes += len(renaming.feed(kept))
        return renamed_bytes + total_bytes - read_bytes

    def _kept_by(self, owner: Owner | None) -> tuple[Owner, Backend] | None:
        """Return *owner* and its backend, if that process still runs and the caller may use it."""
        backend = None if owner is None else self._dispatcher.backend(owner.model)
        if owner is None or backend is None or backend.pid != owner.pid:
            return None
        spec = self._dispatcher.config.models.get(owner.model)
        if spec is None or not caller().may_use(spec):
            return None
        if not allowed(_STREAM.encode(), spec.spawn.proxy_endpoints):
            return None
        return owner, backend


async def _known_to(backend: Backend, owners: Mapping[str, Owner]) -> list[dict[str, Any]]:
    """Return the entries of *backend* for these conversations; none if it keeps none."""
    body = msgspec.json.encode({"conversation_ids": list(owners)})
    with suppress(RouterError, msgspec.DecodeError, RecursionError):
        listed = await fetch(
            backend, _LOOKUP, body=body, max_bytes=_MAX_BYTES, timeout_s=LOOKUP_TIMEOUT_S
        )
        if listed.status == HTTPStatus.OK:
            found = msgspec.json.decode(listed.body, type=list[dict[str, Any]])
            return [stream for stream in found if str(stream.get("conversation_id")) in owners]
    return []
