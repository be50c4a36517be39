"""The stream of ``/models/sse``: the router's event feed in the format of llama.cpp's router."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import trio

from ...core.access.caller import Caller
from ...core.apis.notices import KEEPALIVE_S
from ...core.config.names import ModelId
from ...core.config.reload import ReloadOutcome
from ...core.config.specs import ModelSpec
from ...core.scheduling.lifecycle import Phase
from ...errors.backends import BackendExitedError
from ...event_feed import (
    ConfigReloaded,
    DownloadProgressed,
    LoadProgressed,
    ModelDeleted,
    ModelPhaseChanged,
    RouterDraining,
    RouterEvent,
    SleepChanged,
)
from ...files.json_text import encode_shown
from ..web.context import ControlContext
from .entries import Json, is_awaited
from .events import (
    StatusDeduplicator,
    download_event,
    plain_event,
    progress_event,
    sleep_event,
    status_event,
)
from .listing import Listing

#: Longest wait of a "loaded" event for the backend's description of its model, in seconds.
INFO_TIMEOUT_S: Final = 1.0


class ModelEventStream:
    """Encodes the events that a caller may see as server-sent events."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._dispatcher = context.dispatcher
        self._listing = Listing(context)

    async def encoded(self, caller: Caller) -> AsyncIterator[bytes]:
        """Yield the events from now on, without those of models that *caller* may not use."""
        feed = self._dispatcher.feed
        number, statuses = feed.last, self._statuses()
        yield b": models\n\n"
        while True:
            with trio.move_on_after(KEEPALIVE_S) as quiet:
                await feed.wait_after(number)
            if quiet.cancelled_caught:
                yield b": still here\n\n"
                continue
            items = feed.after(number)
            number = feed.last
            if items is None:  # too far behind: the client reads the list again
                statuses = self._statuses()
                yield _encoded(plain_event("models_reload"))
                continue
            for item in items:
                for event in await self._events(caller, item.event, statuses):
                    yield _encoded(event)
                if isinstance(item.event, RouterDraining):
                    return

    def _statuses(self) -> StatusDeduplicator:
        """Return a deduplicator that begins with the present list of models."""
        models = self._dispatcher.config.models
        return StatusDeduplicator(
            {
                model: (each.phase, is_awaited(models[model], each))
                for model, each in self._dispatcher.statistics().items()
            }
        )

    async def _events(
        self, caller: Caller, event: RouterEvent, statuses: StatusDeduplicator
    ) -> list[Json]:
        """Return llama.cpp's events for *event*: one, or for a model also one per preset."""
        found: list[Json] = []
        match event:
            case ModelPhaseChanged():
                found = await self._status_events(caller, event, statuses)
            case LoadProgressed(model, progress):
                spec = self._listed(caller, model)
                if spec is not None and self._dispatcher.phase(model) is Phase.STARTING:
                    found = self._with_presets(spec, progress_event(str(model), progress))
            case SleepChanged(model):
                spec = self._listed(caller, model)
                if spec is not None and self._dispatcher.backend(model) is not None:
                    event_of_it = sleep_event(str(model), self._listing.entry(spec))
                    found = self._with_presets(spec, event_of_it)
            case DownloadProgressed() if caller.models is None:
                found = [_download_event(event)]
            case ModelDeleted(model) if caller.models is None:
                found = [plain_event("model_remove", str(model))]
            case ConfigReloaded(verdict=ReloadOutcome.APPLIED.value):
                found = [plain_event("models_reload")]
            case _:
                pass
        return found

    async def _status_events(
        self, caller: Caller, change: ModelPhaseChanged, statuses: StatusDeduplicator
    ) -> list[Json]:
        model, phase = change.model, change.phase
        status = self._next_status(change, statuses)
        spec = self._listed(caller, model)
        if status is None or spec is None:
            return []
        if phase is Phase.READY:
            with trio.move_on_after(INFO_TIMEOUT_S):
                await self._context.model_info.settled(model)
            spec = self._dispatcher.config.models.get(model)  # a reload may have removed it
            if spec is None:
                return []
            event = status_event(str(model), status, phase, None, self._listing.entry(spec))
            return self._with_presets(spec, event)
        statistics = self._dispatcher.statistics_of(model)
        error = None if statistics is None else statistics.last_error
        exit_code = error.returncode if isinstance(error, BackendExitedError) else None
        event = status_event(str(model), status, phase, exit_code, None)
        return self._with_presets(spec, event)

    def _next_status(self, change: ModelPhaseChanged, statuses: StatusDeduplicator) -> str | None:
        """Return the status to send because of *change*; None if it is unchanged."""
        now = self._dispatcher.statistics_of(change.model)
        spec = self._dispatcher.config.models.get(change.model)
        if now is None or spec is None:
            return statuses.next_status(change.model, change.phase, None, awaited=False)
        awaited = is_awaited(spec, now)
        return statuses.next_status(change.model, change.phase, now.phase, awaited=awaited)

    def _listed(self, caller: Caller, model: ModelId) -> ModelSpec | None:
        """Return the configured *model* if it is in the list of *caller*."""
        spec = self._dispatcher.config.models.get(model)
        return spec if spec is not None and caller.may_use(spec) and not spec.unlisted else None

    def _with_presets(self, spec: ModelSpec, event: Json) -> list[Json]:
        """Return *event* of a model, and the same one for each of its presets."""
        data = event["data"]
        return [event] + [
            event
            | {
                "model": f"{spec.id}:{preset}",
                "data": data | {"info": self._listing.entry(spec, preset)}
                if "info" in data
                else data,
            }
            for preset in spec.presets
        ]


def _download_event(event: DownloadProgressed) -> Json:
    return download_event(event.requested, event.state, event.done_bytes, event.total_bytes)


def _encoded(event: Json) -> bytes:
    return b"data: %b\n\n" % encode_shown(event)
