"""What a client is told while its request waits for a model. Pure.

The scheduler says what the request waits for (`Wait`); `Notices` says it in words, each
thing once.
"""

from __future__ import annotations

from typing import Final, assert_never

import attrs

from .config import ModelId
from .lifecycle import Phase

#: The progress of a load is said when it is this much more than what was said last.
PROGRESS_STEP: Final = 0.1

#: A place in the queue that changes is said so often at most, in seconds.
QUEUE_EVERY_S: Final = 1.0


@attrs.frozen(kw_only=True)
class Other:
    """A model that has to leave first.

    Attributes:
        model: Which one; None if whoever waits must not know.
        phase: Where its backend is in its life.
    """

    model: ModelId | None
    phase: Phase


@attrs.frozen(kw_only=True)
class Wait:
    """What a request waits for.

    Attributes:
        model: The model that it asked for.
        phase: Where that model's backend is in its life.
        ahead: Requests for the model that came earlier and still wait.
        others: Models that have to leave before it can start.
        progress: How much of it is loaded, 0 to 1; None if that is not known.
    """

    model: ModelId
    phase: Phase
    ahead: int = 0
    others: tuple[Other, ...] = ()
    progress: float | None = None


class Notices:
    """Remembers what one request was told."""

    def __init__(self) -> None:
        self._said = ""
        self._ahead = 0
        self._ahead_s = 0.0
        self._progress = 0.0

    def about(self, wait: Wait, *, now_s: float) -> list[str]:
        """Return what is new about *wait*, as sentences; empty if nothing is."""
        new: list[str] = []
        sentence = _sentence(wait)
        if sentence != self._said:
            self._said = sentence
            self._progress = 0.0
            new.append(sentence)
        elif wait.phase is Phase.STARTING and wait.progress is not None:
            step = PROGRESS_STEP if wait.progress < 1 else 0.0
            if wait.progress > self._progress and wait.progress >= self._progress + step:
                self._progress = wait.progress
                new.append(f"Loading model '{wait.model}': {wait.progress:.0%}")
        if wait.ahead != self._ahead and (new or now_s - self._ahead_s >= QUEUE_EVERY_S):
            self._ahead, self._ahead_s = wait.ahead, now_s
            if wait.ahead:
                new.append(f"Requests ahead in the queue: {wait.ahead}")
        return new

    def granted(self, model: str) -> list[str]:
        """Return what is said when the wait is over; empty if nothing was said before."""
        return [f"Model '{model}' is ready."] if self._said else []


def _sentence(wait: Wait) -> str:
    model = f"model '{wait.model}'"
    match wait.phase:
        case Phase.STARTING:
            return f"Loading {model}..."
        case Phase.READY:
            return f"Waiting for a turn at {model}."
        case Phase.DRAINING | Phase.STOPPING:
            return f"Unloading {model}, to start it anew..."
        case Phase.BACKOFF | Phase.FAILED:
            return f"The backend of {model} failed; it is started again."
        case Phase.STOPPED:
            return " ".join(map(_about_other, wait.others)) or f"Preparing to load {model}..."
        case _:
            assert_never(wait.phase)


def _about_other(other: Other) -> str:
    name = "another model" if other.model is None else f"model '{other.model}'"
    match other.phase:
        case Phase.STARTING:
            return f"Waiting for {name}, which is being loaded."
        case Phase.READY | Phase.DRAINING:
            return f"Waiting for {name} to finish its requests."
        case _:
            return f"Unloading {name}..."
