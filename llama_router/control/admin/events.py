"""``GET /admin/events``: server-sent events, first a snapshot, then each event of the feed.

With ``live=1`` also the rows of models and requests that change. These are no events of the feed:
a follower that is slow gets the last state of each row, and nothing has to be kept for it.

Source of the format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Final

import attrs
import trio
from quart import Blueprint, Response, request

from ...core.apis.notices import KEEPALIVE_S
from ...errors.requests import RequestError
from ...event_feed import RouterDraining
from ...files.json_text import encode_shown
from ...timeouts import first_of
from ..web.connection import request_stack
from ..web.context import ControlContext
from ..web.guard import still_allowed
from ..web.server import without_deadline
from .activity import activity_row
from .openapi import Query, describe
from .status import StatusPage

_ID: Final = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})(?:-([0-9]{1,15})-([0-9]{1,15}))?")

#: Shortest time between two batches of requests, in seconds.
REQUESTS_PERIOD_S: Final = 0.25

#: Most requests in one batch; of more, only the latest are sent.
MAX_REQUESTS: Final = 250

#: Requests that are encoded before others get their turn: about half a millisecond.
_SLICE: Final = 25


def blueprint(context: ControlContext) -> Blueprint:
    """Return the route."""
    routes = Blueprint("events", __name__, url_prefix="/admin")

    @routes.get("/events")
    @describe(
        "A stream of events: snapshot, then model, progress, download, removed, config and router.",
        media="text/event-stream",
        query=[
            Query(
                name="last_event_id",
                schema={"type": "string"},
                about="Resume after this event, like the field Last-Event-ID.",
            ),
            Query(
                name="live",
                schema={"type": "string", "enum": ["0", "1"], "default": "0"},
                about="With 1, events update and request, too: rows that change.",
            ),
        ],
    )
    async def events() -> Response:
        without_deadline()
        last_id = request.headers.get("last-event-id") or request.args.get("last_event_id")
        live = request.args.get("live", "0")
        if live not in ("0", "1"):
            raise RequestError("'live' must be 0 or 1", param="live")
        if live == "1":
            request_stack().enter_context(context.live.follow())
        stream = EventStream(context, allowed=still_allowed(context.gate), live=live == "1")
        return Response(
            stream.encoded(last_id or ""),
            content_type="text/event-stream",
            headers={"cache-control": "no-store"},
        )

    return routes


@attrs.define
class _Position:
    """What a follower has got.

    Attributes:
        feed: Number of its last event of the feed; None before a snapshot.
        update: Number of its last update of rows of models.
        activity: Number of the last change of a request that it got.
        requests_s: Clock time of its last batch of requests, in seconds.
    """

    feed: int | None = None
    update: int = 0
    activity: int = 0
    requests_s: float = -math.inf


class EventStream:
    """The router's event feed, encoded as server-sent events for one follower.

    Args:
        context: The router.
        allowed: Returns whether the follower's secret, or its session, counts still.
        live: The follower gets rows that change, too.
    """

    def __init__(self, context: ControlContext, *, allowed: Callable[[], bool], live: bool) -> None:
        self._dispatcher = context.dispatcher
        self._feed = context.dispatcher.feed
        self._activity = context.dispatcher.activity
        self._state = context.live
        self._page = StatusPage(context)
        self._allowed = allowed
        self._live = live
        self._at = _Position()
        self._ended = False

    async def encoded(self, last_id: str) -> AsyncIterator[bytes]:
        """Yield the events after *last_id*; if that id is unknown, a snapshot first."""
        self._resume(last_id)
        yield b"retry: 1000\n\n"
        while not self._ended:
            sent = False
            # Closed with this one, not whenever it is collected.
            async with aclosing(self._pending()) as pending:
                async for chunk in pending:
                    sent = True
                    yield chunk
            if not sent and not self._ended:
                with trio.move_on_after(KEEPALIVE_S) as quiet:
                    await self._wait()
                if quiet.cancelled_caught:
                    self._ended = not self._allowed()
                    yield b": still here\n\n"

    async def _pending(self) -> AsyncGenerator[bytes]:
        """Yield what has happened since it was called the last time."""
        at = self._at
        items = None if at.feed is None else self._feed.after(at.feed)
        if items is None:  # a new client, or one that is too far behind
            yield await self._snapshot()
            return
        for item in items:
            at.feed = item.number
            yield self._encode(item.event.kind, item.event.to_json())
            if isinstance(item.event, RouterDraining):
                self._ended = True  # the client reconnects once another router runs
                return
        if not self._live:
            return
        if self._state.version > at.update:
            update = self._state.update_after(at.update)
            at.update = self._state.version
            yield self._encode("update", update)
        async with aclosing(self._requests()) as requests:
            async for chunk in requests:
                yield chunk

    def _resume(self, last_id: str) -> None:
        """Go on behind *last_id*, unless it is of another epoch."""
        found = _ID.fullmatch(last_id)
        if found is None or found[1] != self._feed.epoch or (self._live and found[3] is None):
            return
        self._at.feed = int(found[2])
        if found[3] is not None:
            self._at.update, self._at.activity = int(found[3]), int(found[4])

    async def _requests(self) -> AsyncGenerator[bytes]:
        """Yield the requests that changed, as they are now, unless the last batch was just now."""
        at, log = self._at, self._activity
        if log.last == at.activity or trio.current_time() < at.requests_s + REQUESTS_PERIOD_S:
            return
        at.requests_s = trio.current_time()
        records = log.changed_after(at.activity)[-MAX_REQUESTS:]
        last = log.last
        for start in range(0, len(records), _SLICE):
            chunk = []
            for record in records[start : start + _SLICE]:
                at.activity = record.changed
                chunk.append(self._encode("request", activity_row(self._dispatcher, record)))
            yield b"".join(chunk)
        at.activity = last

    async def _wait(self) -> None:
        """Wait until there is something to send."""
        at = self._at
        assert at.feed is not None, "there was a snapshot"
        if not self._live:
            await self._feed.wait_after(at.feed)
            return

        async def requests() -> None:
            await trio.sleep_until(at.requests_s + REQUESTS_PERIOD_S)
            await self._activity.wait_after(at.activity)

        await first_of(
            partial(self._feed.wait_after, at.feed),
            partial(self._state.wait_after, at.update),
            requests,
        )

    async def _snapshot(self) -> bytes:
        # What happens while the snapshot is made follows it: some is sent twice, none is lost.
        at = self._at
        if self._live:
            await self._state.up_to_date()
            at.update, at.activity = self._state.version, self._activity.last
        at.feed = self._feed.last
        return self._encode("snapshot", await self._page.router(with_configuration=False))

    def _encode(self, kind: str, data: object) -> bytes:
        at = self._at
        assert at.feed is not None, "set before anything is sent"
        number = b"%b-%d" % (self._feed.epoch.encode(), at.feed)
        if self._live:
            number += b"-%d-%d" % (at.update, at.activity)
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (
            number,
            kind.encode(),
            encode_shown(data),
        )
