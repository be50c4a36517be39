"""``GET /admin/logs/MODEL``: the output of a model's backends, past and, if asked, future."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Final

import trio
from quart import Blueprint, Response, request

from ...core.apis.event_stream import NOT_BUFFERED
from ...errors.admission import UnknownModelError
from ...errors.requests import RequestError
from ...logs.rendering import timestamp
from ...model_logs.follow import LiveFollower
from ...model_logs.log_files import read_tail, record_line
from ...model_logs.record import LogRecord, as_text, join
from ...threads import in_thread
from ..web.context import ControlContext
from ..web.server import without_deadline
from .openapi import Query, describe

#: Number of past lines if the client gives none.
DEFAULT_TAIL: Final = 100

#: Most past lines that a client may request: some MB.
MAX_TAIL: Final = 10_000

#: Pause of a follower after it has read everything, in seconds. One write for all lines of a
#: burst costs a hundredth of one write per line.
PAUSE_S: Final = 0.05

JSON_LINES: Final = "application/x-ndjson"
TEXT: Final = "text/plain"

_Render = Callable[[list[LogRecord]], bytes]


def blueprint(context: ControlContext) -> Blueprint:
    """Return the route."""
    routes = Blueprint("logs", __name__, url_prefix="/admin/logs")

    @routes.get("/<path:name>")
    @describe(
        "The last lines of a model's backends; with follow, also new ones.",
        media=JSON_LINES,
        errors=(404,),
        query=(
            Query(
                name="tail",
                schema={"type": "integer", "minimum": 0, "maximum": MAX_TAIL},
                about="Number of past lines.",
            ),
            Query(
                name="follow",
                schema={"enum": ["0", "1"]},
                about="1 to continue with new lines.",
            ),
            Query(
                name="format",
                schema={"enum": ["json", "text"]},
                about="Format of a line; by default that of the field Accept.",
            ),
        ),
    )
    async def logs(name: str) -> Response:
        model = await _model(context, name)
        tail = tail_of(request.args.get("tail"))
        follow = follows(request.args.get("follow", "0"))
        mimetype = mimetype_of(request.args.get("format"))
        render: _Render = _render_text if mimetype == TEXT else partial(_render_json, model)
        if follow:
            without_deadline()
            body: AsyncIterator[bytes] | bytes = _follow(context, model, tail, render)
        else:
            records = await past_records(context, model, tail)
            body = await in_thread(render, records)
        return lines_response(body, mimetype, follow=follow)

    return routes


async def _model(context: ControlContext, name: str) -> str:
    """Return the id of the model *name*, or *name* if only a log of a former model has it.

    Raises:
        UnknownModelError: if neither a model nor a log has that name.
    """
    model = context.dispatcher.config.resolve(name)
    if model is not None:
        return str(model)
    path = context.logs.path_for(name)
    if path is None or not await in_thread(path.exists, abandon_on_cancel=True):
        raise UnknownModelError(f"no model or alias is named {name!r}, and there is no log of one")
    return name


def lines_response(body: AsyncIterator[bytes] | bytes, mimetype: str, *, follow: bool) -> Response:
    """Return the response with the lines of a log, which no cache keeps and no proxy collects."""
    response = Response(body, mimetype=mimetype)
    response.headers["cache-control"] = "no-store"
    if follow:
        field, value = NOT_BUFFERED  # plain text, too
        response.headers[field.decode()] = value.decode()
    return response


def follows(value: str) -> bool:
    """Return whether the parameter ``follow`` says so."""
    if value in ("", "1", "true", "yes"):
        return True
    if value in ("0", "false", "no"):
        return False
    raise RequestError("follow must be 1 or 0", param="follow")


def tail_of(value: str | None) -> int:
    """Return the number of past lines by the parameter ``tail``."""
    if value is None:
        return DEFAULT_TAIL
    if not (value.isascii() and value.isdigit() and len(value) <= 9 and int(value) <= MAX_TAIL):
        raise RequestError(f"tail must be a number from 0 to {MAX_TAIL}", param="tail")
    return int(value)


def mimetype_of(value: str | None) -> str:
    """Return the media type by the parameter *value*, else by the field ``Accept``."""
    if value is None:
        accepted = request.accept_mimetypes.best_match([JSON_LINES, "application/json", TEXT])
        return TEXT if accepted == TEXT else JSON_LINES
    if value not in ("json", "text"):
        raise RequestError("format must be 'json' or 'text'", param="format")
    return TEXT if value == "text" else JSON_LINES


def _render_json(model: str, records: list[LogRecord]) -> bytes:
    return b"".join(record_line(record, model) for record in records)


def _render_text(records: list[LogRecord]) -> bytes:
    return "".join(as_text(record) + "\n" for record in records).encode()


async def past_records(context: ControlContext, model: str, tail: int) -> list[LogRecord]:
    """Return the last lines: those in memory, preceded by older ones from the files."""
    recent = context.logs.for_model(model).recent(tail)
    now_ts = timestamp(time.time())
    path = context.logs.path_for(model)
    if len(recent) >= tail or path is None:
        return recent
    try:
        # Abandoned if the client disconnects: a file system that hangs must not hold the request.
        older = await in_thread(read_tail, path, tail, abandon_on_cancel=True)
    except OSError:
        return recent
    if not recent:  # lines printed during the read are not past ones
        return [record for record in older if record.ts < now_ts]
    return join(older, recent)[-tail:]


async def _follow(
    context: ControlContext, model: str, tail: int, render: _Render
) -> AsyncIterator[bytes]:
    """Yield the last lines, then new ones until the router shuts down.

    The follower queues lines that are printed while the past ones are read.
    """
    with context.logs.follow(model) as follower:
        yield render(await past_records(context, model, tail))
        async for data in _live(follower, render):
            yield data


async def _live(follower: LiveFollower, render: _Render) -> AsyncIterator[bytes]:
    while True:
        try:
            records = await follower.receive()
        except trio.EndOfChannel:
            return
        yield render(records)
        if not follower.queued_lines:
            await trio.sleep(PAUSE_S)
