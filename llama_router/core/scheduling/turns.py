"""Order of turns: which requests are granted, which models start, which leave. Pure.

A model that is not running and has a queue has a *turn*: the time since when its oldest request
waits, or since when the model was stopped for another one, if that was later. Which turn is the
next is decided in `turn_order`, which request of a queue in `fairness`. While no model waits for
its turn, a ready one is granted without limit. While one waits, the residents in its way
(`Placement.may_start`)

* leave at once when all of them are idle (`Placement.victims`);
* otherwise are granted for `max_dwell_s` more, counted from the moment when both are true: they
  are ready, and the request waits. Then they are *closed*: they drain and leave;
* but at once if only lower classes wait for them, and for `max_yield_s`, if that is longer, if
  higher ones do;
* but one whose next request is expected soon stays for it, within its share of time
  (`_is_expected_back`);
* and each is granted for `min_residency_s` after it became ready, and at least once, so that no
  load is wasted.

A model that cannot start in any case (its backend is in backoff, failed, or still exiting) has no
turn, and stops no other model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from ..config.names import ModelId
from ..config.specs import ModelSpec
from ..memory.view import Claims
from . import refusals
from .causes import makes_way
from .events import Action, Grant
from .lifecycle import Phase
from .model_entry import ModelEntry
from .placement import Occupancy, Placement
from .state import SchedulerState

#: How many times its usual pause a model's next request is waited for.
_PAUSES: Final = 2.0

#: Part of `max_dwell_s` after which no next request is waited for: the rest is for it to end in.
_EXPECTING: Final = 0.75


def grant(state: SchedulerState, order: list[ModelEntry], now_s: float) -> list[Action]:
    """Grant the queued requests of models that are ready and not closed.

    Args:
        state: Changed by this.
        order: The result of `SchedulerState.in_turn`.
        now_s: Clock time, in seconds.
    """
    actions: list[Action] = []
    waiting = (state.entries[model] for model in state.waiting & state.resident)
    ready = [entry for entry in waiting if entry.phase is Phase.READY]
    # Without a turn, none is closed.
    closing_s = _closing_s(state, state.occupancy(now_s, order)) if order and ready else {}
    for entry in sorted(ready, key=lambda each: each.turn_s):
        model = entry.spec.id
        if _is_closed(state, entry, closing_s, now_s):
            continue
        for request in entry.take(now_s, state.config.scheduler.max_yield_s):
            state.hold(request, entry, now_s, takes_slot=request not in entry.slotless)
            actions.append(Grant(request, model))
        if not entry.queued:
            state.waiting.discard(model)
    return actions


def swap(state: SchedulerState, order: list[ModelEntry], now_s: float) -> list[Action]:
    """Start the models that may start, and stop what is in the way of the oldest other turn.

    If that turn waits for a model that is expected back, what is in the way of the next one.

    Requests for a model that could not start in any place are refused.

    Args:
        state: Changed by this.
        order: The result of `SchedulerState.in_turn`.
        now_s: Clock time, in seconds.
    """
    actions: list[Action] = []
    older: list[ModelEntry] = []  # those that still wait
    evicting = False
    if not order:
        return []
    before = occupancy = state.occupancy(now_s, order)
    for entry in order:
        # What cannot start now cannot do so either beside what has just been started.
        verdict = state.may_start(entry.spec, before)
        if verdict.allowed and occupancy is not before:
            verdict = state.may_start(entry.spec, occupancy)
        if verdict.allowed and _may_join(state, entry, verdict.claims, older, occupancy):
            actions.append(state.start(entry.spec.id, verdict.claims, now_s))
            occupancy = state.occupancy(now_s)
            continue
        if verdict.obstacle is not None:
            error = refusals.no_place(entry.spec.id, verdict, state.config)
            actions += state.refuse_queue(entry.spec.id, error, now_s)
            continue
        older.append(entry)
        if not verdict.allowed and entry.spec.id not in state.barred and not evicting:
            closed = closed_models(state, before)
            victims = state.victims(entry.spec, occupancy, closed)
            idle = map(state.entries.__getitem__, victims)
            if any(_is_expected_back(state, each, entry, order, now_s) for each in idle):
                continue
            evicting = True  # for one turn at a time
            for victim in victims:
                actions.append(state.stop(victim, makes_way(entry.spec.id)))
                state.entries[victim].made_way_s = now_s  # its memory is not free before its exit
            if victims:
                state.order.promise(entry.spec.id)
    return actions


def is_wanted_by_others(state: SchedulerState, entry: ModelEntry, occupancy: Occupancy) -> bool:
    """Return whether a model, if it were started now, would be in the way of a waiting one."""
    placement = state.placement
    claims = placement.may_start(entry.spec, occupancy).claims
    started = occupancy.with_started(entry.spec, claims)
    return any(_delays(placement, waiter.spec, occupancy, started) for waiter in occupancy.waiters)


def closed_models(state: SchedulerState, occupancy: Occupancy) -> frozenset[ModelId]:
    """Return the ready models that are granted no more, because others wait."""
    closing_s = _closing_s(state, occupancy)
    return frozenset(
        model
        for model in closing_s
        if _is_closed(state, state.entries[model], closing_s, occupancy.now_s)
    )


def is_closed(state: SchedulerState, entry: ModelEntry, now_s: float) -> bool:
    """Return whether a ready model is granted no more, because another one has its turn."""
    return _is_closed(state, entry, _closing_s(state, state.occupancy(now_s)), now_s)


def _closing_s(state: SchedulerState, occupancy: Occupancy) -> dict[ModelId, float]:
    """Return when each ready model that is in the way of a waiter is granted no more.

    As clock times, in seconds. The first waiter that is blocked by it counts, and how long any
    other one of the same class or a higher one has waited.
    """
    closing_s: dict[ModelId, float] = {}
    for waiter in occupancy.waiters:
        rank = state.entries[waiter.spec.id].line.rank
        for model in state.placement.may_start(waiter.spec, occupancy).blockers:
            entry = state.entries[model]
            if entry.phase is Phase.READY:
                since_s = max(waiter.turn_s, state.dwell_since_s[state.dwell_key(entry)])
                until_s = since_s + _patience_s(state, rank, entry)
                closing_s[model] = min(until_s, closing_s.get(model, until_s))
    return closing_s


def _patience_s(state: SchedulerState, rank: int, entry: ModelEntry) -> float:
    """Return how long a ready model is granted while a request of class *rank* is blocked by it."""
    dwell_s = state.config.router.max_dwell_s
    if not entry.queued or rank == (own := entry.line.rank):
        return dwell_s
    return max(dwell_s, state.config.scheduler.max_yield_s) if rank > own else 0.0


def _is_closed(
    state: SchedulerState, entry: ModelEntry, closing_s: Mapping[ModelId, float], now_s: float
) -> bool:
    """Return whether a ready model is granted no more, because it is in the way of a waiter."""
    until_s = closing_s.get(entry.spec.id)
    if until_s is None or not entry.served:
        return False
    residency_s = state.config.router.min_residency_s
    return state.due(max(until_s, entry.ready_since_s + residency_s), now_s)


def _is_expected_back(
    state: SchedulerState,
    victim: ModelEntry,
    rival: ModelEntry,
    order: Sequence[ModelEntry],
    now_s: float,
) -> bool:
    """Return whether an idle model is kept for its next request, though another one waits.

    It is if that request usually comes soon, and the others have not waited for as long as the
    swap is worth yet: so clients that ask for two models in turns do not cause a swap for each
    request. The more clients wait for the *order*, the sooner the swap is worth it.
    """
    if not victim.served or victim.busy or victim.demand.pause_s == math.inf:
        return False
    clients: set[str] = set()
    for entry in order:
        clients.update(entry.line.clients(entry.line.rank))
    swap_s = victim.load_s + rival.load_s
    patience_s = state.config.scheduler.swap_patience * swap_s / max(1, len(clients))
    share_ends_s = max(victim.ready_since_s, rival.turn_s) + patience_s
    bound_s = rival.turn_s + _EXPECTING * state.config.router.max_dwell_s
    due_s = victim.idle_since_s + _PAUSES * victim.demand.pause_s
    return due_s <= min(share_ends_s, bound_s) and not state.due(due_s, now_s)


def _delays(
    placement: Placement, spec: ModelSpec, occupancy: Occupancy, started: Occupancy
) -> bool:
    """Return whether more residents are in the way of a model in *started* than in *occupancy*."""
    now = placement.may_start(spec, started).blockers
    return bool(set(now).difference(placement.may_start(spec, occupancy).blockers))


def _may_join(
    state: SchedulerState,
    entry: ModelEntry,
    claims: Claims,
    older: Sequence[ModelEntry],
    occupancy: Occupancy,
) -> bool:
    """Return whether a model may start beside the residents, though an older turn waits.

    It may if it is not in the way of that turn, or while the residents that are have dwell time
    left, or are not ready.
    """
    placement, started = state.placement, occupancy.with_started(entry.spec, claims)
    for rival in older:
        keys = {
            state.dwell_key(state.entries[blocker])
            for blocker in placement.may_start(rival.spec, occupancy).blockers
        }
        ready_s = [state.dwell_since_s[key] for key in keys if key in state.dwell_since_s]
        if not ready_s:
            continue
        until_s = max(rival.turn_s, min(ready_s)) + state.config.router.max_dwell_s
        if until_s > occupancy.now_s and state.wake_s <= until_s:
            continue  # it has time left, and a tick is due by then anyway
        if _delays(placement, rival.spec, occupancy, started) and state.due(
            until_s, occupancy.now_s
        ):
            return False
    return True
