"""A ready backend, and the persistent connections to it."""

from __future__ import annotations

import contextlib
import socket

import attrs
import trio

from ..core.config import ModelId, ModelSpec
from ..errors import BackendError


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
    gone: trio.Event = attrs.field(factory=trio.Event)
    error: BackendError | None = None
    _idle: list[socket.socket] = attrs.field(factory=list, init=False)

    def take_connection(self) -> socket.socket | None:
        """Return an idle connection that the backend has not closed, or None."""
        while self._idle:
            connection = self._idle.pop()
            try:
                connection.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return connection  # silent and open, as an idle connection should be
            except OSError:
                pass
            connection.close()
        return None

    def give_connection(self, connection: socket.socket) -> None:
        """Keep *connection*, on which an exchange ended cleanly, for the next one."""
        if self.gone.is_set():
            connection.close()
        else:
            self._idle.append(connection)

    def end(self, error: BackendError | None) -> None:
        """Note that the process is gone, and close what leads to it."""
        if self.gone.is_set():
            return
        self.error = error
        self.gone.set()
        while self._idle:
            with contextlib.suppress(OSError):
                self._idle.pop().close()
