"""``GET /admin/events``: server-sent events, first a snapshot, then each event of the feed.

Source of the format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

import msgspec
import trio
from quart import Blueprint, Response, request

from ...core.apis.notices import KEEPALIVE_S
from ...event_feed import RouterDraining
from ..web.context import ControlContext
from ..web.server import without_deadline
from .openapi import Query, describe
from .status import StatusPage

_ID: Final = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})")


def blueprint(context: ControlContext) -> Blueprint:
    """Return the route."""
    routes = Blueprint("events", __name__, url_prefix="/admin")
    stream = EventStream(context)

    @routes.get("/events")
    @describe(
        "A stream of events: snapshot, then model, progress, download, removed, config and router.",
        media="text/event-stream",
        query=[
            Query(
                name="last_event_id",
                schema={"type": "string"},
                about="Resume after this event, like the field Last-Event-ID.",
            )
        ],
    )
    async def events() -> Response:
        without_deadline()
        last_id = request.headers.get("last-event-id") or request.args.get("last_event_id")
        return Response(
            stream.encoded(last_id or ""),
            content_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    return routes


class EventStream:
    """The router's event feed, encoded as server-sent events."""

    def __init__(self, context: ControlContext) -> None:
        self._feed = context.dispatcher.feed
        self._page = StatusPage(context)

    async def encoded(self, last_id: str) -> AsyncIterator[bytes]:
        """Yield the events after *last_id*; if that id is unknown, a snapshot first."""
        feed, number = self._feed, self._number(last_id)
        yield b"retry: 1000\n\n"
        while True:
            items = None if number is None else feed.after(number)
            if number is None or items is None:  # a new client, or one that is too far behind
                chunk, number = await self._snapshot()
                yield chunk
                continue
            for item in items:
                yield self._encode(item.number, item.event.kind, item.event.to_json())
                number = item.number
                if isinstance(item.event, RouterDraining):
                    return  # the client reconnects once another router runs
            if not items:
                with trio.move_on_after(KEEPALIVE_S) as quiet:
                    await feed.wait_after(number)
                if quiet.cancelled_caught:
                    yield b": still here\n\n"

    def _number(self, last_id: str) -> int | None:
        """Return the event number in *last_id*; None if it is of another epoch."""
        found = _ID.fullmatch(last_id)
        if found is None or found[1] != self._feed.epoch:
            return None
        return int(found[2])

    async def _snapshot(self) -> tuple[bytes, int]:
        # Events published while the snapshot is made follow it: some are sent twice, none is lost.
        number = self._feed.last
        state = await self._page.router(with_configuration=False)
        return self._encode(number, "snapshot", state), number

    def _encode(self, number: int, kind: str, data: object) -> bytes:
        return b"id: %b-%d\nevent: %b\ndata: %b\n\n" % (
            self._feed.epoch.encode(),
            number,
            kind.encode(),
            msgspec.json.encode(data),
        )
