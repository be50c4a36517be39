"""What the shell tells the scheduler, and what it is told to do. Values only."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from ...errors.admission import AdmissionError
from ...errors.backends import BackendError
from ..config.config import Config
from ..config.diff import ReloadPlan
from ..config.names import ModelId
from .lifecycle import Signal


@attrs.frozen
class Arrived:
    """A request named this model (an id or an alias, as the client wrote it)."""

    request: int
    name: str


@attrs.frozen
class Finished:
    """A request ended, however it ended: served, refused, or its client left."""

    request: int


@attrs.frozen
class Changed:
    """A backend became ready (``PROBE_OK``) or is gone (``EXITED``).

    Attributes:
        model: Whose backend.
        signal: ``PROBE_OK`` or ``EXITED``; the scheduler itself decides the rest.
        error: Why it is gone, if it was not asked to stop.
    """

    model: ModelId
    signal: Signal
    error: BackendError | None = None


@attrs.frozen
class Tick:
    """The time of `Scheduler.wake_s` has come."""


@attrs.frozen
class Unload:
    """Somebody wants the model's backend to go; who waits for it brings it back.

    Attributes:
        model: Which one.
        force: Do not wait for the requests that it serves.
    """

    model: ModelId
    force: bool


@attrs.frozen
class Keep:
    """A request says how long the model's backend stays when nobody uses it.

    It counts until the backend is gone or another request says something else.

    Attributes:
        model: Which one.
        idle_s: Seconds of idleness, perhaps infinite; None for what the settings say.
    """

    model: ModelId
    idle_s: float | None


@attrs.frozen
class Mended:
    """What a model was given up for is no longer so: it may be tried again."""

    model: ModelId


@attrs.frozen
class Reconfigured:
    """The configuration was replaced.

    Attributes:
        config: The new one.
        plan: How it differs from the one in force, if somebody had the time to find out: with
            hundreds of models it takes as long as a thousand requests.
    """

    config: Config
    plan: ReloadPlan | None = None


@attrs.frozen
class ShutDown:
    """Refuse whoever waits, start nothing more; requests being served go on."""


Event: TypeAlias = (
    Arrived | Finished | Changed | Tick | Unload | Keep | Mended | Reconfigured | ShutDown
)


@attrs.frozen
class Grant:
    """Let the request talk to the model's backend."""

    request: int
    model: ModelId


@attrs.frozen
class Refuse:
    """Answer the request with an error."""

    request: int
    error: AdmissionError | BackendError


@attrs.frozen
class Start:
    """Spawn the model's backend."""

    model: ModelId


@attrs.frozen
class Stop:
    """Stop the model's backend; it serves nobody.

    Attributes:
        model: Which one.
        reason: Why, in words for the log.
    """

    model: ModelId
    reason: str


Action: TypeAlias = Grant | Refuse | Start | Stop
