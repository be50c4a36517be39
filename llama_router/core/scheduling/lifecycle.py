"""The phases of a backend process, and the intent for a model without requests, as tables. Pure.

Rule 1: every legal transition is a row of a table; no other code assigns a phase or an intent.
Rule 2: the tables depend neither on the time nor on the model.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from typing import Final


class Phase(StrEnum):
    """Phase of a backend process."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    FAILED = "failed"


class Signal(StrEnum):
    """Cause of a change of phase."""

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
        Signal.RETRY: Phase.STOPPED,  # eligible again; `turns` decides about the start
        Signal.GIVE_UP: Phase.FAILED,
    },
    Phase.FAILED: {Signal.RETRY: Phase.STOPPED},  # cool-down over, or configuration changed
}

#: Phases in which device memory must be assumed taken. Memory is free on EXITED,
#: not on STOP: a process that survives SIGKILL stays in STOPPING.
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


class Intent(Enum):
    """What becomes of a model while no request waits for it; a model has exactly one."""

    ON_DEMAND = auto()  # it starts for a request, or because its settings say so
    RETURN = auto()  # its process is replaced: it starts again when the old process is gone
    LOST = auto()  # it was to return and was given up: it returns once the cause is gone
    HELD_OFF = auto()  # it was unloaded by request: it starts for a request only
    REMOVED = auto()  # the configuration has it no more: it is forgotten when nothing is left


class Cue(Enum):
    """Cause of a change of intent."""

    QUEUED = auto()  # a request waits for it
    READY = auto()  # its backend became ready
    GIVEN_UP = auto()  # its breaker opened
    RESTORED = auto()  # the cause of its failure is gone
    CHANGED = auto()  # its settings changed; no process is replaced for that
    REPLACED = auto()  # its running process is replaced: its settings changed, or it was squeezed
    DISPLACED = auto()  # it was to return, but its place is taken or wanted
    UNLOADED = auto()  # it was unloaded by request
    REMOVED = auto()  # it was taken out of the configuration
    ADDED = auto()  # it is in the configuration again, before its old process was gone


#: Each intent that a cue changes, and the new one; a cue leaves all others as they are.
INTENTS: Final[dict[Cue, dict[Intent, Intent]]] = {
    Cue.QUEUED: {Intent.HELD_OFF: Intent.ON_DEMAND},
    Cue.READY: {Intent.RETURN: Intent.ON_DEMAND, Intent.LOST: Intent.ON_DEMAND},
    Cue.GIVEN_UP: {
        Intent.RETURN: Intent.LOST,
        Intent.LOST: Intent.ON_DEMAND,  # it was tried again for a request, not in order to return
    },
    Cue.RESTORED: {Intent.LOST: Intent.RETURN},
    Cue.CHANGED: {Intent.LOST: Intent.RETURN, Intent.HELD_OFF: Intent.ON_DEMAND},
    Cue.REPLACED: {
        Intent.ON_DEMAND: Intent.RETURN,
        Intent.LOST: Intent.RETURN,
        Intent.HELD_OFF: Intent.RETURN,
    },
    Cue.DISPLACED: {Intent.RETURN: Intent.ON_DEMAND},
    Cue.UNLOADED: {
        Intent.ON_DEMAND: Intent.HELD_OFF,
        Intent.RETURN: Intent.HELD_OFF,
        Intent.LOST: Intent.HELD_OFF,
    },
    Cue.REMOVED: {
        Intent.ON_DEMAND: Intent.REMOVED,
        Intent.RETURN: Intent.REMOVED,
        Intent.LOST: Intent.REMOVED,
        Intent.HELD_OFF: Intent.REMOVED,
    },
    Cue.ADDED: {Intent.REMOVED: Intent.ON_DEMAND},
}
