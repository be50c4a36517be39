"""A socket of the data plane in the engine's epoll."""

from __future__ import annotations

import select
import socket
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from .engine import Engine

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
#: The peer closed at least its sending side, or the connection broke.
GONE: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

TELLING: Final = READABLE | GONE  # reading gives bytes, the end, or the error
EVERYTHING: Final = READABLE | WRITABLE | select.EPOLLRDHUP | select.EPOLLET


class Waiter(Protocol):
    """Somebody whom an event resumes."""

    def resume(self) -> None:
        """Go on; there may be nothing new."""


class Channel:
    """A non-blocking socket in the engine's epoll.

    Attributes:
        socket: The socket itself.
        fd: Its number, as long as it is open.
        waiter: Whom to resume.
        want: For which events (`READABLE`, `WRITABLE`, `GONE`) to resume it now.
        readable: Reading may give something; cleared by who finds that it does not.
        gone: The peer closed at least its sending side.
        closed: It was closed or given away by this side.
    """

    __slots__ = ("_engine", "closed", "fd", "gone", "readable", "socket", "waiter", "want")

    def __init__(self, engine: Engine, connection: socket.socket, waiter: Waiter) -> None:
        """Enter *connection* into the epoll of *engine*.

        Raises:
            OSError: if the kernel has no room for it; the socket is still the caller's.
        """
        self._engine = engine
        self.fd = connection.fileno()
        self.socket = connection
        self.waiter = waiter
        self.want = 0
        self.readable = False
        self.gone = False
        self.closed = False
        engine.enter(self.fd, self)

    def note(self, events: int) -> None:
        """Remember *events*, and resume who waits for one of them."""
        if events & TELLING:
            self.readable = True
            if events & GONE:
                self.gone = True
        if events & self.want:
            self.waiter.resume()

    def close(self) -> None:
        """Close; safe to call twice."""
        if not self.closed:
            self.closed = True
            self.want = 0  # events of this round may still be noted
            self._engine.leave(self.fd)
            self.socket.close()

    def release(self) -> socket.socket:
        """Give the socket away, to be served by somebody else."""
        self.closed = True
        self.want = 0
        self._engine.leave(self.fd)
        return self.socket
