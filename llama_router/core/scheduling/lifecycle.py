"""The life of one backend process, as a table.

Rule 1: every legal transition is a row here; the shell never assigns a phase.
Rule 2: nothing here knows what time it is or which process it is about.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """Where a backend is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


class Signal(StrEnum):
    """What can happen to it."""

    START = "start"
    PROBE_OK = "probe_ok"
    DRAIN = "drain"
    STOP = "stop"
    EXITED = "exited"
    RETRY = "retry"
    GIVE_UP = "give_up"


class IllegalTransitionError(AssertionError):
    """A bug in the shell, not a runtime condition. Never caught."""


TRANSITIONS: Final[dict[Phase, dict[Signal, Phase]]] = {
    Phase.STOPPED: {
        Signal.START: Phase.STARTING,
        Signal.GIVE_UP: Phase.FAILED,  # a start is pointless: a file of the model is missing
    },
    Phase.STARTING: {
        Signal.PROBE_OK: Phase.READY,
        Signal.STOP: Phase.STOPPING,
        Signal.EXITED: Phase.BACKOFF,
    },
    Phase.READY: {
        Signal.DRAIN: Phase.DRAINING,
        Signal.STOP: Phase.STOPPING,
        Signal.EXITED: Phase.BACKOFF,
    },
    Phase.DRAINING: {
        Signal.STOP: Phase.STOPPING,
        Signal.EXITED: Phase.STOPPED,
    },
    Phase.STOPPING: {Signal.EXITED: Phase.STOPPED},
    Phase.BACKOFF: {
        Signal.RETRY: Phase.STOPPED,  # eligible again; the planner decides
        Signal.GIVE_UP: Phase.FAILED,
    },
    Phase.FAILED: {Signal.RETRY: Phase.STOPPED},  # cool-down over, or configuration changed
}

#: Phases in which device memory must be assumed taken. Memory is free on EXITED,
#: not on STOP: a process that survives SIGKILL stays here, in STOPPING.
RESIDENT: Final = frozenset({Phase.STARTING, Phase.READY, Phase.DRAINING, Phase.STOPPING})


def advance(phase: Phase, signal: Signal) -> Phase:
    """Return the phase after *signal*.

    Raises:
        IllegalTransitionError: if the table has no such row.
    """
    try:
        return TRANSITIONS[phase][signal]
    except KeyError:
        msg = f"no transition from {phase} on {signal}"
        raise IllegalTransitionError(msg) from None
