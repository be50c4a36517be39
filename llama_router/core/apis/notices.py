"""What a client is told while its request waits for a model. Pure.

The scheduler says what the request waits for (`Wait`); `Notices` says it in words, each
thing once; `WaitReporter` decides what is sent when, and a `NoticeDialect` what that looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol, assert_never

import attrs

from ..access.gate import Caller
from ..config.names import ModelId
from ..config.specs import ModelSpec
from ..scheduling.lifecycle import Phase
from ..scheduling.waits import Other, Wait

#: Between two signs of life on any stream that has nothing else to say, in seconds: proxies
#: close connections that are silent for 60.
SIGN_OF_LIFE_S: Final = 15.0

#: By this field of a request its client says whether it wants notices.
NOTIFY_FIELD: Final = "x-notify-model-swap"

_SWITCH: Final = {"true": True, "1": True, "false": False, "0": False}

#: The progress of a load is said when it is this much more than what was said last.
PROGRESS_STEP: Final = 0.1

#: A place in the queue that changes is said so often at most, in seconds.
QUEUE_EVERY_S: Final = 1.0


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


class NoticeDialect(Protocol):
    """Says things in the stream of one request."""

    def say(self, text: str) -> bytes:
        """Return *text* in a form that no strict client stumbles over."""

    def sign_of_life(self) -> bytes:
        """Return what keeps proxies and clients from giving up, and says nothing."""


class WaitReporter:
    """Keeps one client company while its stream waits.

    Args:
        voice: How the client is spoken to.
        notices: Whether it is told what it waits for.
        now_s: Clock time, in seconds.

    Attributes:
        due_s: Clock time of the next sign of life, in seconds.
    """

    def __init__(self, voice: NoticeDialect, *, notices: bool, now_s: float) -> None:
        self._voice = voice
        self._notices = Notices() if notices else None
        self.due_s = now_s + SIGN_OF_LIFE_S

    def about(self, wait: Callable[[], Wait | None], *, now_s: float) -> bytes:
        """Return what is to be sent now; empty if it is nothing.

        Args:
            wait: Tells what the request waits for; asked only if that is to be said.
            now_s: Clock time, in seconds.
        """
        said = b""
        if self._notices is not None and (now := wait()) is not None:
            said = self._in_words(self._notices.about(now, now_s=now_s))
        if not said and now_s >= self.due_s:
            said = self._voice.sign_of_life()
        if said:
            self.due_s = now_s + SIGN_OF_LIFE_S
        return said

    def granted(self, model: str) -> bytes:
        """Return what is to be sent when the wait is over; empty if it is nothing."""
        return b"" if self._notices is None else self._in_words(self._notices.granted(model))

    def _in_words(self, sentences: list[str]) -> bytes:
        return b"".join(map(self._voice.say, sentences))


def wants_notices(field: str, spec: ModelSpec | None) -> bool:
    """Say whether a client is to be told what it waits for.

    Args:
        field: Value of `NOTIFY_FIELD` in its request; empty if there is none.
        spec: The model, if it still is there.
    """
    wish = _SWITCH.get(field.lower())
    return (spec is not None and spec.notify_model_swap) if wish is None else wish


def discreet(wait: Wait | None, asker: Caller, models: Mapping[ModelId, ModelSpec]) -> Wait | None:
    """Return *wait* without the names of models that the *asker* may not use."""
    if wait is None or asker.models is None:
        return wait

    def seen(other: Other) -> Other:
        spec = None if other.model is None else models.get(other.model)
        known = spec is not None and asker.may_use(spec)
        return other if known else attrs.evolve(other, model=None)

    # The reason may name models, too.
    return attrs.evolve(wait, others=tuple(map(seen, wait.others)), reason="")


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
            said = wait.reason or " ".join(map(_about_other, wait.others))
            return said or f"Preparing to load {model}..."
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
