"""``GET /admin/activity``: the requests that are live, and the last ones that ended."""

from __future__ import annotations

import time
from typing import Final

import attrs
import trio
from quart import Blueprint, Response, request

from ...dispatch.activity_log import KEPT, ActivityLog
from ...dispatch.request_log import RequestLog
from ...errors.requests import RequestError
from ..web.context import ControlContext
from ..web.guard import answer
from . import schemas
from .openapi import Query, describe

#: Rows that are made before others get their turn: about half a millisecond.
_SLICE: Final = 50


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("activity", __name__, url_prefix="/admin/activity")
    log = context.dispatcher.activity

    @routes.get("")
    @describe(
        "Requests: live ones, and the last ones that ended.",
        answer=schemas.Activities,
        query=[
            Query(
                name="limit",
                schema={"type": "integer", "minimum": 1, "default": KEPT},
                about="How many at most.",
            )
        ],
    )
    async def activity() -> Response:
        rows = []
        for number, record in enumerate(log.latest(_limit())):
            if number % _SLICE == _SLICE - 1:
                await trio.lowlevel.checkpoint()
            rows.append(activity_row(log, record))
        return answer(
            schemas.Activities(at=round(time.time(), 3), ended_count=log.ended_count, requests=rows)
        )

    return routes


def activity_row(log: ActivityLog, record: RequestLog) -> schemas.Activity:
    """Return a request as clients see it now."""
    row = log.row(record, now_s=trio.current_time())
    return schemas.Activity(**attrs.asdict(row, recurse=False), captured=False)


def _limit() -> int:
    text = request.args.get("limit", str(KEPT))
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise RequestError("'limit' must be a whole number above 0", param="limit")
    return int(text[:9])
