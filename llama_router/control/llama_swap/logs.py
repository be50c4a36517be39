"""``/logs`` and ``/logs/stream``: the router's own log and the output of backends, as text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack
from typing import Final

import attrs
import trio
from quart import Blueprint, Response, request

from ...core.apis.event_stream import NOT_BUFFERED
from ...logs.events import log
from ...logs.recent import RecentEvent
from ...logs.rendering import timestamp
from ...model_logs.follow import LiveFollower
from ...model_logs.record import LogRecord, as_text
from ...threads import in_thread
from ..admin.logs import PAUSE_S, TEXT
from ..admin.router_log import next_after, text_of
from ..llama_cpp.listing import named
from ..web.context import ControlContext
from ..web.guard import still_allowed
from ..web.server import without_deadline
from .waiting import wait_first

#: Past lines of each log, and the most bytes of all of them together.
_PAST_LINES: Final = 200
_PAST_BYTES: Final = 100 * 1024

#: Time after which a follower's secret is checked again, in seconds.
_CHECK_S: Final = 15.0


@attrs.frozen
class _Sources:
    """The logs that are sent.

    Attributes:
        router: The router's own.
        models: Those of backends.
        model: Only that of this model; None for all.
    """

    router: bool = True
    models: bool = True
    model: str | None = None


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes; they need the admin token, as all logs do."""
    routes = Blueprint("llama_swap_logs", __name__)

    @routes.get("/logs")
    async def logs() -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return Response(b"", 302, headers={"location": "/ui/"})
        return _text(await _past(context, _Sources()))

    @routes.get("/logs/stream")
    async def both() -> Response:
        return await stream(_Sources())

    @routes.get("/logs/stream/<path:name>")
    async def one(name: str) -> Response:
        if name == "proxy":
            return await stream(_Sources(models=False))
        if name == "upstream":
            return await stream(_Sources(router=False))
        return await stream(_Sources(router=False, model=str(named(context, name).id)))

    async def stream(sources: _Sources) -> Response:
        without_deadline()
        with_past = "no-history" not in request.args
        allowed = still_allowed(context.gate)
        response = _text(_follow(context, sources, allowed, with_past=with_past))
        field, value = NOT_BUFFERED
        response.headers[field.decode()] = value.decode()
        return response

    return routes


def _text(body: AsyncIterator[bytes] | bytes) -> Response:
    return Response(body, mimetype=TEXT, headers={"cache-control": "no-store"})


async def _past(context: ControlContext, sources: _Sources) -> bytes:
    """Return the last lines of all *sources*, by their time."""
    records: list[LogRecord] = []
    if sources.models:
        all_models = list(map(str, context.dispatcher.config.models))
        for model in all_models if sources.model is None else [sources.model]:
            records += context.logs.for_model(model).recent(_PAST_LINES)
            await trio.lowlevel.checkpoint()
    events = log.recent.after(log.recent.last - _PAST_LINES) if sources.router else []

    def render() -> bytes:
        lines = [(record.ts, _line(record)) for record in records]
        lines += [(timestamp(event.at), text_of(event)) for event in events]
        lines.sort(key=lambda line: line[0])
        text = b"".join(line for _, line in lines)
        if len(text) <= _PAST_BYTES:
            return text
        return text[-_PAST_BYTES:].partition(b"\n")[2]

    return await in_thread(render, abandon_on_cancel=True)


def _line(record: LogRecord) -> bytes:
    return as_text(record).encode() + b"\n"


async def _follow(
    context: ControlContext,
    sources: _Sources,
    allowed: Callable[[], bool],
    *,
    with_past: bool,
) -> AsyncIterator[bytes]:
    """Yield the past lines, then new ones, until the router shuts down or the secret ends."""
    with ExitStack() as stack:
        follower: LiveFollower | None = None
        if sources.models:
            follower = stack.enter_context(context.logs.follow(sources.model))
        last = log.recent.last
        if with_past and (past := await _past(context, sources)):
            yield past
        while allowed() and not (follower is not None and follower.is_over):
            await _wait(follower, last if sources.router else None)
            data = b"" if follower is None else b"".join(map(_line, follower.take()))
            if sources.router:
                events, last = log.recent.after(last), log.recent.last
                data += _rendered(events)
            if data:
                yield data
                await trio.sleep(PAUSE_S)


def _rendered(events: Iterable[RecentEvent]) -> bytes:
    return b"".join(map(text_of, events))


async def _wait(follower: LiveFollower | None, last: int | None) -> None:
    """Wait until there are lines for *follower*, or events of the router after *last*."""
    waits = []
    if follower is not None:
        waits.append(follower.wait)
    if last is not None:
        waits.append(lambda: next_after(log.recent, last))
    await wait_first(*waits, timeout_s=_CHECK_S)
