"""Waits that end without a grant: too long ones, and those for a model that cannot come. Pure."""

from __future__ import annotations

import math

from . import refusals
from .events import Action
from .failures import give_up, why_failed
from .lifecycle import Phase
from .model_entry import ModelEntry
from .state import SchedulerState


def time_out(state: SchedulerState, now_s: float) -> list[Action]:
    """Refuse the requests that waited for longer than ``max_queue_wait_s``."""
    limit_s = state.config.router.max_queue_wait_s
    if not state.waiting:
        state.stalls.clear()
    actions: list[Action] = []
    if state.oldest_s + limit_s > now_s:
        state.due(state.oldest_s + limit_s, now_s)
        return actions
    state.oldest_s = math.inf
    for model in tuple(state.waiting):
        entry = state.entries[model]
        for request, arrived_s in tuple(entry.queued.items()):
            lost_s = sum(lost_s for end_s, lost_s in state.stalls if end_s > arrived_s)
            if not state.due(arrived_s + limit_s + lost_s, now_s):
                state.oldest_s = min(state.oldest_s, arrived_s + lost_s)
                break
            error = refusals.queue_timeout(model, limit_s, _obstacle(state, entry, now_s))
            actions.append(state.refuse(request, error, now_s))
    return actions


def refuse_unloadable(state: SchedulerState, now_s: float) -> list[Action]:
    """Refuse the requests whose model is loaded no more, and must not be loaded for them."""
    actions: list[Action] = []
    for model in tuple(state.guests):
        if not state.entries[model].is_coming:
            actions += state.refuse_queue(model, refusals.not_loaded(model), now_s)
    return actions


def refuse_without_place(state: SchedulerState, now_s: float) -> list[Action]:
    """Give up the waiting models that could start only in the place of others, but may not."""
    actions: list[Action] = []
    for model in state.waiting & state.barred:
        entry = state.entries[model]
        if entry.phase is not Phase.STOPPED or state.finds_place(entry, now_s):
            continue
        actions += give_up(state, entry, why_failed(entry, now_s), now_s)
    return actions


def _obstacle(state: SchedulerState, entry: ModelEntry, now_s: float) -> str:
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
            return _obstacle_to_start(state, entry, now_s)


def _obstacle_to_start(state: SchedulerState, entry: ModelEntry, now_s: float) -> str:
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
