"""Events that the scheduler takes in, and actions that it returns. Values only."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from ...errors.backends import BackendError
from ...errors.base import RouterError
from ..config.config import Config
from ..config.names import ModelId
from ..config.reload import ReloadPlan
from ..config.specs import Priority
from ..memory.devices import DeviceId
from ..memory.view import Claims, MemoryView
from .causes import StartCause, StopReason
from .lifecycle import Signal


@attrs.frozen
class Arrived:
    """A request arrived.

    Attributes:
        request: Its number; later requests have higher ones.
        model: The requested model. It is refused if the configuration does not have it (any
            more).
        may_load: The model may be loaded for it; else it is refused unless the model is loaded,
            or is about to be for another reason.
        takes_slot: It counts for ``max_in_flight``; see `requests.slots`.
        client: What its client is known by: clients take turns.
        priority: Its class.
        weight: The share of its client, above 0.
    """

    request: int
    model: ModelId
    may_load: bool = True
    takes_slot: bool = True
    client: str = ""
    priority: Priority = Priority.NORMAL
    weight: float = 1.0


@attrs.frozen
class Finished:
    """A request ended: it was served or refused, or its client disconnected."""

    request: int


@attrs.frozen
class Changed:
    """A backend became ready (``PROBE_OK``) or its process is gone (``EXITED``).

    Attributes:
        model: The model of the backend.
        signal: ``PROBE_OK`` or ``EXITED``; the scheduler itself causes the other signals.
        error: Why it is gone, if it was not asked to stop.
        slots: Requests that it serves at once, if it is ready and that is known.
    """

    model: ModelId
    signal: Signal
    error: BackendError | None = None
    slots: int | None = None


@attrs.frozen
class Tick:
    """The time of `Scheduler.wake_s` has come."""


@attrs.frozen
class Unload:
    """A model's backend is to stop; requests that wait for the model are refused.

    Attributes:
        model: The model.
        force: Do not wait for the requests in flight.
    """

    model: ModelId
    force: bool


@attrs.frozen
class Keep:
    """A request sets how long the model's backend stays loaded while idle.

    It counts until the backend is gone or another request sets another time.

    Attributes:
        model: The model.
        idle_s: Idle seconds, perhaps infinite; None for the ``ttl_s`` of the settings.
    """

    model: ModelId
    idle_s: float | None


@attrs.frozen
class Renew:
    """An idle model that was squeezed is to get a new process, if that may start beside others."""

    model: ModelId


@attrs.frozen
class Hung:
    """A ready backend serves no more, and is to be replaced; its requests cannot be completed.

    Attributes:
        model: The model of the backend.
        error: What was seen.
    """

    model: ModelId
    error: BackendError


@attrs.frozen
class ExplicitLoad:
    """A person is about to request the model in order to load it: earlier failures do not count.

    A model without one of its files stays given up: a start is pointless.
    """

    model: ModelId


@attrs.frozen
class FileRestored:
    """A file of a model that was given up is back, or was changed: the model may be tried again."""

    model: ModelId


@attrs.frozen
class MemoryChanged:
    """The devices were read, or a footprint is known better.

    Attributes:
        memory: All that is known.
    """

    memory: MemoryView


@attrs.frozen
class Reconfigured:
    """The configuration was replaced.

    Attributes:
        config: The new one.
        plan: How it differs from the one in force, if that was computed before (on a thread:
            for hundreds of models it takes as long as a thousand requests).
    """

    config: Config
    plan: ReloadPlan | None = None


@attrs.frozen
class ShutDown:
    """All queued requests are refused, nothing starts any more; requests in flight go on."""


Event: TypeAlias = (
    Arrived
    | Finished
    | Changed
    | Tick
    | Unload
    | Keep
    | Renew
    | Hung
    | ExplicitLoad
    | FileRestored
    | MemoryChanged
    | Reconfigured
    | ShutDown
)


@attrs.frozen
class Grant:
    """Let the request use the model's backend."""

    request: int
    model: ModelId


@attrs.frozen
class Refuse:
    """Answer the request with an error."""

    request: int
    error: RouterError


@attrs.frozen
class Start:
    """Spawn the model's backend.

    Attributes:
        model: The model.
        claims: What it takes of each device, if the placement policy chose them.
        cause: Why, for records.
    """

    model: ModelId
    claims: Claims = attrs.field(factory=dict[DeviceId, int])
    cause: StartCause = attrs.field(default=StartCause.REQUEST, eq=False)


@attrs.frozen
class Stop:
    """Stop the model's backend, on which no request is in flight unless it is forced to leave.

    Attributes:
        model: The model.
        reason: Why, for records and the log.
        error: The error for requests in flight, if it failed them.
    """

    model: ModelId
    reason: StopReason
    error: BackendError | None = None


Action: TypeAlias = Grant | Refuse | Start | Stop
