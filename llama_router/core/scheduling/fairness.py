"""Order of turns: which requests are granted, which models start, which leave. Pure.

A model that is not running and has a queue has a *turn*: the time since when its oldest request
waits, or since when the model was stopped for another one, if that was later. The oldest turn
goes first. While no request waits, a ready model is granted without limit. While one waits, the
residents in its way (`Placement.may_start`)

* leave at once when all of them are idle (`Placement.victims`);
* otherwise are granted for `max_dwell_s` more, counted from the moment when both are true: they
  are ready, and the request waits. Then they are *closed*: they drain and leave;
* but each is granted for `min_residency_s` after it became ready, and at least once, so that no
  load is wasted.

A model that cannot start in any case (its backend is in backoff, failed, or still exiting) has no
turn, and stops no other model.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..config.names import ModelId
from .events import Action, Grant
from .lifecycle import Phase
from .placement import Occupancy
from .state import ModelEntry, SchedulerState


def grant(state: SchedulerState, now_s: float) -> list[Action]:
    """Grant the queued requests of models that are ready and not closed."""
    order = state.in_turn()
    occupancy = state.occupancy(now_s, order) if order else None  # without a turn, none is closed
    actions: list[Action] = []
    for model in sorted(state.waiting, key=lambda m: state.entries[m].turn_s):
        entry = state.entries[model]
        if entry.phase is not Phase.READY:
            continue
        if occupancy is not None and _is_closed(state, entry, occupancy):
            continue
        for request in entry.grantable():
            del entry.queued[request]
            state.hold(request, entry, takes_slot=request not in entry.slotless)
            actions.append(Grant(request, model))
        if not entry.queued:
            state.waiting.discard(model)
    return actions


def swap(state: SchedulerState, now_s: float) -> list[Action]:
    """Start the models that may start, and stop what is in the way of the oldest other turn."""
    actions: list[Action] = []
    older: list[ModelEntry] = []  # those that still wait
    evicting = False
    if not (order := state.in_turn()):
        return []
    occupancy = state.occupancy(now_s, order)
    for entry in order:
        verdict = state.may_start(entry.spec, occupancy)
        if verdict.allowed and _may_join(state, entry, older, occupancy):
            actions.append(state.start(entry.spec.id))
            occupancy = state.occupancy(now_s)
            continue
        older.append(entry)
        if not verdict.allowed and entry.may_displace and not evicting:
            evicting = True  # for one turn at a time
            closed = closed_models(state, occupancy)
            for victim in state.placement.victims(entry.spec, occupancy, closed):
                reason = f"model {str(entry.spec.id)!r} takes its place"
                actions.append(state.stop(victim, reason))
                state.entries[victim].made_way_s = now_s
            occupancy = state.occupancy(now_s)
    return actions


def is_wanted_by_others(state: SchedulerState, entry: ModelEntry, occupancy: Occupancy) -> bool:
    """Return whether a model, if it were started now, would be in the way of a waiting one."""
    started = occupancy.with_started(entry.spec)
    return any(
        entry.spec.id in state.placement.may_start(waiter.spec, started).blockers
        for waiter in occupancy.waiters
    )


def closed_models(state: SchedulerState, occupancy: Occupancy) -> frozenset[ModelId]:
    """Return the ready models that are granted no more, because others wait."""
    return frozenset(
        resident.model
        for resident in occupancy.residents
        if resident.phase is Phase.READY
        and _is_closed(state, state.entries[resident.model], occupancy)
    )


def _is_closed(state: SchedulerState, entry: ModelEntry, occupancy: Occupancy) -> bool:
    """Return whether a ready model is granted no more, because it is in the way of a waiter."""
    model = entry.spec.id
    rival_s = next(
        (
            waiter.turn_s
            for waiter in occupancy.waiters
            if model in state.placement.may_start(waiter.spec, occupancy).blockers
        ),
        None,
    )
    if rival_s is None or not entry.served:
        return False
    now_s, router = occupancy.now_s, state.config.router
    dwell_since_s = state.dwell_since_s[state.dwell_key(entry)]
    until_s = max(
        max(rival_s, dwell_since_s) + router.max_dwell_s,
        entry.ready_since_s + router.min_residency_s,
    )
    return state.due(until_s, now_s)


def _may_join(
    state: SchedulerState, entry: ModelEntry, older: Sequence[ModelEntry], occupancy: Occupancy
) -> bool:
    """Return whether a model may start beside the residents, though an older turn waits.

    It may while the residents in the way of that turn have dwell time left, or are not ready.
    """
    if not older:
        return True
    placement, started = state.placement, occupancy.with_started(entry.spec)
    rival = next(
        (
            each
            for each in older
            if entry.spec.id in placement.may_start(each.spec, started).blockers
        ),
        None,
    )
    if rival is None:
        return True
    keys = {
        state.dwell_key(state.entries[blocker])
        for blocker in placement.may_start(rival.spec, occupancy).blockers
    }
    ready_s = [state.dwell_since_s[key] for key in keys if key in state.dwell_since_s]
    if not ready_s:
        return True
    since_s = max(rival.turn_s, min(ready_s))
    return not state.due(since_s + state.config.router.max_dwell_s, occupancy.now_s)
