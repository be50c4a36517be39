"""What happens, as server-sent events: a snapshot first, then every change.

Source of the format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

import msgspec
import trio
from quart import Blueprint, Response, request

from ...core.apis.notices import SIGN_OF_LIFE_S
from ..web.context import ControlContext
from ..web.server import without_deadline
from .openapi import Query, describe
from .status import StatusPage

_ID: Final = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})")


def blueprint(context: ControlContext) -> Blueprint:
    """Return the route."""
    routes = Blueprint("events", __name__, url_prefix="/admin")
    feed = Feed(context)

    @routes.get("/events")
    @describe(
        "A stream of events: snapshot, then model, progress, download, config and router.",
        media="text/event-stream",
        query=[
            Query(
                name="last_event_id",
                schema={"type": "string"},
                about="Go on after this event, as the field Last-Event-ID does.",
            )
        ],
    )
    async def events() -> Response:
        without_deadline()
        last_id = request.headers.get("last-event-id") or request.args.get("last_event_id")
        return Response(
            feed.stream(last_id or ""),
            content_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    return routes


class Feed:
    """The news of a router, in the form of a stream."""

    def __init__(self, context: ControlContext) -> None:
        self._news = context.dispatcher.news
        self._page = StatusPage(context)

    async def stream(self, last_id: str) -> AsyncIterator[bytes]:
        """Yield everything after the event *last_id*; if that is not known, a snapshot first."""
        news, number = self._news, self._number(last_id)
        yield b"retry: 1000\n\n"
        while True:
            items = None if number is None else news.after(number)
            if number is None or items is None:  # new here, or too far behind
                chunk, number = await self._snapshot()
                yield chunk
                continue
            for item in items:
                yield self._event(item.number, item.kind, item.data)
                number = item.number
                if item.kind == "router":
                    return  # it stops; the client will come back when there is a new one
            if not items:
                with trio.move_on_after(SIGN_OF_LIFE_S) as quiet:
                    await news.wait_after(number)
                if quiet.cancelled_caught:
                    yield b": still here\n\n"

    def _number(self, last_id: str) -> int | None:
        """Return the number in *last_id*; None if it is not of this life of the router."""
        found = _ID.fullmatch(last_id)
        if found is None or found[1] != self._news.edition:
            return None
        return int(found[2])

    async def _snapshot(self) -> tuple[bytes, int]:
        # What happens while it is made comes once more after it: better than not at all.
        number = self._news.last
        state = await self._page.router(with_configuration=False)
        return self._event(number, "snapshot", state), number

    def _event(self, number: int, kind: str, data: object) -> bytes:
        return b"id: %b-%d\nevent: %b\ndata: %b\n\n" % (
            self._news.edition.encode(),
            number,
            kind.encode(),
            msgspec.json.encode(data),
        )
