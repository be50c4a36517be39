"""A ready backend, and the persistent connections to it."""

from __future__ import annotations

from typing import Final, Protocol

import attrs
import trio

from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec
from ..core.memory.fit import Fit
from ..core.scheduling.waits import Step
from ..errors.backends import BackendError, UpstreamError
from ..errors.base import RouterError
from ..process.cgroup import ControlGroup
from ..process.family import Leader

#: Seconds to wait for the exit of a backend after its connection broke. The exit is usually
#: reported within a millisecond, and its error explains more than that of the connection.
EXIT_WAIT_S: Final = 0.5


class KeptConnection(Protocol):
    """A connection between two exchanges."""

    def close(self) -> None:
        """Close it; safe to call twice. Must not raise."""


class PromptCache(Protocol):
    """The prompt cache of a backend, which outlives its process."""

    @property
    def awaits_answer(self) -> bool:
        """True while the end of an answer is wanted as a proof."""

    def note_answer(self, tail: bytes) -> None:
        """Take note of the end of a successful answer. Must not block."""

    async def save(self) -> None:
        """Save it; return within the time that the settings allow. May be called again."""


@attrs.define(eq=False)
class Backend:
    """One process that answered its health check with 200.

    Attributes:
        model: The model that it serves.
        spec: Its settings; a reload replaces those that need no new process.
        host: The address that it listens on.
        port: The port that it listens on.
        pid: Its process id.
        spawned_s: Clock time of its spawn, in seconds.
        ready_s: Clock time at which it became ready, in seconds.
        group: Its control group, if it has one.
        fit: What llama.cpp's fitting chose for it; None if there was none.
        squeezed: Whether it has less context or fewer layers on the GPU because something else
            held memory.
        slots: Requests that it serves at once; None if that is not known.
        unsqueezed_mib: What must be free on its GPUs, its own part included, so that it would
            have all of it; 0 if it is not squeezed.
        gone: Set when the process has ended or is being ended.
        error: The reason for its end, if it ended by itself or was replaced; set before *gone* is.
        failures: Requests in a row that it failed; see `HealthChecks`.
        sleeping: It has freed its memory and loads its model again for the next request, as
            llama-server does with ``--sleep-idle-seconds``.
        cache: Its prompt cache, if that is saved before a stop.
        authority: Its host and port, as in a URL.
    """

    model: ModelId
    spec: ModelSpec
    host: str
    port: int
    pid: int
    spawned_s: float
    ready_s: float
    group: ControlGroup | None = None
    fit: Fit | None = None
    squeezed: bool = False
    slots: int | None = None
    unsqueezed_mib: int = 0
    gone: trio.Event = attrs.field(factory=trio.Event)
    error: BackendError | None = None
    failures: int = 0
    sleeping: bool = False
    cache: PromptCache | None = None
    authority: bytes = attrs.field(init=False)
    _kept: list[KeptConnection] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        """Set the authority once; each request needs it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.authority = f"{host}:{self.port}".encode()

    def take_connection(self) -> KeptConnection | None:
        """Return the most recently kept connection or None; the backend may have closed it."""
        return self._kept.pop() if self._kept else None

    def keep_connection(self, connection: KeptConnection) -> None:
        """Keep *connection*, on which an exchange ended cleanly, for the next one."""
        if self.gone.is_set():
            connection.close()
        else:
            self._kept.append(connection)

    async def error_for(self, symptom: str) -> RouterError:
        """Return the error of the process, if it ends within `EXIT_WAIT_S`; else of *symptom*."""
        with trio.move_on_after(EXIT_WAIT_S):
            await self.gone.wait()
        if self.error is not None:
            return self.error
        if self.gone.is_set():
            return BackendError(f"the backend of model {str(self.model)!r} was stopped")
        return UpstreamError(f"the backend of model {str(self.model)!r} failed: {symptom}")

    def end(self, error: BackendError | None) -> None:
        """Mark the process as gone, and close the kept connections to it."""
        if self.gone.is_set():
            return
        self.error = error
        self.gone.set()
        while self._kept:
            self._kept.pop().close()


@attrs.frozen
class LoadProgress:
    """A starting backend has loaded a part of its model.

    Attributes:
        model: The model.
        fraction: The loaded part, 0 to 1.
    """

    model: ModelId
    fraction: float


@attrs.frozen
class BackendSpawned:
    """The process of a backend exists from now on.

    Attributes:
        model: The model.
        leader: The process, and its control group.
    """

    model: ModelId
    leader: Leader


@attrs.frozen
class LoadExpected:
    """A starting backend is known from earlier loads.

    Attributes:
        model: The model.
        ready_s: Clock time at which it will be ready if it takes as long as the last time, in
            seconds.
    """

    model: ModelId
    ready_s: float


@attrs.frozen
class BackendReady:
    """A backend serves from now on.

    Attributes:
        backend: The backend.
    """

    backend: Backend


@attrs.frozen
class BackendSlept:
    """A ready backend fell asleep, or woke up.

    Attributes:
        model: Its model.
        sleeping: Whether it sleeps now.
    """

    model: ModelId
    sleeping: bool


@attrs.frozen
class CacheMoves:
    """The prompt cache of a backend is being saved or restored, or that has ended.

    Attributes:
        model: Its model.
        step: What is done now; None when it is restored, or saved and the process gone.
    """

    model: ModelId
    step: Step | None


#: What a launch reports through its one callback. Its end is not among them: the launch
#: returns or raises then.
LaunchEvent = (
    LoadExpected | LoadProgress | BackendSpawned | BackendReady | BackendSlept | CacheMoves
)
