"""A ready backend process, and what is reported about the start of one."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from ..core.config.names import ModelId
from ..core.memory.fit import Fit
from ..core.scheduling.waits import Step
from ..errors.backends import BackendError
from ..errors.base import RouterError
from ..process.cgroup import ControlGroup
from ..process.family import Leader
from .upstream import Upstream

#: Seconds to wait for the exit of a backend after its connection broke. The exit is usually
#: reported within a millisecond, and its error explains more than that of the connection.
EXIT_WAIT_S: Final = 0.5


@attrs.define(eq=False)
class Backend(Upstream):
    """One process that answered its health check with 200.

    Attributes:
        group: Its control group, if it has one.
        fit: What llama.cpp's fitting chose for it; None if there was none.
        squeezed: Whether it has less context or fewer layers on the GPU because something else
            held memory.
        slots: Requests that it serves at once; None if that is not known.
        unsqueezed_mib: What must be free on its GPUs, its own part included, so that it would
            have all of it; 0 if it is not squeezed.
    """

    group: ControlGroup | None = attrs.field(default=None, kw_only=True)
    fit: Fit | None = attrs.field(default=None, kw_only=True)
    squeezed: bool = attrs.field(default=False, kw_only=True)
    slots: int | None = attrs.field(default=None, kw_only=True)
    unsqueezed_mib: int = attrs.field(default=0, kw_only=True)

    async def error_for(self, symptom: str) -> RouterError:
        """Return the error of the process, if it ends within `EXIT_WAIT_S`; else of *symptom*."""
        with trio.move_on_after(EXIT_WAIT_S):
            await self.gone.wait()
        if self.error is None and self.gone.is_set():
            return BackendError(f"{self.title} was stopped")
        return await super().error_for(symptom)


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
