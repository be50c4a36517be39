"""``GET /admin/timeline``: which model was loaded when, and why it left; requests per minute."""

from __future__ import annotations

import time
from typing import Final

from quart import Blueprint, Response, request

from ...dispatch.load_log import LoadRecord
from ...dispatch.traffic import KEPT_MINUTES, MINUTE_S
from ...errors.requests import RequestError
from ..web.context import ControlContext
from ..web.guard import answer
from . import record_schemas
from .openapi import Query, describe

#: The span that is shown by default, and the longest one, in seconds.
DEFAULT_S: Final = 3600
MAX_S: Final = KEPT_MINUTES * MINUTE_S


def blueprint(context: ControlContext) -> Blueprint:
    """Return the route."""
    routes = Blueprint("timeline", __name__, url_prefix="/admin/timeline")
    loads, traffic = context.dispatcher.loads, context.traffic

    @routes.get("")
    @describe(
        "Loads and stops of models with their reasons, and requests and tokens per minute.",
        answer=record_schemas.Timeline,
        query=[
            Query(
                name="since_s",
                schema={
                    "type": "integer",
                    "minimum": 1,
                    "maximum": MAX_S,
                    "default": DEFAULT_S,
                },
                about="How far back, in seconds.",
            )
        ],
    )
    async def timeline() -> Response:
        since_s, now = _since_s(), time.time()
        shown = [
            record
            for record in (*loads.ended, *loads.running.values())
            if (ended_at := record.at(record.ended_s)) is None or ended_at >= now - since_s
        ]
        return answer(
            record_schemas.Timeline(
                at=round(now, 3),
                loads=[_described(record) for record in shown],
                series=[
                    record_schemas.Minute(
                        at=at,
                        requests=minute.requests,
                        refused=minute.refused,
                        failed=minute.failed,
                        prompt_tokens=minute.prompt_tokens,
                        completion_tokens=minute.completion_tokens,
                    )
                    for at, minute in traffic.since(since_s)
                ],
            )
        )

    return routes


def _described(record: LoadRecord) -> record_schemas.Load:
    reason = "failed" if record.failure is not None else record.stop_cause
    return record_schemas.Load(
        model=str(record.model),
        cause=record.cause.value,
        began_at=round(record.began_at, 3),
        ready_at=record.at(record.ready_s),
        stopping_at=record.at(record.stopping_s),
        ended_at=record.at(record.ended_s),
        reason=None if reason is None else str(reason),
        words=record.reason,
        failure=record.failure,
        for_model=None if record.for_model is None else str(record.for_model),
        devices=list(record.devices),
    )


def _since_s() -> int:
    text = request.args.get("since_s", str(DEFAULT_S))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 0 < int(text) <= MAX_S):
        raise RequestError(f"'since_s' must be from 1 to {MAX_S}", param="since_s")
    return int(text)
