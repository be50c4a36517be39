"""``GET /admin/activity``: the requests that are live, and the last ones that ended."""

from __future__ import annotations

import time
from base64 import b64encode
from http import HTTPStatus
from typing import Final

import msgspec
import trio
from quart import Blueprint, Response, request

from ...dispatch.activity_log import KEPT
from ...dispatch.captures import Capture, masked_body, response_of
from ...dispatch.dispatcher import Dispatcher
from ...dispatch.request_log import RequestLog
from ...errors.requests import RequestError
from ...http1 import Fields
from ...threads import in_thread
from ..web.context import ControlContext
from ..web.guard import answer
from . import record_schemas
from .openapi import Query, describe

#: Rows that are made before others get their turn: about half a millisecond.
_SLICE: Final = 50

#: No number of a request has so many digits.
_MAX_DIGITS: Final = 16


class CaptureNotFoundError(RequestError):
    """The bodies of that request are not kept."""

    code = "capture_not_found"
    status = HTTPStatus.NOT_FOUND


def blueprint(context: ControlContext) -> Blueprint:
    """Return the routes."""
    routes = Blueprint("activity", __name__, url_prefix="/admin/activity")
    log = context.dispatcher.activity

    @routes.get("")
    @describe(
        "Requests: live ones, and the last ones that ended.",
        answer=record_schemas.Activities,
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
            rows.append(activity_row(context.dispatcher, record))
        return answer(
            record_schemas.Activities(
                at=round(time.time(), 3), ended_count=log.ended_count, requests=rows
            )
        )

    @routes.get("/<number>/capture")
    @describe(
        "The bodies of a request and its response, if [router] capture_mib keeps any.",
        answer=record_schemas.Capture,
        errors=(404,),
    )
    async def capture(number: str) -> Response:
        is_number = number.isascii() and number.isdigit() and len(number) < _MAX_DIGITS
        found = context.dispatcher.captures.find(int(number)) if is_number else None
        if found is None:
            raise CaptureNotFoundError(
                f"the bodies of request {number[:_MAX_DIGITS]!r} are not kept: "
                "[router] capture_mib is 0, newer ones took their place, or there was no such one"
            )
        # On a thread: a body may have some MiB.
        described = await in_thread(_described, found, abandon_on_cancel=True)
        response = answer(described)
        response.headers["cache-control"] = "no-store"
        return response

    return routes


def activity_row(dispatcher: Dispatcher, record: RequestLog) -> record_schemas.Activity:
    """Return a request as clients see it now."""
    row = dispatcher.activity.row(record, now_s=trio.current_time())
    captured = dispatcher.captures.find(record.number) is not None
    return record_schemas.Activity(**msgspec.structs.asdict(row), captured=captured)


def _described(capture: Capture) -> record_schemas.Capture:
    response = response_of(capture)
    body = None if capture.body is None else masked_body(capture.body)
    return record_schemas.Capture(
        id=capture.number,
        request=record_schemas.CapturedMessage(
            status=None,
            method=capture.method,
            target=capture.target,
            headers=_texts(capture.fields),
            body=None if body is None else _text_of(body),
            base64=None if body is None else _base64_of(body),
            is_whole=capture.body is not None and len(capture.body) == capture.body_bytes,
        ),
        response=record_schemas.CapturedMessage(
            status=response.status,
            method=None,
            target=None,
            headers=_texts(response.fields),
            body=_text_of(response.body),
            base64=_base64_of(response.body),
            is_whole=response.is_whole,
        ),
    )


def _texts(fields: Fields) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def _text_of(body: bytes) -> str | None:
    """Return a body that is text; None for any other one."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _base64_of(body: bytes) -> str | None:
    """Return a body that is no text in base64."""
    return None if _text_of(body) is not None else b64encode(body).decode("ascii")


def _limit() -> int:
    text = request.args.get("limit", str(KEPT))
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise RequestError("'limit' must be a whole number above 0", param="limit")
    return int(text[:9])
