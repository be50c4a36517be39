"""Notices: what a request waits for, as sentences for its client. Pure.

The scheduler reports the wait of a request (`Wait`). `Notices` turns each change of it into
sentences, `WaitReporter` decides when bytes are sent, and a `StreamDialect` gives them the
form of the client's API.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, assert_never

import attrs

from ..access.caller import Caller
from ..config.names import ModelId
from ..config.specs import ModelSpec
from ..scheduling.lifecycle import Phase
from ..scheduling.waits import Behind, Blocker, Step, Wait
from .dialect import StreamDialect

#: Time between two keepalives on a stream without other bytes, in seconds. Proxies close
#: connections that are silent for 60.
KEEPALIVE_S: Final = 15.0

#: Header field of a request that turns notices on or off for it.
NOTIFY_FIELD: Final = "x-notify-model-swap"

#: Before and after each notice that clients may keep as a thought of the model: an invisible
#: separator, which no model writes. By it `requests.body_overrides` recognises the notice for
#: sure when a client sends it back.
MARK: Final = "\u2063"

_SWITCH: Final = {"true": True, "1": True, "false": False, "0": False}

#: What goes before a request in the queue of a model that serves.
_AT_QUEUE: Final = {
    None: "Waiting for a turn at",
    Behind.CLASS: "Waiting for requests of a higher class at",
    Behind.CLIENT: "Waiting for the turn of this client, after others, at",
}

#: The same of a request for a model that has to be loaded.
_AT_TURN: Final = {
    Behind.CLASS: "Requests of a higher class go first.",
    Behind.CLIENT: "It is the turn of another client first.",
}

#: Step in which the progress of a load is reported, as a fraction.
PROGRESS_STEP: Final = 0.1

#: Least time between two reports of a place in the queue, in seconds.
QUEUE_EVERY_S: Final = 1.0


#: Least time left of a load that is said, in seconds.
LEAST_LEFT_S: Final = 2.0

_AMOUNT: Final = re.compile(r"\d[\d.]* [GM]iB")


class Notices:
    """The notices of one request, each of which is made once."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._ahead = 0
        self._ahead_s = 0.0
        self._progress = 0.0
        self._said_left = False

    def about(self, wait: Wait, *, now_s: float) -> list[str]:
        """Return the sentences about what changed in *wait*; empty if nothing did."""
        new: list[str] = []
        sentences = sentences_about(wait)
        said = dict(zip(map(_without_amounts, sentences), sentences, strict=True))
        if said.keys() != self._said.keys():
            news = [sentence for bare, sentence in said.items() if bare not in self._said]
            sentence = " ".join(news or sentences)
            self._said = said
            self._progress = 0.0
            left = self._say_left(wait)
            new.append(f"{sentence.removesuffix('...')}, {left}..." if left else sentence)
        elif (
            wait.phase is Phase.STARTING and not self._said_left and (left := self._say_left(wait))
        ):
            new.append(f"Loading model '{wait.model}': {left}")
        elif wait.phase is Phase.STARTING and wait.progress is not None:
            step = PROGRESS_STEP if wait.progress < 1 else 0.0
            if wait.progress > self._progress and wait.progress >= self._progress + step:
                self._progress = wait.progress
                left = self._say_left(wait)
                new.append(
                    f"Loading model '{wait.model}': {wait.progress:.0%}{', ' * bool(left)}{left}"
                )
        if wait.ahead != self._ahead and (new or now_s - self._ahead_s >= QUEUE_EVERY_S):
            self._ahead, self._ahead_s = wait.ahead, now_s
            if wait.ahead:
                new.append(f"Requests ahead in the queue: {wait.ahead}")
        return new

    def _say_left(self, wait: Wait) -> str:
        """Return how long a load should still take, in words; empty if that is not worth saying."""
        if wait.phase is not Phase.STARTING or wait.left_s is None or wait.left_s < LEAST_LEFT_S:
            return ""
        self._said_left = True
        return f"about {_duration(wait.left_s)} left"

    def granted(self, model: str) -> list[str]:
        """Return the sentence for the end of the wait; empty if there was none before it."""
        return [f"Model '{model}' is ready."] if self._said else []


class WaitReporter:
    """Decides which bytes a stream gets while its request waits.

    Args:
        stream: Gives notices and keepalives their form.
        notices: The client gets notices, not only keepalives.
        now_s: Clock time, in seconds.

    Attributes:
        due_s: Clock time of the next keepalive, in seconds.
    """

    def __init__(self, stream: StreamDialect, *, notices: bool, now_s: float) -> None:
        self._stream = stream
        self._notices = Notices() if notices else None
        self.due_s = now_s + KEEPALIVE_S

    def about(self, wait: Callable[[], Wait | None], *, now_s: float) -> bytes:
        """Return the bytes to send now; empty for none.

        Args:
            wait: Returns what the request waits for; called only if notices are on.
            now_s: Clock time, in seconds.
        """
        events = b""
        if self._notices is not None and (now := wait()) is not None:
            events = self._encode(self._notices.about(now, now_s=now_s))
        if not events and now_s >= self.due_s:
            events = self._stream.keepalive()
        if events:
            self.due_s = now_s + KEEPALIVE_S
        return events

    def granted(self, model: str) -> bytes:
        """Return the bytes to send at the end of the wait; empty for none."""
        return b"" if self._notices is None else self._encode(self._notices.granted(model))

    def _encode(self, sentences: list[str]) -> bytes:
        return b"".join(map(self._stream.notice, sentences))


def marked(sentence: str) -> str:
    """Return *sentence* as a line that is recognised in later requests."""
    return f"{MARK}{sentence.replace(MARK, '')}{MARK}\n"


def wants_notices(field: str, spec: ModelSpec | None) -> bool:
    """Return whether a request gets notices.

    Args:
        field: Value of `NOTIFY_FIELD` in the request; empty if there is none.
        spec: The model; None if it was removed meanwhile.
    """
    wish = _SWITCH.get(field.lower())
    return (spec is not None and spec.notify_model_swap) if wish is None else wish


def redact_wait(
    wait: Wait | None, caller: Caller, models: Mapping[ModelId, ModelSpec]
) -> Wait | None:
    """Return *wait* without the names of models that *caller* may not use."""
    if wait is None or caller.models is None:
        return wait

    def redacted(blocker: Blocker) -> Blocker:
        spec = None if blocker.model is None else models.get(blocker.model)
        is_usable = spec is not None and caller.may_use(spec)
        return blocker if is_usable else attrs.evolve(blocker, model=None)

    # The reason may name models, too.
    return attrs.evolve(wait, blockers=tuple(map(redacted, wait.blockers)), reason="")


def _duration(seconds: float) -> str:
    """Return an estimate of a time in words: ``12 s``, ``3 min``."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def sentence_about(wait: Wait) -> str:
    """Return what a request waits for, in words."""
    return " ".join(sentences_about(wait))


def sentences_about(wait: Wait) -> list[str]:
    """Return why a request waits, and what it waits for, as sentences."""
    sentences: list[str] = []
    if wait.phase is Phase.STOPPED:
        if wait.reason:
            sentences.append(f"{wait.reason[0].upper()}{wait.reason[1:]}")
        sentences += dict.fromkeys(map(_about_blocker, wait.blockers))
        if sentences and wait.behind is not None:
            sentences.append(_AT_TURN[wait.behind])
    return sentences or [_about_phase(wait)]


def _without_amounts(sentence: str) -> str:
    """Return *sentence* without amounts of memory, which change with each reading."""
    return _AMOUNT.sub("", sentence)


def _about_phase(wait: Wait) -> str:
    """Return what a request waits for whose model has a backend, or had one."""
    model = f"model '{wait.model}'"
    match wait.phase:
        case Phase.STARTING:
            restoring = ": its prompt cache is being restored" * (wait.step is Step.RESTORING)
            return f"Loading {model}{restoring}..."
        case Phase.READY:
            return f"{_AT_QUEUE[wait.behind]} {model}."
        case Phase.DRAINING | Phase.STOPPING:
            return f"{_leaving(model, wait.step)}, to start it anew..."
        case Phase.BACKOFF | Phase.FAILED:
            return f"The backend of {model} failed; it is started again."
        case Phase.STOPPED:
            return f"Preparing to load {model}..."
        case _:
            assert_never(wait.phase)


def _about_blocker(blocker: Blocker) -> str:
    name = "another model" if blocker.model is None else f"model '{blocker.model}'"
    match blocker.phase:
        case Phase.STARTING:
            return f"Waiting for {name}, which is being loaded."
        case Phase.READY | Phase.DRAINING:
            return f"Waiting for {name} to finish its requests."
        case _:
            return f"{_leaving(name, blocker.step)}..."


def _leaving(name: str, step: Step | None) -> str:
    """Return what is done before and while a backend is stopped."""
    if step is Step.SAVING:
        return f"Saving the prompt cache of {name}, then unloading it"
    return f"Unloading {name}"
