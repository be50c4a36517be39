"""Admission, queueing and swap decisions. Sans-IO: events in, actions out.

Theory of operation
===================

`Scheduler.handle` records one event, then runs `_reconcile`, which looks at every queue and every
process, and emits every action that is now due. Reconciling is idempotent: a second run emits
nothing. So no event can be missed: a forgotten wake-up is not a bug that can be written here.

All methods are synchronous. In Trio, code between two checkpoints is atomic, so the dispatcher
calls them from any task and needs neither lock nor mailbox.

The state is in `state`; the order of turns in `fairness`; starts and stops without a request in
`idle_policy`; which models may run at the same time in `placement`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import assert_never

import attrs

from ...errors.backends import BackendError, FileMissingError
from ...errors.base import RouterError
from ...errors.causes import MEMORY_CAUSES
from ..config.config import Config
from ..config.names import ModelId
from ..config.reload import ReloadPlan, plan_reload
from ..config.specs import ModelSpec, Policy
from ..memory.view import MemoryView
from . import fairness, idle_policy, policies, refusals
from .causes import HANGS, OUTDATED, UNLOADED, StopReason
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
    ShutDown,
    Tick,
    Unload,
)
from .lifecycle import Cue, Intent, Phase, Signal
from .memory_sentences import holders_of
from .placement import Occupancy, Placement, Resident
from .restart import CLOSED, after_failure
from .state import ModelEntry, ModelStatistics, SchedulerState
from .waits import Blocker, Wait

#: Why a backend is stopped if its settings are no longer those of the file.


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
        self._oldest_s = math.inf  # no request that waits arrived earlier
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
        if not entry.has_room(takes_slot=takes_slot):
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
        return not state.waiting or not fairness.is_closed(state, entry, now_s)

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
            case Changed(model, Signal.PROBE_OK):
                self._became_ready(model, now_s)
            case Changed(model, _, error):
                return self._exited(model, error, now_s)
            case Tick():
                pass
            case Unload(model, force):
                return self._unload(model, now_s, force=force)
            case Keep(model, idle_s):
                self._keep_for(model, idle_s)
            case Hung(model, error):
                return self._hung(model, error, now_s)
            case ExplicitLoad(model):
                self._forgive_for_load(model)
            case FileRestored(model):
                self._file_restored(model)
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
        order = state.in_turn() if state.waiting else []
        if not order or not order[0].may_displace:
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
        ahead = next(place for place, each in enumerate(entry.queued) if each == request)
        if entry.phase is not Phase.STOPPED:
            return Wait(model=model, phase=entry.phase, ahead=ahead)
        if self._occupancy is None:
            self._occupancy = state.occupancy(self._now_s)
        verdict = state.placement.may_start(entry.spec, self._occupancy)
        blockers = (Blocker(model=each, phase=self.phase(each)) for each in verdict.blockers)
        return Wait(
            model=model,
            phase=entry.phase,
            ahead=ahead,
            blockers=tuple(blockers),
            reason=verdict.reason,
        )

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
            and (not state.waiting or not (takes_slot or state.in_turn()))
        ):
            state.hold(request, entry, now_s, takes_slot=takes_slot)
            return [Grant(request, model)]
        if (error := self._refusal(entry, now_s, may_load=may_load)) is not None:
            return [Refuse(request, error)]
        state.owner[request] = model
        entry.queued[request] = now_s
        if not takes_slot:
            entry.slotless.add(request)
        self._oldest_s = min(self._oldest_s, now_s) if state.waiting else now_s
        if may_load:
            state.cue(entry, Cue.QUEUED)
        else:
            entry.loading_none.add(request)
        state.waiting.add(model)
        return []

    def _refusal(self, entry: ModelEntry, now_s: float, *, may_load: bool) -> RouterError | None:
        """Return why a request cannot wait for a model; None if it can."""
        state, model = self._state, entry.spec.id
        if not may_load and not entry.is_coming:
            return refusals.not_loaded(model)
        if entry.phase is Phase.FAILED:
            if entry.breaker.retry_at_s > now_s or not state.finds_place(entry, now_s):
                return _why_failed(entry, now_s)
            state.move(entry, Signal.RETRY)  # half-open: one attempt
        if len(entry.queued) >= _queue_limit(entry):
            return refusals.queue_full(model, len(entry.queued))
        return None

    def _became_ready(self, model: ModelId, now_s: float) -> None:
        state = self._state
        entry = state.entries[model]
        state.move(entry, Signal.PROBE_OK)
        entry.ready_since_s = entry.idle_since_s = now_s
        entry.load_s = now_s - entry.started_s
        entry.served = False
        entry.may_displace = True
        state.cue(entry, Cue.READY)
        state.dwell_since_s.setdefault(state.dwell_key(entry), now_s)

    def _exited(self, model: ModelId, error: BackendError | None, now_s: float) -> list[Action]:
        state = self._state
        entry = state.entries[model]
        was_ready = entry.phase is Phase.READY
        state.move(entry, Signal.EXITED)
        state.resident.discard(model)
        if entry.intent is not Intent.RETURN:
            entry.keep_s = None
        state.draining.pop(model, None)
        keys = {state.dwell_key(state.entries[resident]) for resident in state.resident}
        state.dwell_since_s = {k: t for k, t in state.dwell_since_s.items() if k in keys}
        if entry.phase is not Phase.BACKOFF:
            state.drop_if_removed(model)
            if entry.breaker.open and entry.breaker.retry_at_s > now_s:  # it hung too often
                return self._give_up(entry, _why_failed(entry, now_s), now_s)
            return []
        error = error or BackendError(f"the backend of model {model!r} ended unexpectedly")
        if error.cause in MEMORY_CAUSES:
            error.holders = holders_of(
                entry.claims,
                state.occupancy(now_s).residents,
                state.memory,
                anonymous=any(key.models is not None for key in self.config.api_keys.values()),
            )
        ready_for_s = now_s - entry.ready_since_s if was_ready else 0.0
        return self._after_failure(entry, error, ready_for_s, now_s)

    def _after_failure(
        self, entry: ModelEntry, error: BackendError, ready_for_s: float, now_s: float
    ) -> list[Action]:
        """Let a model be tried again after a pause, or give it up."""
        state, router = self._state, self.config.router
        self._count_failure(entry, error, ready_for_s, now_s)
        if error.permanent and not error.retryable:
            entry.may_displace = False
        if not entry.breaker.open:
            state.backing_off.add(entry.spec.id)
            return []
        if isinstance(error, FileMissingError):
            entry.breaker = attrs.evolve(entry.breaker, retry_at_s=math.inf)
        elif not error.permanent:
            error.retry_after_s = router.cooldown_s
        return self._give_up(entry, error, now_s)

    def _count_failure(
        self, entry: ModelEntry, error: BackendError, ready_for_s: float, now_s: float
    ) -> None:
        router = self.config.router
        # Where footprints are known, the figure was raised: one more start with it must do.
        is_learned = self.config.scheduler.policy is Policy.MEMORY and error.cause in MEMORY_CAUSES
        entry.last_error, entry.failed_s, entry.crashed = error, now_s, True
        entry.breaker = after_failure(
            entry.breaker,
            now_s=now_s,
            ready_for_s=ready_for_s,
            retryable=error.retryable,
            max_restarts=min(1, router.max_restarts) if is_learned else router.max_restarts,
            stable_after_s=router.stable_after_s,
            cooldown_s=router.cooldown_s,
        )

    def _give_up(self, entry: ModelEntry, error: BackendError, now_s: float) -> list[Action]:
        """Give up a model, and refuse its queue with *error*."""
        self._state.move(entry, Signal.GIVE_UP)
        self._state.cue(entry, Cue.GIVEN_UP)
        return self._state.refuse_queue(entry.spec.id, error, now_s)

    def _hung(self, model: ModelId, error: BackendError, now_s: float) -> list[Action]:
        """Stop a backend that hangs; count it as a failure, without a pause before the next."""
        entry = self._state.entries.get(model)
        if entry is None or entry.phase not in (Phase.READY, Phase.DRAINING):
            return []
        self._count_failure(entry, error, now_s - entry.ready_since_s, now_s)
        return [self._state.stop(model, HANGS, error)]

    def _reconfigure(self, config: Config, plan: ReloadPlan, now_s: float) -> list[Action]:
        state = self._state
        state.reconfigure(config)
        actions: list[Action] = []
        for model in plan.add:
            entry = state.entries.setdefault(model, ModelEntry(config.models[model]))
            entry.spec = config.models[model]
            state.cue(entry, Cue.ADDED)  # its old process may still be leaving
        for model in plan.remove:
            actions += state.refuse_queue(model, refusals.removed(model), now_s)
        for model in plan.restart | plan.retune:
            entry = state.entries[model]
            entry.spec = config.models[model]
            runs = entry.phase in (Phase.STARTING, Phase.READY)
            state.cue(entry, Cue.REPLACED if runs and model in plan.restart else Cue.CHANGED)
        for model in plan.restart | plan.remove:
            actions += self._retire(model, OUTDATED)
        for model in plan.restart | plan.retune | plan.remove:
            self._forgive(model)
        actions += self._note_faults(now_s)
        for model in plan.remove:
            state.cue(state.entries[model], Cue.REMOVED)
            state.drop_if_removed(model)
        state.note_dwell_keys()
        state.note_settings()
        return actions

    def _note_faults(self, now_s: float) -> list[Action]:
        """Give up models with missing files; make those with restored files eligible again."""
        state = self._state
        for model, entry in state.entries.items():
            if entry.lacks_file and model not in state.config.file_faults:
                self._file_restored(model)
        actions: list[Action] = []
        for model, error in state.note_faults():
            actions += state.refuse_queue(model, error, now_s)
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
            self._forgive(model)
        state.cue(entry, Cue.UNLOADED)
        return actions

    def _keep_for(self, model: ModelId, idle_s: float | None) -> None:
        state = self._state
        if model in state.resident:
            state.entries[model].keep_s = idle_s
            state.expiring = state.expiring or idle_s is not None
            state.note_timed_work()

    def _forgive(self, model: ModelId) -> None:
        """Close the breaker, and make a failed model eligible again."""
        state = self._state
        entry = state.entries[model]
        if entry.phase in (Phase.BACKOFF, Phase.FAILED):
            state.move(entry, Signal.RETRY)
        entry.breaker = CLOSED
        entry.crashed = False
        entry.may_displace = True
        state.backing_off.discard(model)

    def _forgive_for_load(self, model: ModelId) -> None:
        entry = self._state.entries.get(model)
        if entry is not None and not entry.lacks_file:
            self._forgive(model)

    def _file_restored(self, model: ModelId) -> None:
        entry = self._state.entries.get(model)
        if entry is None:
            return
        entry.may_displace = True
        if entry.phase is Phase.FAILED:
            self._forgive(model)
            self._state.cue(entry, Cue.RESTORED)

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
        actions = self._time_out(now_s)
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
            actions += self._refuse_unloadable(now_s)
            actions += self._refuse_without_place(now_s)
            order = state.in_turn()
            actions += fairness.grant(state, order, now_s)
            actions += fairness.swap(state, order, now_s)
            actions += self._refuse_without_place(now_s)
        if state.returning:
            actions += idle_policy.bring_back(state, now_s)
        if state.waiting:
            actions += self._refuse_unloadable(now_s)
        # Both may be empty since just now.
        if state.home is not None and not state.waiting and not state.returning:
            actions += idle_policy.go_home(state, state.home, now_s)
        return actions

    def _refuse_unloadable(self, now_s: float) -> list[Action]:
        """Refuse the requests whose model is loaded no more, and must not be loaded for them."""
        state = self._state
        actions: list[Action] = []
        for model in tuple(state.waiting):
            entry = state.entries[model]
            if entry.loading_none and not entry.is_coming:
                actions += state.refuse_queue(model, refusals.not_loaded(model), now_s)
        return actions

    def _refuse_without_place(self, now_s: float) -> list[Action]:
        """Give up the waiting models that could start only in the place of others, but may not."""
        state = self._state
        actions: list[Action] = []
        for model in tuple(state.waiting):
            entry = state.entries[model]
            if entry.phase is not Phase.STOPPED or state.finds_place(entry, now_s):
                continue
            actions += self._give_up(entry, _why_failed(entry, now_s), now_s)
        return actions

    def _time_out(self, now_s: float) -> list[Action]:
        state = self._state
        limit_s = state.config.router.max_queue_wait_s
        if not state.waiting:
            state.stalls.clear()
        actions: list[Action] = []
        if self._oldest_s + limit_s > now_s:
            state.due(self._oldest_s + limit_s, now_s)
            return actions
        self._oldest_s = math.inf
        for model in tuple(state.waiting):
            entry = state.entries[model]
            for request, arrived_s in tuple(entry.queued.items()):
                lost_s = sum(lost_s for end_s, lost_s in state.stalls if end_s > arrived_s)
                if not state.due(arrived_s + limit_s + lost_s, now_s):
                    self._oldest_s = min(self._oldest_s, arrived_s + lost_s)
                    break
                error = refusals.queue_timeout(model, limit_s, self._obstacle(entry, now_s))
                actions.append(state.refuse(request, error, now_s))
        return actions

    def _obstacle(self, entry: ModelEntry, now_s: float) -> str:
        """Return what keeps the requests in a model's queue from being granted."""
        match entry.phase:
            case Phase.STARTING:
                return "its backend has not become ready yet"
            case Phase.STOPPING | Phase.DRAINING:
                return "its previous backend process has not exited yet"
            case Phase.BACKOFF:
                return f"its backend is restarted after a failure ({entry.last_error})"
            case Phase.READY:
                return f"it is busy with {len(entry.in_flight)} requests, or makes way for others"
            case _:
                return self._obstacle_to_start(entry, now_s)

    def _obstacle_to_start(self, entry: ModelEntry, now_s: float) -> str:
        state = self._state
        if any(key.models is not None for key in state.config.api_keys.values()):
            # The client's key may be one that must not learn which other models exist.
            return "other models must leave first"
        verdict = state.placement.may_start(entry.spec, state.occupancy(now_s))
        if verdict.reason:
            return f"it cannot start: {verdict.reason}"
        others = ", ".join(
            f"{m!r} ({state.entries[m].phase}, {len(state.entries[m].in_flight)} in flight)"
            for m in sorted(state.resident)
        )
        return f"it cannot start before these have left: {others or 'none'}"


def _queue_limit(entry: ModelEntry) -> int:
    """Return the most requests in a model's queue.

    While it is not ready, those that a slot will be free for are in the queue, too.
    """
    limit, slots = entry.spec.max_queued, entry.spec.max_in_flight
    return limit if entry.phase is Phase.READY or slots is None else limit + slots


def _why_failed(entry: ModelEntry, now_s: float) -> BackendError:
    """Return why a model that was given up is not tried again now."""
    if entry.lacks_file and entry.last_error is not None:
        return entry.last_error
    return refusals.failed(entry.spec.id, entry.last_error, entry.breaker.retry_at_s - now_s)
