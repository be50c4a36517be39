"""The idle policy: starts and stops of models that no request causes. Pure.

* A model with `keep_loaded` is started whenever it is not running.
* A model that was idle for its `ttl_s`, or for the time that the latest request set (`Keep`), is
  stopped; the home model is not.
* When all others were idle for `home_after_s` and no request waits, the `home_model` takes their
  place.
* A model that was unloaded by request starts for a request only (`Intent.HELD_OFF`).
* A model that gets a new process, because its settings changed, returns when the old process is
  gone (`Intent.RETURN`), unless its place is taken by then, or wanted by a request for another
  model. If the new process fails, it is tried again as if a request waited for it; if it is given
  up (`Intent.LOST`), the next change of its settings brings it back, or a `FileRestored`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..config.names import ModelId
from .causes import UNSQUEEZED, StartCause, makes_way, was_idle
from .events import Action
from .lifecycle import Cue, Intent, Phase, Signal
from .model_entry import ModelEntry
from .state import SchedulerState
from .turns import is_wanted_by_others


def expires_s(stays_s: float, *, busy: bool, idle_since_s: float) -> float:
    """Return the clock time at which a ready model has been idle for long enough.

    Args:
        stays_s: Idle seconds after which it is stopped; infinite for never.
        busy: A request is in flight or queued.
        idle_since_s: Clock time at which it became ready or its last request ended, the later
            one, in seconds.
    """
    return math.inf if busy else idle_since_s + stays_s


def home_due_s(idle_since_s: Iterable[float], home_after_s: float) -> float:
    """Return the clock time at which the home model may take the place of the others.

    Args:
        idle_since_s: Clock time since when each other resident model is idle, in seconds;
            infinite for a busy one.
        home_after_s: Seconds for which all of them must have been idle.
    """
    return max((since_s + home_after_s for since_s in idle_since_s), default=-math.inf)


def expire(state: SchedulerState, now_s: float) -> list[Action]:
    """Stop the models that were idle for long enough."""
    if not state.expiring:
        return []
    actions: list[Action] = []
    for model in tuple(state.resident):
        entry = state.entries[model]
        if entry.phase is not Phase.READY or state.never_expires(entry):
            continue
        stays_s = entry.stays_s
        if state.due(expires_s(stays_s, busy=entry.busy, idle_since_s=entry.idle_since_s), now_s):
            setting = "ttl_s" if entry.keep_s is None else "keep_alive"
            actions.append(state.stop(model, was_idle(stays_s, setting)))
    return actions


def keep(state: SchedulerState, now_s: float) -> list[Action]:
    """Start every model with ``keep_loaded`` that does not run."""
    actions: list[Action] = []
    for model in state.kept:
        if _is_startable(state, state.entries[model], now_s):
            actions += _start_or_make_room(state, model, StartCause.KEEP_LOADED, now_s)
    return actions


def bring_back(state: SchedulerState, now_s: float) -> list[Action]:
    """Start the models with `Intent.RETURN`, unless other models have or need their place."""
    actions: list[Action] = []
    for model in sorted(state.returning):
        entry = state.entries[model]
        if entry.phase is not Phase.STOPPED:
            continue
        occupancy = state.occupancy(now_s)
        verdict = state.may_start(entry.spec, occupancy)
        taken = any(
            state.entries[blocker].phase not in (Phase.DRAINING, Phase.STOPPING)
            for blocker in verdict.blockers
        )
        stays = entry.stays_s > 0 or entry.spec.keep_loaded
        if taken or not stays or is_wanted_by_others(state, entry, occupancy):
            state.cue(entry, Cue.DISPLACED)
            entry.keep_s = None
        elif verdict.allowed:
            actions.append(state.start(model, verdict.claims, now_s, StartCause.RETURN))
    return actions


def renew(state: SchedulerState, model: ModelId, now_s: float) -> list[Action]:
    """Stop an idle model so that it returns, if it could start beside the other residents."""
    entry = state.entries.get(model)
    if entry is None or entry.phase is not Phase.READY or entry.busy or state.waiting:
        return []
    occupancy = state.occupancy(now_s).without(model)
    if not state.placement.may_start(entry.spec, occupancy).allowed:
        return []
    state.cue(entry, Cue.REPLACED)
    return [state.stop(model, UNSQUEEZED)]


def go_home(state: SchedulerState, home: ModelId, now_s: float) -> list[Action]:
    """Start the home model in place of models that were idle for long enough."""
    entry = state.entries[home]
    if entry.spec.keep_loaded or home in state.resident:
        return []
    if state.no_request_yet and state.config.router.startup_model is not None:
        return []  # the startup model is about to be requested
    others = [state.entries[model] for model in state.resident]
    due_s = home_due_s(
        (math.inf if e.busy else e.idle_since_s for e in others if not e.spec.keep_loaded),
        state.config.router.home_after_s,
    )
    if not state.due(due_s, now_s) or not _is_startable(state, entry, now_s):
        return []
    return _start_or_make_room(state, home, StartCause.HOME, now_s)


def _start_or_make_room(
    state: SchedulerState, model: ModelId, cause: StartCause, now_s: float
) -> list[Action]:
    """Start a model, or stop the idle models that are in its way."""
    spec, occupancy = state.entries[model].spec, state.occupancy(now_s)
    if (verdict := state.may_start(spec, occupancy)).allowed:
        return [state.start(model, verdict.claims, now_s, cause)]
    if model in state.barred:
        return []
    reason = makes_way(model, role="home" if cause is StartCause.HOME else "kept")
    victims = state.victims(spec, occupancy, frozenset())
    return [state.stop(victim, reason) for victim in victims]


def _is_startable(state: SchedulerState, entry: ModelEntry, now_s: float) -> bool:
    """Return whether a model may be started without a request, the placement apart."""
    if entry.intent is Intent.HELD_OFF:
        return False
    if (
        entry.phase is Phase.FAILED
        and state.due(entry.breaker.retry_at_s, now_s)
        and state.finds_place(entry, now_s)
    ):
        state.move(entry, Signal.RETRY)
    return entry.phase is Phase.STOPPED
