"""Admission, queueing and swap decisions. Sans-IO: events in, actions out.

Theory of operation
===================

`Scheduler.handle` records one event, then runs `_reconcile`, which looks at every queue and every
process, and emits every action that is now due. Reconciling is idempotent: a second run emits
nothing. So no event can be missed: a forgotten wake-up is not a bug that can be written here.

All methods are synchronous. In Trio, code between two checkpoints is atomic, so the dispatcher
calls them from any task and needs neither lock nor mailbox.

The state is in `state`; the order of turns in `turns`; starts and stops without a request in
`idle_policy`; exits in `failures`; waits without a grant in `vain_waits`; which models may run at
the same time in `placement`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import assert_never

from ...errors.base import RouterError
from ..config.config import Config
from ..config.names import ModelId
from ..config.reload import ReloadPlan, plan_reload
from ..config.specs import ModelSpec
from ..memory.view import MemoryView
from . import failures, idle_policy, policies, refusals, turns, vain_waits
from .causes import OUTDATED, UNLOADED, StopReason
from .events import (
    Action,
    Arrived,
    Changed,
    Event,
    ExplicitLoad,
    FileRestored,
    Finished,
    Grant,
    Hung,
    Keep,
    MemoryChanged,
    Reconfigured,
    Refuse,
    Renew,
    ShutDown,
    Tick,
    Unload,
)
from .lifecycle import Cue, Intent, Phase, Signal
from .model_entry import ModelEntry, ModelStatistics
from .placement import Occupancy, Placement, Resident
from .state import SchedulerState
from .waits import Behind, Blocker, Wait


class Scheduler:
    """Decides about requests and models: returns actions, and performs none.

    Args:
        config: The configuration in force.
        placement_for: Returns the placement policy of a configuration.
    """

    def __init__(
        self,
        config: Config,
        placement_for: Callable[[Config], Placement] = policies.placement_for,
    ) -> None:
        self._state = SchedulerState(config, placement_for)
        self._shutting_down = False
        self._now_s = 0.0  # of the latest event
        self._occupancy: Occupancy | None = None  # after it, once computed for `wait_of`

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._state.config

    @property
    def wake_s(self) -> float:
        """Clock time at which a `Tick` is due, in seconds; infinite if nothing is timed."""
        return self._state.wake_s

    @property
    def has_queue(self) -> bool:
        """True if any request waits."""
        return bool(self._state.waiting)

    @property
    def wants_reading(self) -> bool:
        """True if something would start or leave now if the devices had been read just now."""
        return self._state.wants_reading

    def held_up(self, lost_s: float, *, now_s: float) -> None:
        """Record that the router stood still for *lost_s* seconds, until now.

        A request that waits has not waited for its model in that time.
        """
        if self._state.waiting:
            self._state.stalls.append((now_s, lost_s))

    def handle(self, event: Event, *, now_s: float) -> list[Action]:
        """Record *event* and return the actions that are now due, in order."""
        state = self._state
        self._now_s, self._occupancy = now_s, None
        state.wants_reading = False
        actions = self._record(event, now_s)
        if state.waiting or state.backing_off or state.draining:
            actions += self._reconcile(now_s)
        elif state.has_timed_work:
            # A request for a ready model changes nothing here: a wake-up too early at most.
            if not isinstance(event, Arrived):
                actions += self._reconcile(now_s)
        else:
            state.wake_s = float("inf")
        return actions

    def admit_at_once(
        self, request: int, model: ModelId, now_s: float, *, takes_slot: bool = True
    ) -> bool:
        """Grant *request* if *model* is ready and no request waits; return whether it was.

        The same as to `handle` its `Arrived`, at a third of the price: nearly every request
        takes this way. If it returns False, nothing has happened, and the request is to be
        handled. `wake_s` stays as it is: a tick too early does no harm.
        """
        state = self._state
        if state.waiting or state.backing_off or state.draining or self._shutting_down:
            return False
        entry = state.entries.get(model)
        if entry is None or entry.phase is not Phase.READY:
            return False
        if len(entry.in_flight) >= entry.limit and not entry.has_room(takes_slot=takes_slot):
            return False
        state.no_request_yet = False
        if not entry.in_flight:
            entry.demand.arrived(now_s)
        state.hold(request, entry, now_s, takes_slot=takes_slot)
        return True

    def may_hold(self, model: ModelId, now_s: float) -> bool:
        """Return whether a request of *model* may hold it for longer: no other has its turn."""
        state = self._state
        entry = state.entries.get(model)
        if entry is None or entry.phase is not Phase.READY or self._shutting_down:
            return False
        return not state.waiting or not turns.is_closed(state, entry, now_s)

    def hold_again(self, request: int, model: ModelId, now_s: float, *, takes_slot: bool) -> bool:
        """Let *request*, which `finish_at_once` or a `Finished` ended, hold *model* again.

        It does not wait for one of ``max_in_flight``: its connection to the backend is open,
        and was admitted before. Requests that come later wait for it.

        Returns:
            Whether it may.
        """
        if not self.may_hold(model, now_s):
            return False
        self._state.hold(request, self._state.entries[model], now_s, takes_slot=takes_slot)
        return True

    @property
    def shutting_down(self) -> bool:
        """True if nothing is started any more."""
        return self._shutting_down

    def finish_at_once(self, request: int, now_s: float) -> bool:
        """Record the end of *request* if nothing can follow from it; return whether it was.

        The same as to `handle` its `Finished`; see `admit_at_once`.
        """
        state = self._state
        if state.waiting or state.backing_off or state.draining or state.has_timed_work:
            return False
        state.forget(request, now_s)
        return True

    def _record(  # noqa: C901, PLR0911, PLR0912 -- one line for each kind of event
        self, event: Event, now_s: float
    ) -> list[Action]:
        match event:
            case Arrived():
                return self._admit(event, now_s)
            case Finished(request):
                self._state.forget(request, now_s)
            case Changed(model, Signal.PROBE_OK, _, slots):
                self._became_ready(model, slots, now_s)
            case Changed(model, _, error, _):
                return failures.exited(self._state, model, error, now_s)
            case Tick():
                pass
            case Unload(model, force):
                return self._unload(model, now_s, force=force)
            case Keep(model, idle_s):
                self._keep_for(model, idle_s)
            case Renew(model):
                return idle_policy.renew(self._state, model, now_s)
            case Hung(model, error):
                return failures.hung(self._state, model, error, now_s)
            case ExplicitLoad(model):
                failures.forgive_for_load(self._state, model)
            case FileRestored(model):
                failures.file_restored(self._state, model)
            case MemoryChanged(memory):
                self._state.memory = memory
            case Reconfigured(config, plan):
                if plan is None or plan.base is not self._state.config:
                    plan = plan_reload(self._state.config, config)
                return self._reconfigure(config, plan, now_s)
            case ShutDown():
                return self._shut_down(now_s)
            case _:
                assert_never(event)
        return []

    def learn(self, memory: MemoryView) -> None:
        """Record what is known of memory; the next event decides with it."""
        self._state.memory = memory

    # -- snapshots ------------------------------------------------------------------------

    def take_moves(self) -> list[tuple[ModelId, Phase]]:
        """Return the models that changed their phase since the last call, in order."""
        state = self._state
        moves, state.moves = state.moves, []
        return moves

    def spec(self, model: ModelId) -> ModelSpec:
        """Return the settings that the next start of *model* uses."""
        return self._state.entries[model].spec

    @property
    def returning(self) -> frozenset[ModelId]:
        """The models that start again because their process is replaced; see `Intent`."""
        return frozenset(self._state.returning)

    def next_start(self, now_s: float) -> ModelSpec | None:
        """Return the model with the oldest turn, if it has to wait until others have left."""
        state = self._state
        order = state.in_turn(now_s) if state.waiting else []
        if not order or order[0].spec.id in state.barred:
            return None
        spec = order[0].spec
        verdict = state.placement.may_start(spec, state.occupancy(now_s, order))
        return spec if verdict.blockers else None

    def residents(self, now_s: float) -> dict[ModelId, Resident]:
        """Return the models with a process, as placement policies see them."""
        return {each.model: each for each in self._state.occupancy(now_s).residents}

    @property
    def wanted(self) -> frozenset[ModelId]:
        """The models that requests wait for."""
        return frozenset(self._state.waiting)

    def phase(self, model: ModelId) -> Phase:
        """Return the phase of *model*'s backend."""
        return self._state.entries[model].phase

    def statistics(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model."""
        return {model: self.statistics_of(model) for model in self._state.entries}

    def failed(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model that was given up."""
        return {
            model: self.statistics_of(model)
            for model, entry in self._state.entries.items()
            if entry.phase is Phase.FAILED
        }

    def leaving(self) -> list[ModelSpec]:
        """Return the models that are configured no more, but still have a process or requests."""
        entries = self._state.entries.values()
        return [entry.spec for entry in entries if entry.intent is Intent.REMOVED]

    def statistics_of(self, model: ModelId) -> ModelStatistics:
        """Return a snapshot of *model*.

        Raises:
            KeyError: if there is no such model.
        """
        state = self._state
        entry = state.entries[model]
        return entry.statistics(never_expires=state.never_expires(entry), memory=state.memory)

    def wait_of(self, request: int) -> Wait | None:
        """Return what *request* waits for; None if it does not wait."""
        state = self._state
        model = state.owner.get(request)
        if model is None or request not in (entry := state.entries[model]).queued:
            return None
        ahead = entry.line.place(request)
        behind = entry.line.behind(request)
        if entry.phase is not Phase.STOPPED:
            return Wait(model=model, phase=entry.phase, ahead=ahead, behind=behind)
        if self._occupancy is None:
            self._occupancy = state.occupancy(self._now_s)
        verdict = state.placement.may_start(entry.spec, self._occupancy)
        blockers = (Blocker(model=each, phase=self.phase(each)) for each in verdict.blockers)
        return Wait(
            model=model,
            phase=entry.phase,
            ahead=ahead,
            behind=self._behind_turn(entry) or behind,
            blockers=tuple(blockers),
            reason=verdict.reason,
        )

    def _behind_turn(self, entry: ModelEntry) -> Behind | None:
        """Return what has its turn before a model that waits to be started."""
        order = self._state.in_turn(self._now_s)
        if not order or (first := order[0]) is entry:
            return None
        rank = entry.line.rank
        if first.line.rank != rank:
            return Behind.CLASS if first.line.rank < rank else None
        shared = first.line.clients(rank).keys() & entry.line.clients(rank).keys()
        return None if shared else Behind.CLIENT

    # -- events ---------------------------------------------------------------------------

    def _admit(self, event: Arrived, now_s: float) -> list[Action]:
        state, request, model = self._state, event.request, event.model
        takes_slot, may_load = event.takes_slot, event.may_load
        state.no_request_yet = False
        if self._shutting_down:
            return [Refuse(request, refusals.shutting_down())]
        if model not in state.config.models:
            return [Refuse(request, refusals.unknown(model, state.config))]
        entry = state.entries[model]
        if not entry.busy:
            entry.demand.arrived(now_s)
        if (
            entry.phase is Phase.READY
            and entry.has_room(takes_slot=takes_slot)
            # No queue anywhere, or only for slots, which it does not take.
            and (not state.waiting or not (takes_slot or state.in_turn(now_s)))
        ):
            state.hold(request, entry, now_s, takes_slot=takes_slot)
            return [Grant(request, model)]
        if (error := self._refusal(entry, now_s, may_load=may_load)) is not None:
            return [Refuse(request, error)]
        actions: list[Action] = []
        if len(entry.queued) >= _queue_limit(entry):
            full = refusals.queue_full(model, len(entry.queued))
            if (crowded := entry.line.crowd(event.client)) is None:
                return [Refuse(request, full)]
            actions.append(state.refuse(crowded, full, now_s))
        state.queue(event, now_s)
        if may_load:
            state.cue(entry, Cue.QUEUED)
        return actions

    def _refusal(self, entry: ModelEntry, now_s: float, *, may_load: bool) -> RouterError | None:
        """Return why a request cannot wait for a model; None if it can."""
        state, model = self._state, entry.spec.id
        if not may_load and not entry.is_coming:
            return refusals.not_loaded(model)
        if entry.phase is Phase.FAILED:
            if entry.breaker.retry_at_s > now_s or not state.finds_place(entry, now_s):
                return failures.why_failed(entry, now_s)
            state.move(entry, Signal.RETRY)  # half-open: one attempt
        return None

    def _became_ready(self, model: ModelId, slots: int | None, now_s: float) -> None:
        state = self._state
        entry = state.entries[model]
        state.move(entry, Signal.PROBE_OK)
        entry.ready_since_s = entry.idle_since_s = now_s
        entry.renew(entry.spec, slots)
        entry.load_s = now_s - entry.started_s
        entry.served = False
        state.barred.discard(model)
        state.cue(entry, Cue.READY)
        state.dwell_since_s.setdefault(state.dwell_key(entry), now_s)

    def _reconfigure(self, config: Config, plan: ReloadPlan, now_s: float) -> list[Action]:
        state = self._state
        state.reconfigure(config)
        actions: list[Action] = []
        for model in plan.add:
            entry = state.entries.setdefault(model, ModelEntry(config.models[model]))
            entry.renew(config.models[model], entry.slots)
            state.cue(entry, Cue.ADDED)  # its old process may still be leaving
        for model in plan.remove:
            actions += state.refuse_queue(model, refusals.removed(model), now_s)
        for model in plan.restart | plan.retune:
            entry = state.entries[model]
            entry.renew(config.models[model], entry.slots)
            runs = entry.phase in (Phase.STARTING, Phase.READY)
            state.cue(entry, Cue.REPLACED if runs and model in plan.restart else Cue.CHANGED)
        for model in plan.restart | plan.remove:
            actions += self._retire(model, OUTDATED)
        for model in plan.restart | plan.retune | plan.remove:
            failures.forgive(state, model)
        actions += failures.note_faults(state, now_s)
        for model in plan.remove:
            state.cue(state.entries[model], Cue.REMOVED)
            state.drop_if_removed(model)
        state.note_dwell_keys()
        state.note_settings()
        return actions

    def _retire(self, model: ModelId, reason: StopReason) -> list[Action]:
        """Stop *model*'s process when its requests have ended."""
        state = self._state
        entry = state.entries[model]
        if entry.phase is Phase.READY:
            state.move(entry, Signal.DRAIN)
            state.draining[model] = reason
        elif entry.phase is Phase.STARTING:  # no request is in flight yet
            return [state.stop(model, reason)]
        return []

    def _unload(self, model: ModelId, now_s: float, *, force: bool) -> list[Action]:
        state = self._state
        entry = state.entries.get(model)
        if entry is None:
            return []  # a reload removed it meanwhile
        # They would load it again at once.
        actions = state.refuse_queue(model, refusals.unloaded(model), now_s)
        actions += self._retire(model, UNLOADED)
        if force and entry.phase is Phase.DRAINING:
            actions.append(state.stop(model, UNLOADED))
        if not entry.lacks_file:
            failures.forgive(self._state, model)
        state.cue(entry, Cue.UNLOADED)
        return actions

    def _keep_for(self, model: ModelId, idle_s: float | None) -> None:
        state = self._state
        if model in state.resident:
            state.entries[model].keep_s = idle_s
            state.expiring = state.expiring or idle_s is not None
            state.note_timed_work()

    def _shut_down(self, now_s: float) -> list[Action]:
        state = self._state
        self._shutting_down = True
        return [
            action
            for model in tuple(state.waiting)
            for action in state.refuse_queue(model, refusals.shutting_down(), now_s)
        ]

    # -- reconciling ----------------------------------------------------------------------

    def _reconcile(self, now_s: float) -> list[Action]:
        """Emit every action that is due now, and note when to look again."""
        state = self._state
        state.wake_s = float("inf")
        actions = vain_waits.time_out(state, now_s)
        for model in tuple(state.backing_off):
            entry = state.entries[model]
            if state.due(entry.breaker.retry_at_s, now_s):
                state.move(entry, Signal.RETRY)
                state.backing_off.discard(model)
        for model in tuple(state.draining):
            if not state.entries[model].in_flight:
                actions.append(state.stop(model, state.draining[model]))
        if self._shutting_down:
            return actions
        actions += idle_policy.expire(state, now_s)
        actions += idle_policy.keep(state, now_s)
        if state.waiting:
            actions += vain_waits.refuse_unloadable(state, now_s)
            actions += vain_waits.refuse_without_place(state, now_s)
            order = state.in_turn(now_s)
            state.due(state.order.until_s, now_s)
            actions += turns.grant(state, order, now_s)
            actions += turns.swap(state, order, now_s)
            actions += vain_waits.refuse_without_place(state, now_s)
        if state.returning:
            actions += idle_policy.bring_back(state, now_s)
        if state.waiting:
            actions += vain_waits.refuse_unloadable(state, now_s)
        # Both may be empty since just now.
        if state.home is not None and not state.waiting and not state.returning:
            actions += idle_policy.go_home(state, state.home, now_s)
        return actions


def _queue_limit(entry: ModelEntry) -> int:
    """Return the most requests in a model's queue.

    While it is not ready, those that a slot will be free for are in the queue, too.
    """
    queued, slots = entry.spec.max_queued, entry.limit
    return queued if entry.phase is Phase.READY or slots == math.inf else queued + int(slots)
