"""Failures of backends: what follows from an exit, a hang, or a file that is missing. Pure."""

from __future__ import annotations

import math

import attrs

from ...errors.backends import BackendError, FileMissingError
from ...errors.causes import MEMORY_CAUSES
from ..config.names import ModelId
from ..config.specs import Policy
from . import refusals
from .causes import HANGS
from .events import Action
from .lifecycle import Cue, Intent, Phase, Signal
from .memory_sentences import holders_of
from .model_entry import ModelEntry
from .restart import CLOSED, after_failure
from .state import SchedulerState


def exited(
    state: SchedulerState, model: ModelId, error: BackendError | None, now_s: float
) -> list[Action]:
    """Record that the process of a model is gone; *error* says why, if it was not asked to stop."""
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
            return give_up(state, entry, why_failed(entry, now_s), now_s)
        return []
    error = error or BackendError(f"the backend of model {model!r} ended unexpectedly")
    if error.cause in MEMORY_CAUSES:
        error.holders = holders_of(
            entry.claims,
            state.occupancy(now_s).residents,
            state.memory,
            anonymous=any(key.models is not None for key in state.config.api_keys.values()),
        )
    ready_for_s = now_s - entry.ready_since_s if was_ready else 0.0
    return _after_failure(state, entry, error, ready_for_s, now_s)


def hung(state: SchedulerState, model: ModelId, error: BackendError, now_s: float) -> list[Action]:
    """Stop a backend that hangs; count it as a failure, without a pause before the next."""
    entry = state.entries.get(model)
    if entry is None or entry.phase not in (Phase.READY, Phase.DRAINING):
        return []
    _count_failure(state, entry, error, now_s - entry.ready_since_s, now_s)
    return [state.stop(model, HANGS, error)]


def give_up(
    state: SchedulerState, entry: ModelEntry, error: BackendError, now_s: float
) -> list[Action]:
    """Give up a model, and refuse its queue with *error*."""
    state.move(entry, Signal.GIVE_UP)
    state.cue(entry, Cue.GIVEN_UP)
    return state.refuse_queue(entry.spec.id, error, now_s)


def file_restored(state: SchedulerState, model: ModelId) -> None:
    """Record that a file of a model is back, or was changed: it may be tried again."""
    entry = state.entries.get(model)
    if entry is None:
        return
    state.barred.discard(model)
    if entry.phase is Phase.FAILED:
        forgive(state, model)
        state.cue(entry, Cue.RESTORED)


def forgive_for_load(state: SchedulerState, model: ModelId) -> None:
    """Forgive a model that a person is about to load; without its files that is pointless."""
    entry = state.entries.get(model)
    if entry is not None and not entry.lacks_file:
        forgive(state, model)


def forgive(state: SchedulerState, model: ModelId) -> None:
    """Close the breaker, and make a failed model eligible again."""
    entry = state.entries[model]
    if entry.phase in (Phase.BACKOFF, Phase.FAILED):
        state.move(entry, Signal.RETRY)
    entry.breaker = CLOSED
    entry.crashed = False
    state.barred.discard(model)
    state.backing_off.discard(model)


def note_faults(state: SchedulerState, now_s: float) -> list[Action]:
    """Give up models with missing files; make those with restored files eligible again."""
    for model, entry in state.entries.items():
        if entry.lacks_file and model not in state.config.file_faults:
            file_restored(state, model)
    actions: list[Action] = []
    for model, error in state.note_faults():
        actions += state.refuse_queue(model, error, now_s)
    return actions


def _after_failure(
    state: SchedulerState, entry: ModelEntry, error: BackendError, ready_for_s: float, now_s: float
) -> list[Action]:
    """Let a model be tried again after a pause, or give it up."""
    router = state.config.router
    _count_failure(state, entry, error, ready_for_s, now_s)
    if error.permanent and not error.retryable:
        state.barred.add(entry.spec.id)
    if not entry.breaker.open:
        state.backing_off.add(entry.spec.id)
        return []
    if isinstance(error, FileMissingError):
        entry.breaker = attrs.evolve(entry.breaker, retry_at_s=math.inf)
    elif not error.permanent:
        error.retry_after_s = router.cooldown_s
    return give_up(state, entry, error, now_s)


def _count_failure(
    state: SchedulerState, entry: ModelEntry, error: BackendError, ready_for_s: float, now_s: float
) -> None:
    router = state.config.router
    # Where footprints are known, the figure was raised: one more start with it must do.
    is_learned = state.config.scheduler.policy is Policy.MEMORY and error.cause in MEMORY_CAUSES
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


def why_failed(entry: ModelEntry, now_s: float) -> BackendError:
    """Return why a model that was given up is not tried again now."""
    if entry.lacks_file and entry.last_error is not None:
        return entry.last_error
    return refusals.failed(entry.spec.id, entry.last_error, entry.breaker.retry_at_s - now_s)
