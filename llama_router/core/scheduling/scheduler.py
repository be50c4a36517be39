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

What it knows is in `roster`; whose turn it is, in `turns`; who comes or goes without
anybody asking, in `upkeep`.
"""

from __future__ import annotations

import math
from typing import Final, assert_never

import attrs

from ...errors.backends import BackendError
from ..answers import refusals
from ..apis.notices import Other, Wait
from ..config.config import Config
from ..config.diff import ReloadPlan, plan_reload
from ..config.names import ModelId
from ..config.specs import ModelSpec
from . import turns, upkeep
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
    Tick,
    Unload,
)
from .lifecycle import Phase, Signal
from .restart import CLOSED, after_failure
from .roster import ModelStatistics, Roster, Slot

#: Why a backend leaves whose settings are no longer those of the file.
OUTDATED: Final = "its configuration changed"


class Scheduler:
    """Decides; never acts."""

    def __init__(self, config: Config) -> None:
        self._roster = Roster(config)
        self._shutting_down = False

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._roster.config

    @property
    def wake_s(self) -> float:
        """When a `Tick` is due, in seconds; infinite if nothing is timed."""
        return self._roster.wake_s

    def handle(self, event: Event, *, now_s: float) -> list[Action]:
        """Record *event* and return what is now due, in order."""
        roster = self._roster
        actions = self._record(event, now_s)
        if roster.waiting or roster.backing_off or roster.draining:
            actions += self._reconcile(now_s)
        elif roster.tending:
            # A request for a ready model changes nothing here: a wake-up too early at most.
            if not isinstance(event, Arrived):
                actions += self._reconcile(now_s)
        else:
            roster.wake_s = math.inf
        return actions

    def admit_at_once(self, request: int, name: str) -> ModelId | None:
        """Grant *request* if *name* is ready and nobody waits for anything; return the model.

        The same as to `handle` its `Arrived`, at a third of the price: nearly every request
        comes this way. If it returns None, nothing has happened, and it is to be handled.
        `wake_s` stays as it is: a tick too early does no harm.
        """
        roster = self._roster
        if roster.waiting or roster.backing_off or roster.draining or self._shutting_down:
            return None
        model = roster.config.resolve(name)
        if model is None:
            return None
        slot = roster.slots[model]
        if slot.phase is not Phase.READY or not slot.has_room:
            return None
        roster.fresh = False
        roster.hold(request, slot)
        return model

    def finish_at_once(self, request: int, now_s: float) -> bool:
        """Note the end of *request* if nothing can follow from it; return whether it is so.

        The same as to `handle` its `Finished`; see `admit_at_once`.
        """
        roster = self._roster
        if roster.waiting or roster.backing_off or roster.draining or roster.tending:
            return False
        roster.forget(request, now_s)
        return True

    def _record(  # noqa: C901 -- one line for each kind of event
        self, event: Event, now_s: float
    ) -> list[Action]:
        match event:
            case Arrived(request, name):
                return self._admit(request, name, now_s)
            case Finished(request):
                self._roster.forget(request, now_s)
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
            case Reconfigured(config, plan):
                if plan is None or plan.base is not self._roster.config:
                    plan = plan_reload(self._roster.config, config)
                return self._reconfigure(config, plan, now_s)
            case ShutDown():
                return self._shut_down(now_s)
            case _:
                assert_never(event)
        return []

    def take_moves(self) -> list[tuple[ModelId, Phase]]:
        """Return which models came into which phase since the last call, in order."""
        roster = self._roster
        moves, roster.moves = roster.moves, []
        return moves

    def spec(self, model: ModelId) -> ModelSpec:
        """Return the settings that the next start of *model* uses."""
        return self._roster.slots[model].spec

    @property
    def returning(self) -> frozenset[ModelId]:
        """The models that are started again without being asked for: see `Reconfigured`."""
        return frozenset(self._roster.returning)

    def phase(self, model: ModelId) -> Phase:
        """Return where *model*'s backend is in its life."""
        return self._roster.slots[model].phase

    def statistics(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model."""
        return {model: self.statistics_of(model) for model in self._roster.slots}

    def failed(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model that was given up."""
        return {
            model: self.statistics_of(model)
            for model, slot in self._roster.slots.items()
            if slot.phase is Phase.FAILED
        }

    def leaving(self) -> list[ModelSpec]:
        """Return the models that are configured no more, but still have a process or requests."""
        return [slot.spec for slot in self._roster.slots.values() if slot.removed]

    def statistics_of(self, model: ModelId) -> ModelStatistics:
        """Return a snapshot of *model*.

        Raises:
            KeyError: if there is no such model.
        """
        roster = self._roster
        slot = roster.slots[model]
        return slot.statistics(stays_anyhow=roster.stays_anyhow(slot))

    def wait_of(self, request: int) -> Wait | None:
        """Return what *request* waits for; None if it does not wait."""
        roster = self._roster
        model = roster.owner.get(request)
        if model is None or request not in (slot := roster.slots[model]).queued:
            return None
        others: list[Other] = []
        if slot.phase is Phase.STOPPED and not slot.spec.keep_loaded:
            group = slot.spec.group_key
            others = [
                Other(model=other.spec.id, phase=other.phase)
                for other in roster.sharing()
                if other.spec.group_key != group
            ]
        ahead = next(place for place, each in enumerate(slot.queued) if each == request)
        return Wait(model=model, phase=slot.phase, ahead=ahead, others=tuple(others))

    # -- events ---------------------------------------------------------------------------

    def _admit(self, request: int, name: str, now_s: float) -> list[Action]:
        roster = self._roster
        roster.fresh = False
        if self._shutting_down:
            return [Refuse(request, refusals.shutting_down())]
        model = roster.config.resolve(name)
        if model is None:
            return [Refuse(request, refusals.unknown(name, roster.config))]
        slot = roster.slots[model]
        if slot.phase is Phase.READY and not roster.waiting and slot.has_room:
            # Nobody waits anywhere: no need to look further.
            roster.hold(request, slot)
            return [Grant(request, model)]
        if slot.phase is Phase.FAILED:
            if slot.breaker.retry_at_s > now_s:
                return [Refuse(request, _why_failed(slot, now_s))]
            roster.move(slot, Signal.RETRY)  # half-open: one attempt
        if len(slot.queued) >= slot.spec.max_queued:
            return [Refuse(request, refusals.queue_full(model, len(slot.queued)))]
        roster.owner[request] = model
        slot.queued[request] = now_s
        slot.held_off = False
        roster.waiting.add(model)
        return []

    def _became_ready(self, model: ModelId, now_s: float) -> None:
        roster = self._roster
        slot = roster.slots[model]
        roster.move(slot, Signal.PROBE_OK)
        slot.ready_since_s = slot.idle_since_s = now_s
        slot.served = slot.lost = False
        roster.stays_away(model)
        if not slot.spec.keep_loaded:
            roster.group_ready_since_s.setdefault(slot.spec.group_key, now_s)

    def _is_gone(self, model: ModelId, error: BackendError | None, now_s: float) -> list[Action]:
        roster = self._roster
        slot = roster.slots[model]
        was_ready = slot.phase is Phase.READY
        roster.move(slot, Signal.EXITED)
        roster.resident.discard(model)
        if model not in roster.returning:
            slot.keep_s = None
        roster.draining.pop(model, None)
        groups = {s.spec.group_key for s in roster.sharing()}
        roster.group_ready_since_s = {
            g: t for g, t in roster.group_ready_since_s.items() if g in groups
        }
        if slot.phase is not Phase.BACKOFF:
            roster.drop_if_removed(model)
            return []
        error = error or BackendError(f"the backend of model {model!r} ended unexpectedly")
        slot.last_error = error
        router = roster.config.router
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
            roster.backing_off.add(model)
            return []
        roster.move(slot, Signal.GIVE_UP)
        slot.lost = model in roster.returning
        roster.stays_away(model)
        if slot.lacks_file:
            slot.breaker = attrs.evolve(slot.breaker, retry_at_s=math.inf)
        else:
            error.retry_after_s = router.cooldown_s
        return roster.refuse_queue(model, error, now_s)

    def _reconfigure(self, config: Config, plan: ReloadPlan, now_s: float) -> list[Action]:
        roster = self._roster
        roster.config = config
        actions: list[Action] = []
        for model in plan.add:
            slot = roster.slots.setdefault(model, Slot(config.models[model]))
            slot.spec = config.models[model]
            slot.removed = False  # its old process may still be leaving
        for model in plan.restart | plan.retune:
            roster.slots[model].spec = config.models[model]
        for model in plan.remove:
            actions += roster.refuse_queue(model, refusals.removed(model), now_s)
        for model in plan.restart | plan.retune:
            slot = roster.slots[model]
            runs = slot.phase in (Phase.STARTING, Phase.READY)
            if slot.lost or (runs and model in plan.restart):
                roster.returning.add(model)
            slot.lost = False
        for model in plan.restart | plan.remove:
            actions += self._retire(model, OUTDATED)
        for model in plan.restart | plan.retune | plan.remove:
            self._forgive(model)
        actions += self._note_faults(now_s)
        for model in plan.remove:
            roster.slots[model].removed = True
            roster.returning.discard(model)
            roster.drop_if_removed(model)
        roster.note_upkeep()
        return actions

    def _note_faults(self, now_s: float) -> list[Action]:
        """Give up the models whose files are missing, and no others for that."""
        roster = self._roster
        for model, slot in roster.slots.items():
            if slot.lacks_file and model not in roster.config.faults:
                self._mend(model)
        actions: list[Action] = []
        for model, error in roster.note_faults():
            actions += roster.refuse_queue(model, error, now_s)
        return actions

    def _retire(self, model: ModelId, reason: str) -> list[Action]:
        """Let *model*'s process end when its requests have."""
        roster = self._roster
        slot = roster.slots[model]
        if slot.phase is Phase.READY:
            roster.move(slot, Signal.DRAIN)
            roster.draining[model] = reason
        elif slot.phase is Phase.STARTING:  # serves nobody yet
            return [roster.stop(model, reason)]
        return []

    def _unload(self, model: ModelId, *, force: bool) -> list[Action]:
        roster = self._roster
        if model not in roster.slots:
            return []  # a reload took it away meanwhile
        reason = "it was unloaded by request"
        actions = self._retire(model, reason)
        if force and roster.slots[model].phase is Phase.DRAINING:
            actions.append(roster.stop(model, reason))
        if not roster.slots[model].lacks_file:
            self._forgive(model)
        roster.stays_away(model)
        roster.slots[model].lost = False
        roster.slots[model].held_off = not roster.slots[model].queued
        return actions

    def _keep_for(self, model: ModelId, idle_s: float | None) -> None:
        roster = self._roster
        if model in roster.resident:
            roster.slots[model].keep_s = idle_s
            roster.expiring = roster.expiring or idle_s is not None
            roster.note_tending()

    def _forgive(self, model: ModelId) -> None:
        """Make a failed model eligible again: its changed configuration may be the cure."""
        roster = self._roster
        slot = roster.slots[model]
        if slot.phase in (Phase.BACKOFF, Phase.FAILED):
            roster.move(slot, Signal.RETRY)
        slot.breaker = CLOSED
        slot.held_off = False
        roster.backing_off.discard(model)

    def _mend(self, model: ModelId) -> None:
        roster = self._roster
        slot = roster.slots.get(model)
        if slot is None or slot.phase is not Phase.FAILED:
            return
        held_off = slot.held_off
        self._forgive(model)
        slot.held_off = held_off
        if slot.lost:
            slot.lost = False
            roster.returning.add(model)
            roster.note_tending()

    def _shut_down(self, now_s: float) -> list[Action]:
        roster = self._roster
        self._shutting_down = True
        return [
            action
            for model in tuple(roster.waiting)
            for action in roster.refuse_queue(model, refusals.shutting_down(), now_s)
        ]

    # -- reconciling ----------------------------------------------------------------------

    def _reconcile(self, now_s: float) -> list[Action]:
        """Emit whatever is due now, and note when to look again."""
        roster = self._roster
        roster.wake_s = math.inf
        actions = self._time_out(now_s)
        for model in tuple(roster.backing_off):
            slot = roster.slots[model]
            if roster.due(slot.breaker.retry_at_s, now_s):
                roster.move(slot, Signal.RETRY)
                roster.backing_off.discard(model)
        for model in tuple(roster.draining):
            if not roster.slots[model].in_flight:
                actions.append(roster.stop(model, roster.draining[model]))
        if self._shutting_down:
            return actions
        actions += upkeep.expire(roster, now_s)
        actions += upkeep.keep(roster, now_s)
        if roster.waiting:
            actions += turns.grant(roster, now_s)
            actions += turns.swap(roster, now_s)
        if roster.returning:
            actions += upkeep.bring_back(roster, now_s)
        # Both may be empty since just now.
        if roster.home is not None and not roster.waiting and not roster.returning:
            actions += upkeep.go_home(roster, roster.home, now_s)
        return actions

    def _time_out(self, now_s: float) -> list[Action]:
        roster = self._roster
        limit_s = roster.config.router.max_queue_wait_s
        actions: list[Action] = []
        for model in tuple(roster.waiting):
            slot = roster.slots[model]
            for request, arrived_s in tuple(slot.queued.items()):
                if not roster.due(arrived_s + limit_s, now_s):
                    break
                awaited = self._what_it_waits_for(model)
                error = refusals.queue_timeout(model, limit_s, awaited)
                actions.append(roster.refuse(request, error, now_s))
        return actions

    def _what_it_waits_for(self, model: ModelId) -> str:
        roster = self._roster
        slot = roster.slots[model]
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
                if any(key.models is not None for key in roster.config.api_keys.values()):
                    # The client's key may be one that must not learn which others there are.
                    return "other models must leave first"
                others = ", ".join(
                    f"{m!r} ({roster.slots[m].phase}, {len(roster.slots[m].in_flight)} in flight)"
                    for m in sorted(roster.resident)
                )
                return f"it cannot start before these have left: {others or 'none'}"


def _why_failed(slot: Slot, now_s: float) -> BackendError:
    """Return why a model that was given up is not tried again now."""
    if slot.lacks_file and slot.last_error is not None:
        return slot.last_error
    return refusals.failed(slot.spec.id, slot.last_error, slot.breaker.retry_at_s - now_s)
