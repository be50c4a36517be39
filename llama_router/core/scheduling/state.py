"""The state on which the scheduler decides, and the steps that change it. Pure.

Each step keeps the state consistent and returns the actions that carry it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import attrs

from ...errors.backends import BackendError, FileMissingError
from ...errors.base import RouterError
from ..config.config import Config
from ..config.names import ModelId
from ..config.specs import ModelSpec, Policy
from ..memory.view import NOTHING_KNOWN, Claims
from .causes import StartCause, StopReason
from .events import Action, Arrived, Refuse, Start, Stop
from .fairness import RANKS
from .lifecycle import INTENTS, Cue, Intent, Phase, Signal, advance
from .model_entry import ModelEntry
from .placement import Occupancy, Placement, Verdict, Waiter
from .restart import GIVEN_UP
from .turn_order import TurnOrder

#: Age of a reading by which a model may be started, in seconds. An older one is made anew before.
FRESH_S: Final = 0.25


class SchedulerState:
    """All models, and the few that need attention: an event never costs a walk over all.

    Attributes:
        config: The configuration in force.
        placement: Its placement policy.
        memory: What is known of devices, and of what models take.
        placed: A number that is another one after each change of a phase or a setting.
        order: The order in which models that wait to be started have their turns.
        changed: Models of which `order` does not have the present state.
        guests: Models with requests in their queue that they must not be loaded for.
        barred: Models with a start that failed for a permanent cause: until they were ready, or
            their breaker is closed, they take the place of no other.
        entries: What is known about each model.
        owner: The model that each request waits for, or holds.
        waiting: Models with a queue.
        resident: Models with a process, or one that may still exist.
        backing_off: Models that are tried again after a pause.
        draining: Models that are stopped after their last request, and the reason.
        returning: Models with `Intent.RETURN`.
        dwell_since_s: Clock time since when a model of each dwell key is ready, in seconds.
        moves: The models that changed their phase, and the new phase, in order.
        kept: Models with ``keep_loaded``.
        home: The home model, if there is one.
        expiring: True if idleness may stop any model.
        has_timed_work: True if any model may start or stop without a request.
        stalls: Times in which the router stood still while requests waited: each by the clock time
            of its end, and its length, in seconds.
        no_request_yet: True until the first request.
        wants_reading: True if something would start or leave now if the devices had been read just
            now: since the last reading, another program may have taken memory.
        oldest_s: No request that waits arrived earlier than at this clock time, in seconds.
        wake_s: Clock time of the next `Tick`, in seconds.
    """

    __slots__ = (
        "_memo",
        "_memo_of",
        "_occupancy",
        "_occupancy_of",
        "_order",
        "backing_off",
        "barred",
        "changed",
        "config",
        "draining",
        "dwell_since_s",
        "entries",
        "expiring",
        "guests",
        "has_timed_work",
        "home",
        "kept",
        "memory",
        "moves",
        "no_request_yet",
        "oldest_s",
        "order",
        "owner",
        "placed",
        "placement",
        "placement_for",
        "resident",
        "returning",
        "stalls",
        "waiting",
        "wake_s",
        "wants_reading",
    )

    expiring: bool
    has_timed_work: bool
    kept: tuple[ModelId, ...]
    home: ModelId | None

    def __init__(self, config: Config, placement_for: Callable[[Config], Placement]) -> None:
        self.placement_for = placement_for
        self.config = config
        self.placement = placement_for(config)
        self.memory = NOTHING_KNOWN
        self.placed = 0
        self.order = TurnOrder()
        self.changed: set[ModelId] = set()
        self.guests: set[ModelId] = set()
        self.barred: set[ModelId] = set()
        self._order: list[ModelEntry] = []
        self._occupancy: Occupancy | None = None
        self._occupancy_of: tuple[object, ...] = ()
        self._memo: dict[object, Any] = {}
        self._memo_of: tuple[object, ...] = ()
        self.entries = {m: ModelEntry(spec) for m, spec in config.models.items()}
        self.owner: dict[int, ModelId] = {}
        self.waiting: set[ModelId] = set()
        self.resident: set[ModelId] = set()
        self.backing_off: set[ModelId] = set()
        self.draining: dict[ModelId, StopReason] = {}
        self.returning: set[ModelId] = set()
        self.dwell_since_s: dict[str, float] = {}
        self.moves: list[tuple[ModelId, Phase]] = []
        self.stalls: list[tuple[float, float]] = []
        self.no_request_yet = True
        self.wants_reading = False
        self.oldest_s = math.inf
        self.wake_s = math.inf
        self.note_faults()
        self.moves.clear()  # no phase has changed yet: these are the first ones
        self.note_settings()

    # -- time -----------------------------------------------------------------------------

    def due(self, at_s: float, now_s: float) -> bool:
        """Return whether the time *at_s* has come; if not, schedule a `Tick` for it."""
        if at_s > now_s:
            self.wake_s = min(self.wake_s, at_s)
        return at_s <= now_s

    # -- models ---------------------------------------------------------------------------

    def move(self, entry: ModelEntry, signal: Signal) -> None:
        """Advance the phase of a model."""
        entry.phase = advance(entry.phase, signal)
        self.moves.append((entry.spec.id, entry.phase))
        self.changed.add(entry.spec.id)
        self.placed += 1

    def cue(self, entry: ModelEntry, cue: Cue) -> None:
        """Change the intent for a model as `INTENTS` says."""
        before = entry.intent
        entry.intent = INTENTS[cue].get(before, before)
        if (entry.intent is Intent.RETURN) is not (before is Intent.RETURN):
            self.returning ^= {entry.spec.id}
            self.note_timed_work()

    def note_faults(self) -> list[tuple[ModelId, FileMissingError]]:
        """Give up the models with unusable files and no process; return the errors."""
        given_up = []
        for model, fault in self.config.file_faults.items():
            entry = self.entries[model]
            if entry.phase not in (Phase.STOPPED, Phase.BACKOFF):
                continue  # a running process has its files open
            need = fault.need
            error = FileMissingError(str(model), need.path, fault.reason, need.kind)
            entry.last_error, entry.failed_s = error, None
            entry.breaker = GIVEN_UP
            self.backing_off.discard(model)
            self.move(entry, Signal.GIVE_UP)
            given_up.append((model, error))
        return given_up

    def start(
        self,
        model: ModelId,
        claims: Claims,
        now_s: float,
        cause: StartCause = StartCause.REQUEST,
    ) -> Start:
        """Record the start of a model with *claims*; return the action."""
        entry = self.entries[model]
        self.order.started(model, now_s)
        self.move(entry, Signal.START)
        entry.crashed = False
        entry.claims, entry.started_s = claims, now_s
        self.resident.add(model)
        return Start(model, claims, cause)

    def stop(self, model: ModelId, reason: StopReason, error: BackendError | None = None) -> Stop:
        """Record the stop of a model; return the action."""
        self.move(self.entries[model], Signal.STOP)
        self.draining.pop(model, None)
        return Stop(model, reason, error)

    def never_expires(self, entry: ModelEntry) -> bool:
        """Return whether a model stays loaded however long it is idle."""
        return entry.spec.keep_loaded or entry.spec.id == self.home

    def drop_if_removed(self, model: ModelId) -> None:
        """Forget a model if the configuration has it no more, and nothing of it is left."""
        entry = self.entries[model]
        removed = entry.intent is Intent.REMOVED
        if removed and entry.phase is Phase.STOPPED and not entry.in_flight:
            del self.entries[model]
            self.barred.discard(model)

    # -- settings -------------------------------------------------------------------------

    def reconfigure(self, config: Config) -> None:
        """Replace the configuration, and the placement policy with it."""
        self.config = config
        self.placement = self.placement_for(config)
        self.changed.update(self.waiting)
        self.order.until_s = -math.inf  # it may have been for other settings
        self.placed += 1

    def note_dwell_keys(self) -> None:
        """Give every ready model a dwell time: settings may have changed its dwell key."""
        ready = [e for e in map(self.entries.__getitem__, self.resident) if e.phase is Phase.READY]
        for entry in sorted(ready, key=lambda entry: entry.ready_since_s):
            self.dwell_since_s.setdefault(self.dwell_key(entry), entry.ready_since_s)

    def note_settings(self) -> None:
        """Derive from the settings which models start or stop without a request."""
        specs = self.config.models.values()
        self.kept = tuple(spec.id for spec in specs if spec.keep_loaded)
        self.expiring = any(spec.ttl_s and not spec.keep_loaded for spec in specs) or any(
            self.entries[model].keep_s is not None for model in self.resident | self.returning
        )
        home = self.config.router.home_model
        self.home = None if home is None else self.config.resolve(home)
        self.note_timed_work()

    def note_timed_work(self) -> None:
        """Derive whether any model may start or stop without a request."""
        self.has_timed_work = (
            self.expiring or bool(self.kept) or self.home is not None or bool(self.returning)
        )

    # -- placement ------------------------------------------------------------------------

    def occupancy(self, now_s: float, order: list[ModelEntry] | None = None) -> Occupancy:
        """Return what runs and what waits to be started, as placement policies see it.

        Args:
            now_s: Clock time, in seconds.
            order: The result of `in_turn`, if it is at hand.
        """
        memo_of = (self.placed, self.memory, int(now_s))
        if memo_of != self._memo_of:
            self._memo_of, self._memo = memo_of, {}
        order = self.in_turn(now_s) if order is None else order
        occupancy_of = (self.placed, self.memory, now_s)
        if self._occupancy is not None and occupancy_of == self._occupancy_of:
            return self._occupancy
        self._occupancy_of = occupancy_of
        self._occupancy = Occupancy(
            residents=tuple(
                self.entries[model].resident(self.memory, now_s) for model in sorted(self.resident)
            ),
            waiters=tuple(
                Waiter(spec=entry.spec, queued=len(entry.queued), turn_s=entry.turn_s)
                for entry in order
            ),
            now_s=now_s,
            memory=self.memory,
            memo=self._memo,
        )
        return self._occupancy

    def in_turn(self, now_s: float) -> list[ModelEntry]:
        """Return the models that wait to be started, in the order of their turns.

        Only as many as the placement policy looks at. The list must not be changed.
        """
        order = self.order
        if not self.changed and now_s < order.until_s:
            return self._order
        for model in self.changed:
            entry = self.entries.get(model)
            if entry is not None and entry.phase is Phase.STOPPED and entry.is_wanted:
                line = entry.line
                order.note(model, line.rank, entry.turn_s, line.clients(line.rank), now_s)
            else:
                order.forget(model)
        self.changed.clear()
        first = order.first(self.placement.lookahead, now_s, self.config.scheduler.max_yield_s)
        self._order = [self.entries[model] for model in first]
        return self._order

    def may_start(self, spec: ModelSpec, occupancy: Occupancy) -> Verdict:
        """Return the policy's verdict; schedule a `Tick` for the time at which it may change.

        A start is allowed only by a fresh reading.
        """
        verdict = self.placement.may_start(spec, occupancy)
        self.due(verdict.look_again_s, occupancy.now_s)
        if verdict.allowed and self._is_stale(occupancy.now_s):
            self.wants_reading = True
            return attrs.evolve(verdict, reason="Looking at what the devices are used for.")
        return verdict

    def victims(
        self, spec: ModelSpec, occupancy: Occupancy, closed: frozenset[ModelId]
    ) -> tuple[ModelId, ...]:
        """Return the residents to stop now for a model, by a fresh reading; see `Placement`."""
        victims = self.placement.victims(spec, occupancy, closed)
        if victims and self._is_stale(occupancy.now_s):
            self.wants_reading = True
            return ()
        return victims

    def _is_stale(self, now_s: float) -> bool:
        """Return whether the devices must be read again before anything is decided by them."""
        reads = self.config.scheduler.policy is Policy.MEMORY
        return reads and self.memory.at_s < now_s - FRESH_S

    def finds_place(self, entry: ModelEntry, now_s: float) -> bool:
        """Return whether a model may start, or take the place of those in its way."""
        return (
            entry.spec.id not in self.barred
            or self.placement.may_start(entry.spec, self.occupancy(now_s)).allowed
        )

    def dwell_key(self, entry: ModelEntry) -> str:
        """Return the key of `dwell_since_s` for a model."""
        return self.placement.dwell_key(entry.spec)

    # -- requests -------------------------------------------------------------------------

    def queue(self, event: Arrived, now_s: float) -> None:
        """Let a request wait for its model."""
        entry, request = self.entries[event.model], event.request
        self.owner[request] = event.model
        entry.queued[request] = now_s
        if not event.takes_slot:
            entry.slotless.add(request)
        if not event.may_load:
            entry.loading_none.add(request)
            self.guests.add(event.model)
        rank = RANKS[event.priority]
        is_first = entry.line.add(request, event.client, rank, event.weight, now_s)
        if is_first or entry.loading_none:
            self.changed.add(event.model)
        self._occupancy = None  # it may be another one now
        self.oldest_s = min(self.oldest_s, now_s) if self.waiting else now_s
        self.waiting.add(event.model)

    def hold(self, request: int, entry: ModelEntry, now_s: float, *, takes_slot: bool) -> None:
        """Record that a model serves *request*."""
        entry.demand.granted(now_s)
        self.owner[request] = entry.spec.id
        if entry.loading_none:
            self._forget_guest(request, entry)
        if not takes_slot:
            entry.slotless.add(request)
        entry.in_flight.add(request)
        self._occupancy = None  # it may be another one now
        entry.served = True

    def forget(self, request: int, now_s: float) -> None:
        """Release what *request* holds or waits for."""
        model = self.owner.pop(request, None)
        if model is None:
            return  # refused earlier; nothing is held
        entry = self.entries[model]
        if entry.loading_none:
            self._forget_guest(request, entry)
        if entry.slotless:
            entry.slotless.discard(request)
        self._occupancy = None  # it may be another one now
        if request in entry.in_flight:
            entry.in_flight.discard(request)
            if not entry.in_flight:
                entry.demand.ended(now_s)
            if entry.line.charges:
                entry.line.settle(request, now_s)
        if entry.queued and entry.queued.pop(request, None) is not None:
            entry.line.discard(request)
            self.changed.add(model)
            if not entry.queued:
                self.waiting.discard(model)
        entry.idle_since_s = now_s
        self.drop_if_removed(model)

    def _forget_guest(self, request: int, entry: ModelEntry) -> None:
        entry.loading_none.discard(request)
        if not entry.loading_none:
            self.guests.discard(entry.spec.id)

    def refuse(self, request: int, error: RouterError, now_s: float) -> Refuse:
        """End the wait of *request*; return the action."""
        self.forget(request, now_s)
        return Refuse(request, error)

    def refuse_queue(self, model: ModelId, error: RouterError, now_s: float) -> list[Action]:
        """End the wait of all requests for *model*; return the actions."""
        queued = tuple(self.entries[model].queued)
        return [self.refuse(request, error, now_s) for request in queued]
