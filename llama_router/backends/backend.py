"""A ready backend, and the persistent connections to it."""

from __future__ import annotations

from typing import Final, Protocol

import attrs
import trio

from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec
from ..errors.backends import BackendError, UpstreamError
from ..errors.base import RouterError
from ..process.cgroup import ControlGroup

#: How long to wait for the news of a backend's end once its connection broke, in
#: seconds: the exit is seen within a millisecond, and explains far more.
OBITUARY_S: Final = 0.5


class KeptConnection(Protocol):
    """A connection between two exchanges."""

    def close(self) -> None:
        """Close it; safe to call twice. Must not raise."""


@attrs.define(eq=False)
class Backend:
    """One process that answered its health check with 200.

    Attributes:
        model: Whose backend it is.
        spec: Its settings; after a reload those that need no new process are the new ones.
        host: Address it listens on.
        port: Port it listens on.
        pid: Its process id.
        spawned_s: Clock time of its spawn, in seconds.
        ready_s: Clock time at which it became ready, in seconds.
        group: Its control group, if it has one.
        gone: Set when the process has ended or is being ended.
        error: Why it ended, if it was not asked to; set before *gone* is.
    """

    model: ModelId
    spec: ModelSpec
    host: str
    port: int
    pid: int
    spawned_s: float
    ready_s: float
    group: ControlGroup | None = None
    gone: trio.Event = attrs.field(factory=trio.Event)
    error: BackendError | None = None
    _kept: list[KeptConnection] = attrs.field(factory=list, init=False)

    @property
    def authority(self) -> bytes:
        """Return its host and port as a URL has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode()

    def take_connection(self) -> KeptConnection | None:
        """Return the connection that was kept last, or None; the backend may have closed it."""
        return self._kept.pop() if self._kept else None

    def keep_connection(self, connection: KeptConnection) -> None:
        """Keep *connection*, on which an exchange ended cleanly, for the next one."""
        if self.gone.is_set():
            connection.close()
        else:
            self._kept.append(connection)

    async def explain(self, symptom: str) -> RouterError:
        """Return the process's own end as the error, if it ended; else the *symptom*."""
        with trio.move_on_after(OBITUARY_S):
            await self.gone.wait()
        if self.error is not None:
            return self.error
        if self.gone.is_set():
            return BackendError(f"the backend of model {str(self.model)!r} was stopped")
        return UpstreamError(f"the backend of model {str(self.model)!r} failed: {symptom}")

    def end(self, error: BackendError | None) -> None:
        """Note that the process is gone, and close what leads to it."""
        if self.gone.is_set():
            return
        self.error = error
        self.gone.set()
        while self._kept:
            self._kept.pop().close()
