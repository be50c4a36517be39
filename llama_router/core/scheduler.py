"""Admission, queueing and swap decisions. Sans-IO: events in, actions out.

Theory of operation
===================

`Scheduler.handle` records one event, then runs `_reconcile`, which looks at
everybody who waits and everything that runs and emits every action that is now
due. Reconciling is idempotent: running it twice in a row emits nothing the
second time. So no event can be "missed" -- forgetting to wake someone is not a
bug that can be written here.

All methods are synchronous. In Trio, code between two checkpoints is atomic, so
the shell calls them from any task and needs neither lock nor mailbox.

Fairness
========

Whoever waits for a model that is not running has a *turn*: the time since when
its oldest request waits, or since when it was made to leave for somebody else,
if that was later. The oldest turn goes first. As long as nobody waits, a ready
model is granted without limit. When somebody does, the models in its way

* leave at once when all of them are idle;
* otherwise are granted for `max_dwell_s` more, counted from the moment when
  both are true: they are ready and somebody waits. Then they drain;
* but each keeps being granted for `min_residency_s` after it became ready, so
  that no load is paid for nothing.

A model that could not start anyhow (its backend is in backoff, failed, or still
exiting) has no turn and drives nobody out.

Without anybody asking
======================

* A model with `keep_loaded` is started whenever it is not running. It is in nobody's
  way, nobody is in its way, and it does not count in any group.
* A model that was idle for its `ttl_s`, or as long as the latest request said that gave a
  time (`Keep`), is stopped; the home model is not.
* When all others were idle for `home_after_s` and nobody waits, the `home_model` takes
  their place.
* A model that was unloaded by request stays away until somebody asks for it.
* A model whose process is replaced, because its settings changed, comes back when the old
  process is gone -- unless its place is taken by then, or somebody of another group waits
  for it. If the new process fails, it is tried again like one that somebody waits for; if
  it is given up, the next change of its settings brings it back, or a `Mended`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, assert_never

import attrs

from ..errors import AdmissionError, BackendError
from . import refusals
from .config import Config, ModelId, ModelSpec
from .diff import plan_reload
from .events import (
    Action,
    Arrived,
    Changed,
    Event,
    Finished,
    Grant,
    Keep,
    Mended,
    Reconfigured,
    Refuse,
    ShutDown,
    Start,
    Stop,
    Tick,
    Unload,
)
from .lifecycle import Phase, Signal, advance
from .notices import Other, Wait
from .placement import Resident, make_room
from .restart import CLOSED, Breaker, after_failure
from .upkeep import expires_s, home_due_s

#: Why a backend leaves whose settings are no longer those of the file.
OUTDATED: Final = "its configuration changed"


@attrs.define(eq=False)
class _Slot:
    """Everything known about one model."""

    spec: ModelSpec
    phase: Phase = Phase.STOPPED
    in_flight: set[int] = attrs.field(factory=set)
    queued: dict[int, float] = attrs.field(factory=dict)  # request -> arrival, oldest first
    ready_since_s: float = -math.inf
    idle_since_s: float = -math.inf  # ready, or the last request's end
    made_way_s: float = -math.inf
    served: bool = False  # granted at least once since it became ready
    breaker: Breaker = CLOSED
    last_error: BackendError | None = None
    removed: bool = False
    held_off: bool = False  # unloaded by request, and not asked for since
    keep_s: float | None = None  # how long it stays idle, if a request said so
    lost: bool = False  # given up when it was to come back

    @property
    def busy(self) -> bool:
        return bool(self.in_flight or self.queued)

    @property
    def stays_s(self) -> float:
        """How long it stays when it is idle, in seconds."""
        return (self.spec.ttl_s or math.inf) if self.keep_s is None else self.keep_s

    @property
    def turn_s(self) -> float:
        """Since when it is this model's turn; only meaningful if somebody waits."""
        return max(next(iter(self.queued.values())), self.made_way_s)

    @property
    def has_room(self) -> bool:
        limit = self.spec.max_in_flight
        return limit is None or len(self.in_flight) < limit


@attrs.frozen(kw_only=True)
class ModelStatistics:
    """A snapshot of one model.

    Attributes:
        phase: Where its backend is in its life.
        in_flight: Requests being served.
        queued: Requests waiting.
        failures: Failures in a row.
        last_error: Why it failed last, in words.
        requests: Requests being served.
        waiting_since_s: Requests waiting, oldest first: since when, as clock time.
        idle_since_s: Since when it is ready and serves nobody, as clock time; else None.
        retry_at_s: When a failed backend may be tried again, as clock time; else None.
        stays_s: How long its backend stays when it is idle, in seconds; perhaps infinite.
    """

    phase: Phase
    in_flight: int
    queued: int
    failures: int
    last_error: BackendError | None
    requests: tuple[int, ...] = ()
    waiting_since_s: Mapping[int, float] = attrs.field(factory=dict[int, float])
    idle_since_s: float | None = None
    retry_at_s: float | None = None
    stays_s: float = math.inf


class Scheduler:
    """Decides; never acts."""

    _expiring: bool  # whether any model may go because it is idle
    _tending: bool  # whether any model may come or go without anybody asking

    def __init__(self, config: Config) -> None:
        self._config = config
        self._slots = {m: _Slot(spec) for m, spec in config.models.items()}
        self._owner: dict[int, ModelId] = {}
        # The few that matter now, so that an event never costs a walk over all models.
        self._waiting: set[ModelId] = set()
        self._resident: set[ModelId] = set()
        self._backing_off: set[ModelId] = set()
        self._draining: dict[ModelId, str] = {}  # and why
        self._returning: set[ModelId] = set()  # to be started again, without being asked for
        self._group_ready_since_s: dict[str, float] = {}
        self._moves: list[tuple[ModelId, Phase]] = []
        self._fresh = True  # nobody has asked for anything yet
        self._shutting_down = False
        self._wake_s = math.inf
        self._note_upkeep()

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._config

    @property
    def wake_s(self) -> float:
        """When a `Tick` is due, in seconds; infinite if nothing is timed."""
        return self._wake_s

    def handle(self, event: Event, *, now_s: float) -> list[Action]:
        """Record *event* and return what is now due, in order."""
        actions = self._record(event, now_s)
        if self._waiting or self._backing_off or self._draining:
            actions += self._reconcile(now_s)
        elif self._tending:
            # A request for a ready model changes nothing here: a wake-up too early at most.
            if not isinstance(event, Arrived):
                actions += self._reconcile(now_s)
        else:
            self._wake_s = math.inf
        return actions

    def admit_at_once(self, request: int, name: str) -> ModelId | None:
        """Grant *request* if *name* is ready and nobody waits for anything; return the model.

        The same as to `handle` its `Arrived`, at a third of the price: nearly every request
        comes this way. If it returns None, nothing has happened, and it is to be handled.
        `wake_s` stays as it is: a tick too early does no harm.
        """
        if self._waiting or self._backing_off or self._draining or self._shutting_down:
            return None
        model = self._config.resolve(name)
        if model is None:
            return None
        slot = self._slots[model]
        if slot.phase is not Phase.READY or not slot.has_room:
            return None
        self._fresh = False
        self._owner[request] = model
        slot.in_flight.add(request)
        slot.served = True
        return model

    def finish_at_once(self, request: int, now_s: float) -> bool:
        """Note the end of *request* if nothing can follow from it; return whether it is so.

        The same as to `handle` its `Finished`; see `admit_at_once`.
        """
        if self._waiting or self._backing_off or self._draining:
            return False
        if self._tending:
            return False
        self._forget(request, now_s)
        return True

    def _record(  # noqa: C901 -- one line for each kind of event
        self, event: Event, now_s: float
    ) -> list[Action]:
        match event:
            case Arrived(request, name):
                return self._admit(request, name, now_s)
            case Finished(request):
                self._forget(request, now_s)
            case Changed(model, Signal.PROBE_OK):
                self._became_ready(model, now_s)
            case Changed(model, _, error):
                return self._is_gone(model, error, now_s)
            case Tick():
                pass
            case Unload(model, force):
                return self._unload(model, force=force)
            case Keep(model, idle_s):
                self._keep_for(model, idle_s)
            case Mended(model):
                self._mend(model)
            case Reconfigured(config):
                return self._reconfigure(config, now_s)
            case ShutDown():
                return self._shut_down(now_s)
            case _:
                assert_never(event)
        return []

    def take_moves(self) -> list[tuple[ModelId, Phase]]:
        """Return which models came into which phase since the last call, in order."""
        moves, self._moves = self._moves, []
        return moves

    def spec(self, model: ModelId) -> ModelSpec:
        """Return the settings that the next start of *model* uses."""
        return self._slots[model].spec

    @property
    def returning(self) -> frozenset[ModelId]:
        """The models that are started again without being asked for: see `Reconfigured`."""
        return frozenset(self._returning)

    def phase(self, model: ModelId) -> Phase:
        """Return where *model*'s backend is in its life."""
        return self._slots[model].phase

    def statistics(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model."""
        return {model: self.statistics_of(model) for model in self._slots}

    def failed(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model that was given up."""
        return {
            model: self.statistics_of(model)
            for model, slot in self._slots.items()
            if slot.phase is Phase.FAILED
        }

    def statistics_of(self, model: ModelId) -> ModelStatistics:
        """Return a snapshot of *model*.

        Raises:
            KeyError: if there is no such model.
        """
        slot = self._slots[model]
        idle = slot.phase is Phase.READY and not slot.busy
        failing = slot.phase in (Phase.BACKOFF, Phase.FAILED)
        return ModelStatistics(
            phase=slot.phase,
            in_flight=len(slot.in_flight),
            queued=len(slot.queued),
            failures=slot.breaker.failures,
            last_error=slot.last_error,
            requests=tuple(slot.in_flight),
            waiting_since_s=dict(slot.queued),
            idle_since_s=slot.idle_since_s if idle else None,
            retry_at_s=slot.breaker.retry_at_s if failing else None,
            stays_s=math.inf if self._stays_anyhow(slot) else slot.stays_s,
        )

    def wait_of(self, request: int) -> Wait | None:
        """Return what *request* waits for; None if it does not wait."""
        model = self._owner.get(request)
        if model is None or request not in (slot := self._slots[model]).queued:
            return None
        others: list[Other] = []
        if slot.phase is Phase.STOPPED and not slot.spec.keep_loaded:
            group = slot.spec.group_key
            others = [
                Other(model=other.spec.id, phase=other.phase)
                for other in self._sharing()
                if other.spec.group_key != group
            ]
        ahead = next(place for place, each in enumerate(slot.queued) if each == request)
        return Wait(model=model, phase=slot.phase, ahead=ahead, others=tuple(others))

    # -- events ---------------------------------------------------------------------------

    def _admit(self, request: int, name: str, now_s: float) -> list[Action]:
        self._fresh = False
        if self._shutting_down:
            return [Refuse(request, refusals.shutting_down())]
        model = self._config.resolve(name)
        if model is None:
            return [Refuse(request, refusals.unknown(name, self._config.models))]
        slot = self._slots[model]
        if slot.phase is Phase.READY and not self._waiting and slot.has_room:
            # Nobody waits anywhere: no need to look further.
            self._owner[request] = model
            slot.in_flight.add(request)
            slot.served = True
            return [Grant(request, model)]
        if slot.phase is Phase.FAILED:
            wait_s = slot.breaker.retry_at_s - now_s
            if wait_s > 0:
                return [Refuse(request, refusals.failed(model, slot.last_error, wait_s))]
            self._move(slot, Signal.RETRY)  # half-open: one attempt
        if len(slot.queued) >= slot.spec.max_queued:
            return [Refuse(request, refusals.queue_full(model, len(slot.queued)))]
        self._owner[request] = model
        slot.queued[request] = now_s
        slot.held_off = False
        self._waiting.add(model)
        return []

    def _forget(self, request: int, now_s: float) -> None:
        model = self._owner.pop(request, None)
        if model is None:
            return  # refused earlier; nothing is held
        slot = self._slots[model]
        slot.in_flight.discard(request)
        if slot.queued.pop(request, None) is not None and not slot.queued:
            self._waiting.discard(model)
        slot.idle_since_s = now_s
        self._drop_if_removed(model)

    def _became_ready(self, model: ModelId, now_s: float) -> None:
        slot = self._slots[model]
        self._move(slot, Signal.PROBE_OK)
        slot.ready_since_s = slot.idle_since_s = now_s
        slot.served = slot.lost = False
        self._stays_away(model)
        if not slot.spec.keep_loaded:
            self._group_ready_since_s.setdefault(slot.spec.group_key, now_s)

    def _is_gone(self, model: ModelId, error: BackendError | None, now_s: float) -> list[Action]:
        slot = self._slots[model]
        was_ready = slot.phase is Phase.READY
        self._move(slot, Signal.EXITED)
        self._resident.discard(model)
        if model not in self._returning:
            slot.keep_s = None
        self._draining.pop(model, None)
        groups = {s.spec.group_key for s in self._sharing()}
        self._group_ready_since_s = {
            g: t for g, t in self._group_ready_since_s.items() if g in groups
        }
        if slot.phase is not Phase.BACKOFF:
            self._drop_if_removed(model)
            return []
        error = error or BackendError(f"the backend of model {model!r} ended unexpectedly")
        slot.last_error = error
        router = self._config.router
        slot.breaker = after_failure(
            slot.breaker,
            now_s=now_s,
            ready_for_s=now_s - slot.ready_since_s if was_ready else 0.0,
            retryable=error.retryable,
            max_restarts=router.max_restarts,
            stable_after_s=router.stable_after_s,
            cooldown_s=router.cooldown_s,
        )
        if not slot.breaker.open:
            self._backing_off.add(model)
            return []
        self._move(slot, Signal.GIVE_UP)
        slot.lost = model in self._returning
        self._stays_away(model)
        error.retry_after_s = router.cooldown_s
        return self._refuse_queue(model, error, now_s)

    def _reconfigure(self, config: Config, now_s: float) -> list[Action]:
        plan = plan_reload(self._config, config)
        self._config = config
        actions: list[Action] = []
        for model in plan.add:
            slot = self._slots.setdefault(model, _Slot(config.models[model]))
            slot.spec = config.models[model]
            slot.removed = False  # its old process may still be leaving
        for model in plan.restart | plan.retune:
            self._slots[model].spec = config.models[model]
        for model in plan.remove:
            actions += self._refuse_queue(model, refusals.removed(model), now_s)
        for model in plan.restart | plan.retune:
            slot = self._slots[model]
            runs = slot.phase in (Phase.STARTING, Phase.READY)
            if slot.lost or (runs and model in plan.restart):
                self._returning.add(model)
            slot.lost = False
        for model in plan.restart | plan.remove:
            actions += self._retire(model, OUTDATED)
        for model in plan.restart | plan.retune | plan.remove:
            self._forgive(model)
        for model in plan.remove:
            self._slots[model].removed = True
            self._returning.discard(model)
            self._drop_if_removed(model)
        self._note_upkeep()
        return actions

    def _note_upkeep(self) -> None:
        """Note which models come or go without anybody asking."""
        specs = self._config.models.values()
        self._kept = tuple(spec.id for spec in specs if spec.keep_loaded)
        self._expiring = any(spec.ttl_s and not spec.keep_loaded for spec in specs) or any(
            self._slots[model].keep_s is not None for model in self._resident | self._returning
        )
        home = self._config.router.home_model
        self._home = None if home is None else self._config.resolve(home)
        self._note_tending()

    def _note_tending(self) -> None:
        self._tending = (
            self._expiring or bool(self._kept) or self._home is not None or bool(self._returning)
        )

    def _stays_away(self, model: ModelId) -> None:
        """Note that *model* is not to come back by itself (any more)."""
        if model in self._returning:
            self._returning.discard(model)
            self._note_tending()

    def _retire(self, model: ModelId, reason: str) -> list[Action]:
        """Let *model*'s process end when its requests have."""
        slot = self._slots[model]
        if slot.phase is Phase.READY:
            self._move(slot, Signal.DRAIN)
            self._draining[model] = reason
        elif slot.phase is Phase.STARTING:  # serves nobody yet
            return [self._stop(model, reason)]
        return []

    def _unload(self, model: ModelId, *, force: bool) -> list[Action]:
        if model not in self._slots:
            return []  # a reload took it away meanwhile
        reason = "it was unloaded by request"
        actions = self._retire(model, reason)
        if force and self._slots[model].phase is Phase.DRAINING:
            actions.append(self._stop(model, reason))
        self._forgive(model)
        self._stays_away(model)
        self._slots[model].lost = False
        self._slots[model].held_off = not self._slots[model].queued
        return actions

    def _keep_for(self, model: ModelId, idle_s: float | None) -> None:
        if model in self._resident:
            self._slots[model].keep_s = idle_s
            self._expiring = self._expiring or idle_s is not None
            self._note_tending()

    def _forgive(self, model: ModelId) -> None:
        """Make a failed model eligible again: its changed configuration may be the cure."""
        slot = self._slots[model]
        if slot.phase in (Phase.BACKOFF, Phase.FAILED):
            self._move(slot, Signal.RETRY)
        slot.breaker = CLOSED
        slot.held_off = False
        self._backing_off.discard(model)

    def _mend(self, model: ModelId) -> None:
        slot = self._slots.get(model)
        if slot is None or slot.phase is not Phase.FAILED:
            return
        held_off = slot.held_off
        self._forgive(model)
        slot.held_off = held_off
        if slot.lost:
            slot.lost = False
            self._returning.add(model)
            self._note_tending()

    def _shut_down(self, now_s: float) -> list[Action]:
        self._shutting_down = True
        return [
            action
            for model in tuple(self._waiting)
            for action in self._refuse_queue(model, refusals.shutting_down(), now_s)
        ]

    # -- steps ----------------------------------------------------------------------------

    def _move(self, slot: _Slot, signal: Signal) -> None:
        slot.phase = advance(slot.phase, signal)
        self._moves.append((slot.spec.id, slot.phase))

    def _start(self, model: ModelId) -> Start:
        slot = self._slots[model]
        self._move(slot, Signal.START)
        self._resident.add(model)
        return Start(model)

    def _stop(self, model: ModelId, reason: str) -> Stop:
        slot = self._slots[model]
        self._move(slot, Signal.STOP)
        self._draining.pop(model, None)
        return Stop(model, reason)

    def _refuse(self, request: int, error: AdmissionError | BackendError, now_s: float) -> Refuse:
        self._forget(request, now_s)
        return Refuse(request, error)

    def _refuse_queue(
        self, model: ModelId, error: AdmissionError | BackendError, now_s: float
    ) -> list[Action]:
        queued = tuple(self._slots[model].queued)
        return [self._refuse(request, error, now_s) for request in queued]

    def _drop_if_removed(self, model: ModelId) -> None:
        slot = self._slots[model]
        if slot.removed and slot.phase is Phase.STOPPED and not slot.in_flight:
            del self._slots[model]

    # -- reconciling ----------------------------------------------------------------------

    def _reconcile(self, now_s: float) -> list[Action]:
        """Emit whatever is due now, and note when to look again."""
        self._wake_s = math.inf
        actions = self._time_out(now_s)
        for model in tuple(self._backing_off):
            slot = self._slots[model]
            if self._due(slot.breaker.retry_at_s, now_s):
                self._move(slot, Signal.RETRY)
                self._backing_off.discard(model)
        for model in tuple(self._draining):
            if not self._slots[model].in_flight:
                actions.append(self._stop(model, self._draining[model]))
        if self._shutting_down:
            return actions
        actions += self._expire(now_s)
        actions += self._keep(now_s)
        if self._waiting:
            actions += self._grant(now_s)
            actions += self._swap(now_s)
        if self._returning:
            actions += self._return(now_s)
        # Both may be empty since just now.
        if self._home is not None and not self._waiting and not self._returning:
            actions += self._go_home(self._home, now_s)
        return actions

    def _due(self, at_s: float, now_s: float) -> bool:
        """Say whether *at_s* has come; if not, make sure to look again then."""
        if at_s > now_s:
            self._wake_s = min(self._wake_s, at_s)
        return at_s <= now_s

    def _time_out(self, now_s: float) -> list[Action]:
        limit_s = self._config.router.max_queue_wait_s
        actions: list[Action] = []
        for model in tuple(self._waiting):
            slot = self._slots[model]
            for request, arrived_s in tuple(slot.queued.items()):
                if not self._due(arrived_s + limit_s, now_s):
                    break
                awaited = self._what_it_waits_for(model)
                error = refusals.queue_timeout(model, limit_s, awaited)
                actions.append(self._refuse(request, error, now_s))
        return actions

    def _expire(self, now_s: float) -> list[Action]:
        """Stop who has been idle for its ``ttl_s``."""
        if not self._expiring:
            return []
        actions: list[Action] = []
        for model in tuple(self._resident):
            slot = self._slots[model]
            if slot.phase is not Phase.READY or self._stays_anyhow(slot):
                continue
            stays_s = slot.stays_s
            if self._due(expires_s(stays_s, busy=slot.busy, idle_since_s=slot.idle_since_s), now_s):
                who = "ttl_s" if slot.keep_s is None else "keep_alive"
                actions.append(self._stop(model, f"it was idle for {stays_s:g} s ({who})"))
        return actions

    def _stays_anyhow(self, slot: _Slot) -> bool:
        """Say whether a model stays however long it is idle."""
        return slot.spec.keep_loaded or slot.spec.id == self._home

    def _keep(self, now_s: float) -> list[Action]:
        """Start every model with ``keep_loaded`` that does not run."""
        return [self._start(model) for model in self._kept if self._may_come(model, now_s)]

    def _return(self, now_s: float) -> list[Action]:
        """Start again whose process was replaced, unless its place is taken, or asked for."""
        actions: list[Action] = []
        turns = self._turns()
        wanted = {self._slots[model].spec.group_key for model in turns}
        for model in sorted(self._returning):
            slot = self._slots[model]
            if slot.phase is not Phase.STOPPED:
                continue
            group = slot.spec.group_key
            residents = [] if slot.spec.keep_loaded else self._residents(turns, now_s)
            others = [resident for resident in residents if resident.group != group]
            taken = any(not other.leaving for other in others)
            if not slot.spec.keep_loaded and (taken or wanted - {group} or not slot.stays_s):
                self._stays_away(model)
                slot.keep_s = None
            elif not others:
                actions.append(self._start(model))
        return actions

    def _go_home(self, home: ModelId, now_s: float) -> list[Action]:
        """Let the home model take the place of models that nobody has used for a while."""
        if self._slots[home].spec.keep_loaded or home in self._resident:
            return []
        if self._fresh and self._config.router.startup_model is not None:
            return []  # that one is about to be asked for
        others = self._sharing()
        due_s = home_due_s(
            (math.inf if slot.busy else slot.idle_since_s for slot in others),
            self._config.router.home_after_s,
        )
        if not self._due(due_s, now_s) or not self._may_come(home, now_s):
            return []
        room = make_room(
            group=self._slots[home].spec.group_key, residents=self._residents([], now_s)
        )
        if not room.blockers:
            return [self._start(home)]
        reason = f"the home model {home!r} takes its place"
        return [self._stop(victim, reason) for victim in room.victims]

    def _may_come(self, model: ModelId, now_s: float) -> bool:
        """Say whether *model*, for which nobody waits, may be started now."""
        slot = self._slots[model]
        if slot.held_off:
            return False
        if slot.phase is Phase.FAILED and self._due(slot.breaker.retry_at_s, now_s):
            self._move(slot, Signal.RETRY)
        return slot.phase is Phase.STOPPED

    def _sharing(self) -> list[_Slot]:
        """Return the residents that share the place of the groups: all but the kept ones."""
        slots = (self._slots[model] for model in self._resident)
        return [slot for slot in slots if not slot.spec.keep_loaded]

    def _turns(self) -> list[ModelId]:
        """Return the models that wait to be started, whose turn it is first."""
        waiting = (
            m
            for m in self._waiting
            if self._slots[m].phase is Phase.STOPPED and not self._slots[m].spec.keep_loaded
        )
        return sorted(waiting, key=lambda m: self._slots[m].turn_s)

    def _open(self, model: ModelId, turns: list[ModelId], now_s: float) -> bool:
        """Say whether ready *model* is still granted, though others may wait."""
        slot = self._slots[model]
        if slot.spec.keep_loaded:
            return True
        group = slot.spec.group_key
        rival_s = next(
            (self._slots[m].turn_s for m in turns if self._slots[m].spec.group_key != group), None
        )
        if rival_s is None or not slot.served:
            return True
        router = self._config.router
        until_s = max(
            max(rival_s, self._group_ready_since_s.get(group, now_s)) + router.max_dwell_s,
            slot.ready_since_s + router.min_residency_s,
        )
        return not self._due(until_s, now_s)

    def _grant(self, now_s: float) -> list[Action]:
        turns = self._turns()
        actions: list[Action] = []
        for model in sorted(self._waiting, key=lambda m: self._slots[m].turn_s):
            slot = self._slots[model]
            if slot.phase is not Phase.READY or not self._open(model, turns, now_s):
                continue
            while slot.queued and slot.has_room:
                request = next(iter(slot.queued))
                del slot.queued[request]
                slot.in_flight.add(request)
                slot.served = True
                actions.append(Grant(request, model))
            if not slot.queued:
                self._waiting.discard(model)
        return actions

    def _swap(self, now_s: float) -> list[Action]:
        """Start whoever fits, and make room for whose turn it is."""
        actions: list[Action] = []
        turns = self._turns()
        evicting = False
        for model in turns:
            slot = self._slots[model]
            room = make_room(group=slot.spec.group_key, residents=self._residents(turns, now_s))
            if not room.blockers:
                if self._may_join(model, turns, now_s):
                    actions.append(self._start(model))
            elif not evicting:
                evicting = True  # only for the oldest turn; the others wait for theirs
                for victim in room.victims:
                    actions.append(self._stop(victim, f"model {model!r} takes its place"))
                    self._slots[victim].made_way_s = now_s
        return actions

    def _may_join(self, model: ModelId, turns: list[ModelId], now_s: float) -> bool:
        """Say whether *model* may still start beside its group, though others may wait.

        Without residents it may: then it is first in turn, or of the group of the first.
        """
        group = self._slots[model].spec.group_key
        neighbours = [slot for slot in self._sharing() if slot.spec.group_key == group]
        if not neighbours or group not in self._group_ready_since_s:
            return True
        older = turns[: turns.index(model)]
        rival_s = next(
            (self._slots[m].turn_s for m in older if self._slots[m].spec.group_key != group), None
        )
        if rival_s is None:
            return True
        since_s = max(rival_s, self._group_ready_since_s[group])
        return not self._due(since_s + self._config.router.max_dwell_s, now_s)

    def _residents(self, turns: list[ModelId], now_s: float) -> list[Resident]:
        residents = []
        for slot in self._sharing():
            open_ = slot.phase is not Phase.READY or self._open(slot.spec.id, turns, now_s)
            residents.append(
                Resident(
                    model=slot.spec.id,
                    group=slot.spec.group_key,
                    leaving=slot.phase in (Phase.DRAINING, Phase.STOPPING),
                    idle=not slot.in_flight and not (slot.queued and open_),
                    closed=not open_,
                )
            )
        return residents

    def _what_it_waits_for(self, model: ModelId) -> str:
        slot = self._slots[model]
        match slot.phase:
            case Phase.STARTING:
                return "its backend has not become ready yet"
            case Phase.STOPPING | Phase.DRAINING:
                return "its previous backend process has not exited yet"
            case Phase.BACKOFF:
                return f"its backend is restarted after a failure ({slot.last_error})"
            case Phase.READY:
                return f"it is busy with {len(slot.in_flight)} requests, or makes way for others"
            case _:
                if any(key.models is not None for key in self._config.api_keys.values()):
                    # The client's key may be one that must not learn which others there are.
                    return "other models must leave first"
                others = ", ".join(
                    f"{m!r} ({self._slots[m].phase}, {len(self._slots[m].in_flight)} in flight)"
                    for m in sorted(self._resident)
                )
                return f"it cannot start before these have left: {others or 'none'}"
