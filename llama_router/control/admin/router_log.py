"""``GET /admin/router-log``: the latest events of the router's own log, and new ones if asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from typing import Final

import trio
from quart import Blueprint, Response, request

from ...errors.requests import RequestError
from ...logs.console import ConsoleRenderer
from ...logs.events import log
from ...logs.recent import RecentEvent, RecentEvents
from ...logs.rendering import LEVELS, json_line, timestamp
from ...threads import in_thread
from ..web.context import ControlContext
from ..web.guard import still_allowed
from ..web.server import without_deadline
from .logs import JSON_LINES, MAX_TAIL, PAUSE_S, TEXT, follows, lines_response, mimetype_of, tail_of
from .openapi import Query, describe

#: Time after which a follower's secret is checked again, in seconds.
_CHECK_S: Final = 15.0

_CONSOLE: Final = ConsoleRenderer(colours=False)


def blueprint(context: ControlContext) -> Blueprint:
    """Return the route."""
    routes = Blueprint("router_log", __name__, url_prefix="/admin/router-log")

    @routes.get("")
    @describe(
        "The latest events of the router's own log; with follow, also new ones.",
        media=JSON_LINES,
        query=(
            Query(
                name="tail",
                schema={"type": "integer", "minimum": 0, "maximum": MAX_TAIL},
                about="Number of past events.",
            ),
            Query(
                name="follow",
                schema={"enum": ["0", "1"]},
                about="1 to continue with new events.",
            ),
            Query(
                name="level",
                schema={"enum": list(LEVELS)},
                about="The lowest level.",
            ),
            Query(
                name="format",
                schema={"enum": ["json", "text"]},
                about="Format of a line; by default that of the field Accept.",
            ),
        ),
    )
    async def router_log() -> Response:
        tail = tail_of(request.args.get("tail"))
        levels = _levels(request.args.get("level", LEVELS[0]))
        mimetype = mimetype_of(request.args.get("format"))
        render = text_of if mimetype == TEXT else _json

        def lines(events: Iterable[RecentEvent]) -> bytes:
            return b"".join(render(event) for event in events)

        past = [event for event in log.recent.after(0) if event.level in levels]
        past = past[max(0, len(past) - tail) :]
        last = log.recent.last
        body: AsyncIterator[bytes] | bytes = await in_thread(lines, past, abandon_on_cancel=True)
        follow = follows(request.args.get("follow", "0"))
        if follow:
            without_deadline()
            assert isinstance(body, bytes)
            body = _follow(body, last, levels, lines, still_allowed(context.gate))
        return lines_response(body, mimetype, follow=follow)

    return routes


def _levels(lowest: str) -> frozenset[str]:
    if lowest not in LEVELS:
        raise RequestError(f"level must be one of {', '.join(LEVELS)}", param="level")
    return frozenset(LEVELS[LEVELS.index(lowest) :])


def _json(event: RecentEvent) -> bytes:
    head = {"ts": timestamp(event.at), "level": event.level, "event": event.name}
    return json_line({**head, **event.fields})


def text_of(event: RecentEvent) -> bytes:
    """Return *event* as a line of text."""
    fields = dict(event.fields)
    trace = str(fields.pop("traceback", ""))
    return _CONSOLE.line(event.at, event.level, event.name, fields, trace)


async def _follow(
    past: bytes,
    last: int,
    levels: frozenset[str],
    lines: Callable[[Iterable[RecentEvent]], bytes],
    allowed: Callable[[], bool],
) -> AsyncIterator[bytes]:
    """Yield *past*, then the events after the number *last* until the secret counts no more."""
    yield past
    while allowed():
        with trio.move_on_after(_CHECK_S):
            await next_after(log.recent, last)
        events = log.recent.after(last)
        last = log.recent.last
        data = lines(event for event in events if event.level in levels)
        if data:
            yield data
        if events:
            await trio.sleep(PAUSE_S)


async def next_after(recent: RecentEvents, number: int) -> None:
    """Wait until there is an event after *number*; they come from any thread."""
    news, token = trio.Event(), trio.lowlevel.current_trio_token()

    def wake() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(news.set, idempotent=True)

    recent.listen(wake)
    try:
        if recent.last <= number:
            await news.wait()
    finally:
        recent.forget(wake)
