"""The requests for models that services serve: limits, queues, and what becomes of them. Pure.

Such a model takes no memory and no turn of another one, so it never enters the scheduler. It is

* STOPPED until it is asked for, and after it was unloaded by request;
* STARTING while its service is asked for the first time: its requests wait for the answer;
* READY while the service serves;
* FAILED while it does not: requests are refused at once, and the service is asked again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import attrs

from ...errors.backends import BackendError
from ...errors.base import RouterError
from ..config.config import Config
from ..config.names import ModelId
from ..config.specs import ModelSpec
from ..scheduling import refusals
from ..scheduling.events import Arrived, Grant, Refuse
from ..scheduling.fairness import RANKS, Line
from ..scheduling.lifecycle import Phase
from ..scheduling.model_entry import ModelStatistics
from ..scheduling.waits import Wait


@attrs.frozen
class Ask:
    """The service of a model is to be asked for its health now.

    Attributes:
        model: The model.
    """

    model: ModelId


Action: TypeAlias = Grant | Refuse | Ask


@attrs.define(eq=False)
class _Entry:
    """All that is known about one model.

    Attributes:
        spec: Its settings; None if it was removed, and only has requests left.
        phase: Its phase.
        in_flight: Requests being served.
        slotless: Requests that do not count for ``max_in_flight``.
        queued: Requests that wait, oldest first, and the clock time of each arrival.
        line: The queued requests in the order of their grants.
        idle_since_s: Clock time since when no request is in flight, in seconds.
        error: Why its service did not serve, the last time it did not.
        failed_s: Clock time of that, in seconds.
        failures: Questions in a row that found so.
        retry_at_s: Clock time of the next question while it is FAILED, in seconds.
    """

    spec: ModelSpec
    phase: Phase = Phase.STOPPED
    removed: bool = False
    in_flight: set[int] = attrs.field(factory=set)
    slotless: set[int] = attrs.field(factory=set)
    queued: dict[int, float] = attrs.field(factory=dict)
    line: Line = attrs.field(factory=Line)
    idle_since_s: float = 0.0
    error: BackendError | None = None
    failed_s: float | None = None
    failures: int = 0
    retry_at_s: float | None = None

    @property
    def free_slots(self) -> float:
        """Number of further requests that it may serve at the same time; perhaps infinite."""
        limit = self.spec.max_in_flight
        if limit is None:
            return math.inf
        return limit - len(self.in_flight) + len(self.slotless & self.in_flight)

    def has_room(self, *, takes_slot: bool) -> bool:
        """Return whether it may serve one more request at the same time."""
        return not takes_slot or self.free_slots > 0


class ServiceModels:
    """The models that services serve, with their requests.

    Args:
        config: The configuration in force.

    Attributes:
        moves: The models that changed their phase, in order, until somebody takes them.
        wake_s: Clock time at which `time_out` is due, in seconds; infinite for never.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._entries = {m: _Entry(spec) for m, spec in _served(config)}
        self._owner: dict[int, ModelId] = {}
        self._shutting_down = False
        self.moves: list[tuple[ModelId, Phase]] = []
        self.wake_s = math.inf

    def __contains__(self, model: ModelId) -> bool:
        """Return whether a service serves *model*."""
        entry = self._entries.get(model)
        return entry is not None and not entry.removed

    def __iter__(self) -> Iterator[ModelId]:
        """Return the models, without removed ones."""
        return (model for model, entry in self._entries.items() if not entry.removed)

    def has(self, request: int) -> bool:
        """Return whether *request* waits for such a model, or holds one."""
        return request in self._owner

    # -- requests -------------------------------------------------------------------------

    def arrived(self, event: Arrived, now_s: float) -> list[Action]:
        """Take in a request for one of these models."""
        entry, request, model = self._entries[event.model], event.request, event.model
        if self._shutting_down:
            return [Refuse(request, refusals.shutting_down())]
        if entry.phase is Phase.READY and not entry.queued:
            if entry.has_room(takes_slot=event.takes_slot):
                self._hold(entry, request, takes_slot=event.takes_slot)
                return [Grant(request, model)]
        elif entry.phase is Phase.FAILED:
            return [Refuse(request, self._why_down(entry, now_s))]
        elif entry.phase is Phase.STOPPED and not event.may_load:
            return [Refuse(request, refusals.not_loaded(model))]
        actions: list[Action] = []
        if len(entry.queued) >= entry.spec.max_queued:
            full = refusals.queue_full(model, len(entry.queued))
            if (crowded := entry.line.crowd(event.client)) is None:
                return [Refuse(request, full)]
            self._leave_queue(entry, crowded)
            del self._owner[crowded]
            actions.append(Refuse(crowded, full))
        self._queue(entry, event, now_s)
        if entry.phase is Phase.STOPPED:
            self._move(entry, Phase.STARTING)
            actions.append(Ask(model))
        return actions + self._grant(entry, now_s)

    def finished(self, request: int, now_s: float) -> list[Action]:
        """Forget *request*, which waited or was served; grant what may follow it."""
        entry = self._entries[self._owner.pop(request)]
        if request in entry.queued:
            self._leave_queue(entry, request)
            return []
        entry.in_flight.discard(request)
        entry.slotless.discard(request)
        entry.line.settle(request, now_s)
        if not entry.in_flight:
            entry.idle_since_s = now_s
            if entry.removed:
                del self._entries[entry.spec.id]
        return self._grant(entry, now_s)

    def time_out(self, now_s: float) -> list[Action]:
        """Refuse the requests that waited for longer than ``max_queue_wait_s``."""
        limit_s = self._config.router.max_queue_wait_s
        actions: list[Action] = []
        self.wake_s = math.inf
        for model, entry in self._entries.items():
            for request, arrived_s in tuple(entry.queued.items()):
                if arrived_s + limit_s > now_s:
                    self.wake_s = min(self.wake_s, arrived_s + limit_s)
                    break
                awaited = (
                    "its service has not answered yet"
                    if entry.phase is Phase.STARTING
                    else f"its {entry.spec.max_in_flight} requests (max_in_flight) went on"
                )
                self._leave_queue(entry, request)
                del self._owner[request]
                actions.append(Refuse(request, refusals.queue_timeout(model, limit_s, awaited)))
        return actions

    def held_up(self, lost_s: float) -> None:
        """Record that the router stood still for *lost_s* seconds: that time was no wait."""
        for entry in self._entries.values():
            entry.queued = {request: at_s + lost_s for request, at_s in entry.queued.items()}

    # -- services -------------------------------------------------------------------------

    def asked(self, model: ModelId) -> list[Action]:
        """Let the service of *model* be asked now, whatever was before; requests wait for it."""
        entry = self._entries[model]
        if entry.phase is not Phase.READY:
            self._move(entry, Phase.STARTING)
        return [Ask(model)]

    def serves(self, model: ModelId, now_s: float) -> list[Action]:
        """Record that the service of *model* serves; grant what waited for it."""
        entry = self._entries[model]
        entry.failures, entry.retry_at_s = 0, None
        if entry.phase is Phase.STARTING or entry.phase is Phase.FAILED:
            entry.idle_since_s = now_s
            self._move(entry, Phase.READY)
        return self._grant(entry, now_s)

    def fails(
        self, model: ModelId, error: BackendError, *, failures: int, retry_at_s: float, now_s: float
    ) -> list[Action]:
        """Record that the service of *model* does not serve; refuse what waits for it.

        Args:
            model: The model.
            error: What was found.
            failures: Questions in a row that found so.
            retry_at_s: Clock time of the next one, in seconds.
            now_s: Clock time, in seconds.
        """
        entry = self._entries[model]
        entry.error, entry.failed_s = error, now_s
        entry.failures, entry.retry_at_s = failures, retry_at_s
        if entry.phase is Phase.STOPPED:
            return []
        self._move(entry, Phase.FAILED)
        return self._refuse_queue(entry, self._why_down(entry, now_s))

    def unloaded(self, model: ModelId) -> list[Action]:
        """Leave the service of *model* alone until a request asks for it."""
        entry = self._entries[model]
        self._move(entry, Phase.STOPPED)
        entry.error = entry.retry_at_s = entry.failed_s = None
        entry.failures = 0
        return self._refuse_queue(entry, refusals.unloaded(model))

    def reconfigured(self, config: Config, now_s: float) -> list[Action]:
        """Replace the configuration; requests in flight go on where they are."""
        self._config = config
        specs = dict(_served(config))
        actions: list[Action] = []
        for model, entry in tuple(self._entries.items()):
            if model in specs or entry.removed:
                continue
            entry.removed = True
            actions += self._refuse_queue(entry, refusals.removed(model))
            if not entry.in_flight:
                del self._entries[model]
        for model, spec in specs.items():
            is_new = model not in self._entries or self._entries[model].removed
            entry = self._entries.setdefault(model, _Entry(spec))
            former, entry.spec = entry.spec.service, spec
            entry.removed = False
            if is_new or (former != spec.service and entry.phase is not Phase.STOPPED):
                # What waits goes on to wait; it is told by the next answer.
                self._move(entry, Phase.STARTING)
                entry.error = entry.retry_at_s = entry.failed_s = None
                actions.append(Ask(model))
            actions += self._grant(entry, now_s)
        return actions

    def shut_down(self) -> list[Action]:
        """Refuse all requests that wait, and all later ones."""
        self._shutting_down = True
        entries = self._entries.values()
        refused = (self._refuse_queue(entry, refusals.shutting_down()) for entry in entries)
        return [action for each in refused for action in each]

    # -- snapshots ------------------------------------------------------------------------

    def phase(self, model: ModelId) -> Phase:
        """Return the phase of *model*."""
        return self._entries[model].phase

    def in_flight(self, model: ModelId) -> frozenset[int]:
        """Return the requests of *model* that are being served."""
        return frozenset(self._entries[model].in_flight)

    def statistics(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model, without removed ones."""
        return {model: self.statistics_of(model) for model in self}

    def statistics_of(self, model: ModelId) -> ModelStatistics:
        """Return a snapshot of *model*.

        Raises:
            KeyError: if no service serves it.
        """
        entry = self._entries[model]
        idle = entry.phase is Phase.READY and not entry.in_flight and not entry.queued
        return ModelStatistics(
            phase=entry.phase,
            in_flight=len(entry.in_flight),
            limit=entry.spec.max_in_flight,
            queued=len(entry.queued),
            failures=entry.failures,
            last_error=entry.error,
            failed_s=entry.failed_s,
            requests=tuple(entry.in_flight),
            waiting_since_s=dict(entry.queued),
            idle_since_s=entry.idle_since_s if idle else None,
            retry_at_s=entry.retry_at_s if entry.phase is Phase.FAILED else None,
        )

    def wait_of(self, request: int) -> Wait | None:
        """Return what *request* waits for; None if it does not wait."""
        model = self._owner.get(request)
        if model is None or request not in (entry := self._entries[model]).queued:
            return None
        line = entry.line
        ahead, behind = line.place(request), line.behind(request)
        return Wait(model=model, phase=entry.phase, ahead=ahead, behind=behind)

    # -- steps ----------------------------------------------------------------------------

    def _move(self, entry: _Entry, phase: Phase) -> None:
        if entry.phase is not phase:
            entry.phase = phase
            self.moves.append((entry.spec.id, phase))

    def _hold(self, entry: _Entry, request: int, *, takes_slot: bool) -> None:
        self._owner[request] = entry.spec.id
        entry.in_flight.add(request)
        if not takes_slot:
            entry.slotless.add(request)

    def _queue(self, entry: _Entry, event: Arrived, now_s: float) -> None:
        request = event.request
        self._owner[request] = event.model
        entry.queued[request] = now_s
        if not event.takes_slot:
            entry.slotless.add(request)
        rank = RANKS[event.priority]
        entry.line.add(request, event.client, rank, event.weight, now_s)
        self.wake_s = min(self.wake_s, now_s + self._config.router.max_queue_wait_s)

    def _leave_queue(self, entry: _Entry, request: int) -> None:
        del entry.queued[request]
        entry.slotless.discard(request)
        entry.line.discard(request)

    def _grant(self, entry: _Entry, now_s: float) -> list[Action]:
        """Grant the queued requests that the service may get now, in order."""
        if entry.phase is not Phase.READY or not entry.queued:
            return []
        granted = [each for each in entry.queued if each in entry.slotless]
        for request in granted:
            entry.line.discard(request)
        granted += entry.line.take(entry.free_slots, now_s, self._config.scheduler.max_yield_s)
        for request in granted:
            del entry.queued[request]
            entry.in_flight.add(request)
        return [Grant(request, entry.spec.id) for request in granted]

    def _refuse_queue(self, entry: _Entry, error: RouterError) -> list[Action]:
        """Refuse all requests in the queue, with one error."""
        refused = tuple(entry.queued)
        for request in refused:
            self._leave_queue(entry, request)
            del self._owner[request]
        return [Refuse(request, error) for request in refused]

    def _why_down(self, entry: _Entry, now_s: float) -> BackendError:
        """Return the error for a request while the service does not serve."""
        assert entry.error is not None, "it is set with the phase"
        error = type(entry.error)(str(entry.error))
        if entry.retry_at_s is not None:
            error.retry_after_s = max(1.0, entry.retry_at_s - now_s)
        return error


def _served(config: Config) -> Iterator[tuple[ModelId, ModelSpec]]:
    """Yield the models of *config* that services serve."""
    models: Mapping[ModelId, ModelSpec] = config.models
    return ((model, spec) for model, spec in models.items() if spec.url is not None)
