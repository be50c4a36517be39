"""Description of what a queued request waits for. Values only."""

from __future__ import annotations

from enum import Enum, auto

import attrs

from ..config.names import ModelId
from .lifecycle import Phase


class Step(Enum):
    """What is done for a backend beside its load, or before its stop."""

    SAVING = auto()  # its prompt cache is saved, then it is stopped
    RESTORING = auto()  # its prompt cache is restored, then it is ready


@attrs.frozen(kw_only=True)
class Blocker:
    """A model that has to leave first.

    Attributes:
        model: Its id; None if the client must not learn it.
        phase: Phase of its backend.
        step: What is done for that backend now, if anything.
    """

    model: ModelId | None
    phase: Phase
    step: Step | None = None


class Behind(Enum):
    """Requests that go first although they may have come later."""

    CLASS = auto()  # those of a higher class
    CLIENT = auto()  # those of other clients, whose turn it is


@attrs.frozen(kw_only=True)
class Wait:
    """State of a queued request.

    Attributes:
        model: The requested model.
        phase: Phase of that model's backend.
        ahead: Requests for the model that are granted before.
        behind: What goes first in the queue of the model, or in the place where it could start.
        blockers: Models that have to leave before it can start.
        reason: Why it cannot start, as a sentence of the placement policy; empty if *blockers*
            are the whole reason. It may name other models.
        progress: Loaded part of the model, 0 to 1; None if unknown.
        left_s: How long its load should still take, in seconds; None if unknown.
        step: What is done for its backend now, if anything.
    """

    model: ModelId
    phase: Phase
    ahead: int = 0
    behind: Behind | None = None
    blockers: tuple[Blocker, ...] = ()
    reason: str = ""
    progress: float | None = None
    left_s: float | None = None
    step: Step | None = None
