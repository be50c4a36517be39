"""``/api/events``: states of models and ended requests, in llama-swap's form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import trio

from ...core.access.caller import Caller
from ...core.apis.notices import KEEPALIVE_S
from ...core.config.names import ModelId
from ...core.scheduling.lifecycle import Phase
from ...dispatch.dispatcher import Dispatcher
from ...dispatch.request_log import RequestLog
from ...event_feed import RouterDraining
from .shapes import Json, activity_entry, message, model_status
from .waiting import wait_first

#: Pause after each round of messages, in seconds: a burst of changes is one message.
PAUSE_S: Final = 0.1


class SwapEvents:
    """The messages that one caller may see.

    Args:
        dispatcher: The models and their requests.
        caller: The client.
    """

    def __init__(self, dispatcher: Dispatcher, caller: Caller) -> None:
        self._dispatcher = dispatcher
        self._caller = caller

    def models(self) -> list[Json]:
        """Return the state of each model, sorted by id."""
        models = self._dispatcher.config.models
        return [
            model_status(models[model], self._dispatcher.phase(model) or Phase.STOPPED)
            for model in sorted(models)
            if self._caller.may_use(models[model])
        ]

    def activity(self, records: list[RequestLog]) -> list[Json]:
        """Return those of *records* that have ended, the oldest first."""
        log, now_s = self._dispatcher.activity, trio.current_time()
        ended = [each for each in records if each.ended_s is not None and self._may_see(each)]
        ended.sort(key=lambda record: record.changed)
        return [activity_entry(log.row(record, now_s=now_s)) for record in ended]

    def in_flight(self) -> Json:
        """Return the number of live requests."""
        return {"total": sum(map(self._may_see, self._dispatcher.activity.live))}

    def _may_see(self, record: RequestLog) -> bool:
        if self._caller.models is None:
            return True
        spec = self._dispatcher.config.models.get(ModelId(record.model or ""))
        return spec is not None and self._caller.may_use(spec)

    async def encoded(self) -> AsyncIterator[bytes]:
        """Yield the present state, then what changes, until the router shuts down."""
        feed, log = self._dispatcher.feed, self._dispatcher.activity
        seen_event, seen_request = feed.last, log.last
        yield message("modelStatus", self.models())
        yield message("metrics", self.activity(list(log.ended)))
        yield message("inflight", self.in_flight())
        while True:
            waits = partial(feed.wait_after, seen_event), partial(log.wait_after, seen_request)
            if not await wait_first(*waits, timeout_s=KEEPALIVE_S):
                yield b": still here\n\n"
                continue
            if feed.last != seen_event:
                items, seen_event = feed.after(seen_event) or (), feed.last
                draining = any(isinstance(item.event, RouterDraining) for item in items)
                yield message("modelStatus", self.models())
                if draining:
                    return
            if log.last != seen_request:
                changed, seen_request = log.changed_after(seen_request), log.last
                if ended := self.activity(changed):
                    yield message("metrics", ended)
                yield message("inflight", self.in_flight())
            await trio.sleep(PAUSE_S)
