"""llama.cpp's resumable streams: requests go to the backend that keeps the conversation.

While the request of a conversation still waits for its backend, the router itself keeps its
stream: what it has said, and what it says from then on.

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
from ...core.access.caller import Caller
from ...core.access.gate import Scope
from ...core.apis.model_names import ModelNameRewriter
from ...core.apis.registry import APIS
from ...core.config.names import ModelId
from ...core.requests.routes import allowed
from ...core.scheduling import refusals
from ...core.scheduling.lifecycle import Phase
from ...dispatch.conversations import MAX_LOOKED_UP, Conversations, Owner, Replay, WaitingStream
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

#: Time in which a backend that was just granted may not have read the request yet, in seconds.
HANDOVER_S: Final = 10.0

#: Pause between two looks whether it has, in seconds.
HANDOVER_PAUSE_S: Final = 0.05

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
        by = caller()
        without_deadline()
        holding = request_stack().enter_context(ExitStack())
        waiting = finder.waiting(name, by)
        if waiting is not None:
            stream = _stream_of_wait(finder, name, by, waiting, from_bytes, holding)
        else:
            stream = _stream(*await finder.replay(name, by, from_bytes, holding))
        return Response(
            stream,
            content_type="text/event-stream",
            headers={"cache-control": "no-cache"},
        )

    @routes.delete(_STREAM)
    @open_to(Scope.MODELS)
    async def cancel() -> Response:
        name = _name()
        waiting = finder.waiting(name, caller())
        if waiting is not None:
            waiting.cut(refusals.stopped_by_client())
        with suppress(StreamNotFoundError):  # then there is nothing to cancel
            _, backend = finder.find(name, caller())
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
        return answer(await finder.look_up(names, caller()))

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


async def _stream_of_wait(
    finder: _Finder,
    name: str,
    by: Caller,
    waiting: WaitingStream,
    from_bytes: int,
    holding: ExitStack,
) -> AsyncIterator[bytes]:
    """Yield what is said while the conversation waits, then its backend's stream.

    Args:
        finder: Finds the backend.
        name: The name of the conversation.
        by: The client.
        waiting: The stream in which it waits.
        from_bytes: Offset from which the client requests it.
        holding: Holds what the stream needs to its end.
    """
    at = from_bytes
    while True:
        if data := bytes(waiting.said[at:]):
            at += len(data)
            yield data
        elif waiting.over:
            break
        else:
            news = trio.Event()
            with waiting.listen(news.set):
                await news.wait()
    if waiting.failed:
        return
    try:
        upstream, replay = await finder.replay(name, by, at, holding, patience_s=HANDOVER_S)
    except RouterError as exc:
        yield _API.last_event(exc)
        return
    async for data in _stream(upstream, replay):
        yield data


class _Finder:
    """Finds the backends that keep conversations."""

    def __init__(self, context: ControlContext) -> None:
        self._dispatcher = context.dispatcher
        self._conversations: Conversations = context.conversations

    def waiting(self, name: str, by: Caller) -> WaitingStream | None:
        """Return the stream in which the conversation *name* of the client *by* waits, if any."""
        waiting = self._conversations.waiting(name)
        return waiting if waiting is not None and self._may_use(waiting.model, by) else None

    async def replay(
        self,
        name: str,
        by: Caller,
        from_bytes: int,
        holding: ExitStack,
        *,
        patience_s: float = 0.0,
    ) -> tuple[BackendExchange, Replay]:
        """Return the replay of the conversation *name*, and its adaption for the client *by*.

        Args:
            name: The name of the conversation.
            by: The client.
            from_bytes: Offset from which the client requests it.
            holding: Holds the exchange, and a lease if one is granted at once.
            patience_s: Seconds in which the backend may not know it yet.

        Raises:
            StreamNotFoundError: if no running backend that the client may use keeps it.
        """
        until_s = trio.current_time() + patience_s
        while True:
            owner, backend = self.find(name, by)
            replay = Replay(owner, from_bytes)
            with ExitStack() as trying:
                upstream = trying.enter_context(self.hold(owner.model, backend, trying, by))
                try:
                    await upstream.request("GET", _target(name, replay.from_bytes))
                except RequestError as exc:
                    if exc.status is not HTTPStatus.NOT_FOUND:
                        raise
                    if trio.current_time() >= until_s:
                        self.forget(name)
                        raise _unknown(name) from exc
                else:
                    holding.push(trying.pop_all())
                    return upstream, replay
            await trio.sleep(HANDOVER_PAUSE_S)

    def find(self, name: str, by: Caller) -> tuple[Owner, Backend]:
        """Return the owner of the conversation *name* and its backend.

        Raises:
            StreamNotFoundError: if no running backend that the client *by* may use keeps it.
        """
        found = self._kept_by(self._conversations.owner(name), by)
        if found is None:
            raise _unknown(name)
        return found

    def forget(self, name: str) -> None:
        """Record that no backend keeps *name* any more."""
        self._conversations.forget(name)

    def hold(
        self, model: ModelId, backend: Backend, stack: ExitStack, by: Caller
    ) -> BackendExchange:
        """Return an exchange that holds a lease of *model*, if one is granted at once.

        The lease prevents a swap. Without it the exchange goes on: if the model is draining, a
        wait for a lease would last until the backend has ended.
        """
        upstream = self.exchange(backend)
        if self._dispatcher.phase(model) is not Phase.READY:
            return upstream
        with ExitStack() as holding, suppress(RouterError):
            lease = holding.enter_context(
                self._dispatcher.lease(model, caller=by, may_load=False, takes_slot=False)
            )
            if lease.granted_nowait() is backend:
                lease.cut = upstream.cancel
                stack.push(holding.pop_all())
        return upstream

    def exchange(self, backend: Backend) -> BackendExchange:
        """Return an exchange with *backend*."""
        return BackendExchange(backend, Timeouts.of(self._dispatcher.config.router))

    async def look_up(self, names: list[str], by: Caller) -> list[dict[str, Any]]:
        """Return the entries of those conversations that backends keep, or that wait for one."""
        self._conversations.forget_gone(
            {backend.model: backend.pid for backend in self._dispatcher.ready_backends()}
        )
        waiting = self._conversations.waiting_of(names)
        asked: dict[int, tuple[Backend, dict[str, Owner]]] = {}
        for name, owner in self._conversations.looked_up(names).items():
            if name not in waiting and (found := self._kept_by(owner, by)) is not None:
                asked.setdefault(owner.pid, (found[1], {}))[1][name] = owner
        streams: list[dict[str, Any]] = [
            {
                "conversation_id": name,
                "is_done": False,
                "total_bytes": len(stream.said),
                "started_at": int(stream.started_s),
                "completed_at": 0,
            }
            for name, stream in waiting.items()
            if self._may_use(stream.model, by)
        ]
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

    def _may_use(self, model: ModelId, by: Caller) -> bool:
        """Return whether the client *by* may use streams of *model*."""
        spec = self._dispatcher.config.models.get(model)
        if spec is None or not by.may_use(spec):
            return False
        return allowed(_STREAM.encode(), spec.spawn.proxy_endpoints)

    def _kept_by(self, owner: Owner | None, by: Caller) -> tuple[Owner, Backend] | None:
        """Return *owner* and its backend, if that process runs and the client *by* may use it."""
        backend = None if owner is None else self._dispatcher.backend(owner.model)
        if owner is None or backend is None or backend.pid != owner.pid:
            return None
        return (owner, backend) if self._may_use(owner.model, by) else None


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
