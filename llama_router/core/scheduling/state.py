"""The state on which the scheduler decides, and the steps that change it. Pure.

Each step keeps the state consistent and returns the actions that carry it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from ...errors.backends import BackendError, FileMissingError
from ...errors.base import RouterError
from ..config.config import Config
from ..config.names import ModelId
from ..config.specs import ModelSpec
from ..memory.devices import DeviceId
from ..memory.footprint import Source
from ..memory.view import NOTHING_KNOWN, Claims, MemoryView
from .causes import StartCause, StopReason
from .demand import Demand
from .events import Action, Refuse, Start, Stop
from .lifecycle import INTENTS, RESIDENT, Cue, Intent, Phase, Signal, advance
from .placement import Occupancy, Placement, Resident, Verdict, Waiter
from .restart import CLOSED, GIVEN_UP, Breaker


@attrs.frozen(kw_only=True)
class ModelStatistics:
    """A snapshot of one model.

    Attributes:
        phase: Phase of its backend.
        in_flight: Number of requests being served.
        queued: Number of requests waiting.
        failures: Failures in a row.
        last_error: Its last failure.
        failed_s: Clock time of that failure, in seconds; None if it is not known.
        crashed: It has not been started since that failure, nor was it forgiven.
        requests: Requests being served.
        waiting_since_s: Requests waiting, oldest first, and the clock time of each arrival.
        idle_since_s: Clock time since when it is ready and idle, in seconds; None if it is not.
        retry_at_s: Clock time at which a failed backend may be tried again, in seconds; None if
            it did not fail.
        stays_s: Idle seconds after which its backend is stopped; infinite for never.
        claims: What its backend takes of each device, as far as that is known.
    """

    phase: Phase
    in_flight: int
    queued: int
    failures: int
    last_error: BackendError | None
    failed_s: float | None = None
    crashed: bool = False
    requests: tuple[int, ...] = ()
    waiting_since_s: Mapping[int, float] = attrs.field(factory=dict[int, float])
    idle_since_s: float | None = None
    retry_at_s: float | None = None
    stays_s: float = math.inf
    claims: Claims = attrs.field(factory=dict[DeviceId, int])


@attrs.define(eq=False)
class ModelEntry:
    """Everything known about one model.

    Attributes:
        spec: The settings that its next start uses.
        phase: Phase of its backend; changed by `SchedulerState.move` only.
        intent: What becomes of it without requests; changed by `SchedulerState.cue` only.
        in_flight: Requests being served.
        queued: Requests that wait, oldest first, and the clock time of each arrival.
        loading_none: Those of them that it must not be loaded for.
        slotless: Requests in flight or queued that do not count for ``max_in_flight``.
        ready_since_s: Clock time at which it became ready, in seconds.
        idle_since_s: Clock time at which it became ready or its last request ended, in seconds.
        made_way_s: Clock time at which it was last stopped for another model, in seconds.
        served: True if a request was granted since it became ready.
        breaker: Its failures, and the time of the next attempt.
        last_error: Its last failure.
        failed_s: Clock time of that failure, in seconds; None if it is not known.
        crashed: It has not been started since that failure, nor was it forgiven.
        may_displace: False after a start that failed for a permanent cause. Until it was ready,
            or its breaker is closed, it takes the place of no other model.
        keep_s: Idle seconds after which it is stopped, if a request set them.
        claims: What was reserved of each device when it was started.
        started_s: Clock time of its last start, in seconds.
        load_s: How long its last load took, in seconds; 0 if it was not loaded yet.
        demand: How often it is requested.
    """

    spec: ModelSpec
    phase: Phase = Phase.STOPPED
    intent: Intent = Intent.ON_DEMAND
    in_flight: set[int] = attrs.field(factory=set)
    queued: dict[int, float] = attrs.field(factory=dict)
    loading_none: set[int] = attrs.field(factory=set)
    slotless: set[int] = attrs.field(factory=set)
    ready_since_s: float = -math.inf
    idle_since_s: float = -math.inf
    made_way_s: float = -math.inf
    served: bool = False
    breaker: Breaker = CLOSED
    last_error: BackendError | None = None
    failed_s: float | None = None
    crashed: bool = False
    may_displace: bool = True
    keep_s: float | None = None
    claims: Claims = attrs.field(factory=dict[DeviceId, int])
    started_s: float = -math.inf
    load_s: float = 0.0
    demand: Demand = attrs.field(factory=Demand)

    @property
    def busy(self) -> bool:
        """True if a request is in flight or queued."""
        return bool(self.in_flight or self.queued)

    @property
    def is_wanted(self) -> bool:
        """True if a request waits that it may be loaded for."""
        return len(self.queued) > len(self.loading_none)

    @property
    def is_coming(self) -> bool:
        """True if it is loaded, or will be without a further request."""
        if self.phase in (Phase.STARTING, Phase.READY) or self.intent is Intent.RETURN:
            return True
        if self.is_wanted:
            return True
        held_off = self.intent is Intent.HELD_OFF or self.phase is Phase.FAILED
        return self.spec.keep_loaded and not held_off

    @property
    def stays_s(self) -> float:
        """Idle seconds after which it is stopped; infinite for never."""
        return (self.spec.ttl_s or math.inf) if self.keep_s is None else self.keep_s

    @property
    def turn_s(self) -> float:
        """Clock time since when it is this model's turn, in seconds. It must have a queue."""
        return max(next(iter(self.queued.values())), self.made_way_s)

    @property
    def lacks_file(self) -> bool:
        """True if it was given up for a file; a `FileRestored` then makes it eligible again."""
        return self.phase is Phase.FAILED and isinstance(self.last_error, FileMissingError)

    @property
    def free_slots(self) -> float:
        """Number of further requests that it may serve at the same time; infinite for no limit."""
        limit = self.spec.max_in_flight
        if limit is None:
            return math.inf
        return limit - len(self.in_flight) + len(self.slotless & self.in_flight)

    def has_room(self, *, takes_slot: bool) -> bool:
        """Return whether it may serve one more request at the same time."""
        return self.spec.max_in_flight is None or not takes_slot or self.free_slots > 0

    def grantable(self) -> list[int]:
        """Return the queued requests that it may serve now, oldest first."""
        free_slots, requests = self.free_slots, []
        for request in self.queued:
            if request in self.slotless:
                requests.append(request)
            elif free_slots > 0:
                free_slots -= 1
                requests.append(request)
            elif not self.slotless:
                break
        return requests

    def claims_in(self, memory: MemoryView) -> Claims:
        """Return what it takes of each device: what was measured, else what was reserved.

        While it loads, it may still take what was reserved, or more; and a figure of the settings
        counts as long as it is not exceeded.
        """
        measured = memory.measured.get(self.spec.id)
        if measured is None:
            return self.claims
        known = memory.footprints.get(self.spec.id)
        is_configured = known is not None and known.source is Source.CONFIGURED
        if self.phase is not Phase.STARTING and not is_configured:
            return {**self.claims, **measured}
        return {
            name: max(self.claims.get(name, 0), measured.get(name, 0))
            for name in self.claims.keys() | measured.keys()
        }

    def resident(self, memory: MemoryView, now_s: float) -> Resident:
        """Return it as placement policies see it."""
        return Resident(
            spec=self.spec,
            phase=self.phase,
            in_flight=len(self.in_flight),
            queued=len(self.queued),
            ready_since_s=self.ready_since_s,
            idle_since_s=self.idle_since_s,
            claims=self.claims_in(memory),
            load_s=self.load_s or memory.load_s.get(self.spec.id, 0.0),
            demand=self.demand.at(now_s),
        )

    def statistics(self, *, never_expires: bool, memory: MemoryView) -> ModelStatistics:
        """Return a snapshot.

        Args:
            never_expires: It stays loaded however long it is idle.
            memory: What is known of devices.
        """
        idle = self.phase is Phase.READY and not self.busy
        failing = self.phase in (Phase.BACKOFF, Phase.FAILED)
        return ModelStatistics(
            phase=self.phase,
            in_flight=len(self.in_flight),
            queued=len(self.queued),
            failures=self.breaker.failures,
            last_error=self.last_error,
            failed_s=self.failed_s,
            crashed=self.crashed,
            requests=tuple(self.in_flight),
            waiting_since_s=dict(self.queued),
            idle_since_s=self.idle_since_s if idle else None,
            retry_at_s=self.breaker.retry_at_s if failing and not self.lacks_file else None,
            stays_s=math.inf if never_expires else self.stays_s,
            claims=self.claims_in(memory) if self.phase in RESIDENT else {},
        )


class SchedulerState:
    """All models, and the few that need attention: an event never costs a walk over all.

    Attributes:
        config: The configuration in force.
        placement: Its placement policy.
        memory: What is known of devices, and of what models take.
        placed: A number that is another one after each change of a phase or a setting.
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
        wake_s: Clock time of the next `Tick`, in seconds.
    """

    __slots__ = (
        "_memo",
        "_memo_of",
        "backing_off",
        "config",
        "draining",
        "dwell_since_s",
        "entries",
        "expiring",
        "has_timed_work",
        "home",
        "kept",
        "memory",
        "moves",
        "no_request_yet",
        "owner",
        "placed",
        "placement",
        "placement_for",
        "resident",
        "returning",
        "stalls",
        "waiting",
        "wake_s",
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

    # -- settings -------------------------------------------------------------------------

    def reconfigure(self, config: Config) -> None:
        """Replace the configuration, and the placement policy with it."""
        self.config = config
        self.placement = self.placement_for(config)
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

    def occupancy(self, now_s: float, order: Iterable[ModelEntry] | None = None) -> Occupancy:
        """Return what runs and what waits to be started, as placement policies see it.

        Args:
            now_s: Clock time, in seconds.
            order: The result of `in_turn`, if it is at hand.
        """
        memo_of = (self.placed, self.memory, int(now_s))
        if memo_of != self._memo_of:
            self._memo_of, self._memo = memo_of, {}
        return Occupancy(
            residents=tuple(
                self.entries[model].resident(self.memory, now_s) for model in sorted(self.resident)
            ),
            waiters=tuple(
                Waiter(spec=entry.spec, queued=len(entry.queued), turn_s=entry.turn_s)
                for entry in (self.in_turn() if order is None else order)
            ),
            now_s=now_s,
            memory=self.memory,
            memo=self._memo,
        )

    def in_turn(self) -> list[ModelEntry]:
        """Return the models that wait to be started, oldest turn first.

        Only as many as the placement policy looks at.
        """
        waiting = (self.entries[model] for model in self.waiting)
        startable = [
            (entry.turn_s, entry)
            for entry in waiting
            if entry.phase is Phase.STOPPED and entry.is_wanted
        ]
        startable.sort(key=_first)
        return [entry for _, entry in startable[: self.placement.lookahead]]

    def may_start(self, spec: ModelSpec, occupancy: Occupancy) -> Verdict:
        """Return the policy's verdict; schedule a `Tick` for the time at which it may change."""
        verdict = self.placement.may_start(spec, occupancy)
        self.due(verdict.look_again_s, occupancy.now_s)
        return verdict

    def finds_place(self, entry: ModelEntry, now_s: float) -> bool:
        """Return whether a model may start, or take the place of those in its way."""
        return entry.may_displace or self.may_start(entry.spec, self.occupancy(now_s)).allowed

    def dwell_key(self, entry: ModelEntry) -> str:
        """Return the key of `dwell_since_s` for a model."""
        return self.placement.dwell_key(entry.spec)

    # -- requests -------------------------------------------------------------------------

    def hold(self, request: int, entry: ModelEntry, now_s: float, *, takes_slot: bool) -> None:
        """Record that a model serves *request*."""
        entry.demand.granted(now_s)
        self.owner[request] = entry.spec.id
        entry.loading_none.discard(request)
        if not takes_slot:
            entry.slotless.add(request)
        entry.in_flight.add(request)
        entry.served = True

    def forget(self, request: int, now_s: float) -> None:
        """Release what *request* holds or waits for."""
        model = self.owner.pop(request, None)
        if model is None:
            return  # refused earlier; nothing is held
        entry = self.entries[model]
        entry.loading_none.discard(request)
        entry.slotless.discard(request)
        if request in entry.in_flight:
            entry.in_flight.discard(request)
            if not entry.in_flight:
                entry.demand.ended(now_s)
        if entry.queued.pop(request, None) is not None and not entry.queued:
            self.waiting.discard(model)
        entry.idle_since_s = now_s
        self.drop_if_removed(model)

    def refuse(self, request: int, error: RouterError, now_s: float) -> Refuse:
        """End the wait of *request*; return the action."""
        self.forget(request, now_s)
        return Refuse(request, error)

    def refuse_queue(self, model: ModelId, error: RouterError, now_s: float) -> list[Action]:
        """End the wait of all requests for *model*; return the actions."""
        queued = tuple(self.entries[model].queued)
        return [self.refuse(request, error, now_s) for request in queued]


def _first(pair: tuple[float, ModelEntry]) -> float:
    return pair[0]
