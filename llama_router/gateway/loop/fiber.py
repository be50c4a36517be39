"""Fibers, their deadlines, and the sockets that they wait for. The rules are in `event_loop`."""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Final, Protocol

from ...errors.base import RouterError
from ...logs.events import log
from .pausing import pause

if TYPE_CHECKING:
    from .event_loop import EventLoop

#: Resolution of deadlines, in seconds.
TICK_S: Final = 1 / 16

#: Seconds that a cancelled fiber gets to send its last bytes and end.
ENDING_S: Final = 0.5

#: Pieces of data that one fiber may move before it yields to the other fibers.
BUDGET_PIECES: Final = 16

#: Chunks (of the chunked coding) that count as one more piece: one receive may hold thousands.
CHUNKS_PER_PIECE: Final = 64

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
#: The peer closed at least its sending side, or the connection failed.
PEER_CLOSED: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

#: Events after which a read returns something: bytes, the end, or the error.
READ_EVENTS: Final = READABLE | PEER_CLOSED
ALL_EVENTS: Final = READABLE | WRITABLE | select.EPOLLRDHUP | select.EPOLLET


class FiberTimeoutError(Exception):
    """The fiber's deadline has passed. Raised in the fiber, where it waits."""


class FiberCancelledError(Exception):
    """The fiber must end within `ENDING_S`. Raised in the fiber, where it waits.

    Attributes:
        error: The reason, as the error that the client gets.
    """

    def __init__(self, error: RouterError) -> None:
        super().__init__(str(error))
        self.error = error


class Fiber:
    """One coroutine and its deadline.

    Attributes:
        deadline_s: Clock time at which `FiberTimeoutError` is raised in it, in seconds.
    """

    __slots__ = ("_bucket", "_coroutine", "_loop", "_pieces_left", "_send", "deadline_s")

    def __init__(self, loop: EventLoop) -> None:
        self._loop = loop
        self._coroutine: Coroutine[None, None, None] | None = None
        self._send: Callable[[None], object] | None = None
        self._bucket = math.inf  # the tick at which its deadline is checked
        self._pieces_left = BUDGET_PIECES
        self.deadline_s = math.inf

    def start(self, body: Coroutine[None, None, None]) -> None:
        """Run *body* until its first wait."""
        self._coroutine = body
        self._send = body.send
        self.resume()

    def resume(self) -> None:
        """Run until the coroutine waits again or ends; does nothing if it has ended."""
        if self._send is None:
            return
        self._pieces_left = BUDGET_PIECES
        try:
            self._send(None)
        except StopIteration:
            self._end()
        except Exception:
            self._end()
            log.exception("connection.crashed")

    def throw(self, error: Exception) -> None:
        """Raise *error* in the coroutine, where it waits; does nothing if it has ended."""
        if self._coroutine is None:
            return
        self._pieces_left = BUDGET_PIECES
        try:
            self._coroutine.throw(error)
        except StopIteration:
            self._end()
        except Exception as exc:
            self._end()
            if exc is not error:
                log.error("connection.crashed", exc_info=exc)

    def close(self) -> None:
        """End the coroutine at once; its ``finally`` blocks run, and must not wait."""
        if self._coroutine is not None:
            try:
                self._coroutine.close()
            except Exception:
                log.exception("connection.crashed")
            self._end()

    def expire_in(self, timeout_s: float) -> None:
        """Set the deadline to *timeout_s* seconds after the start of this slice."""
        self.deadline_s = deadline_s = self._loop.now_s + timeout_s
        if deadline_s < self._bucket * TICK_S:
            self._bucket = self._loop.schedule_deadline(self, deadline_s, self._bucket)

    async def yield_if_over_budget(self, pieces: int = 1) -> None:
        """Count *pieces* as moved; let the other fibers run if the budget is used up."""
        self._pieces_left -= pieces
        if self._pieces_left <= 0:
            self._loop.wake(self)
            await pause()

    def check_deadline(self, now_s: float) -> float:
        """Raise `FiberTimeoutError` in the coroutine if its deadline has passed.

        Returns:
            The tick of the next check, or infinity.
        """
        self._bucket = math.inf
        if self.deadline_s > now_s:
            if self.deadline_s < math.inf and self._send is not None:
                self._bucket = self._loop.schedule_deadline(self, self.deadline_s, math.inf)
            return self._bucket
        self.deadline_s = math.inf
        self.throw(FiberTimeoutError())
        return math.inf

    def _end(self) -> None:
        self._coroutine = self._send = None
        self._loop.discard(self, self._bucket)


class Resumable(Protocol):
    """A fiber, or another object that an event of a channel resumes."""

    def resume(self) -> None:
        """Continue; the call may be spurious."""


class Channel:
    """A non-blocking socket in the event loop's epoll.

    Attributes:
        socket: The socket.
        fd: Its descriptor while it is open.
        waiter: The fiber (or other object) that events resume.
        interest: Events (`READABLE`, `WRITABLE`, `PEER_CLOSED`) that resume the waiter now.
        readable: A read may return something; cleared by the reader that finds nothing.
        peer_closed: The peer closed at least its sending side.
        closed: This side closed the socket or gave it away.
    """

    __slots__ = ("_loop", "closed", "fd", "interest", "peer_closed", "readable", "socket", "waiter")

    def __init__(self, loop: EventLoop, connection: socket.socket, waiter: Resumable) -> None:
        """Register *connection* in the epoll of *loop*.

        Raises:
            OSError: if the kernel refuses it; the caller still owns the socket.
        """
        self._loop = loop
        self.fd = connection.fileno()
        self.socket = connection
        self.waiter = waiter
        self.interest = 0
        self.readable = False
        self.peer_closed = False
        self.closed = False
        loop.register(self.fd, self)

    def on_events(self, events: int) -> None:
        """Record *events*; resume the waiter if it is interested in one of them."""
        if events & READ_EVENTS:
            self.readable = True
            if events & PEER_CLOSED:
                self.peer_closed = True
        if events & self.interest:
            self.waiter.resume()

    def close(self) -> None:
        """Close the socket; safe to call twice."""
        if not self.closed:
            self.closed = True
            self.interest = 0  # events of this iteration may still arrive
            self._loop.unregister(self.fd)
            self.socket.close()

    def release(self) -> socket.socket:
        """Unregister the socket and return it, still open, to a new owner."""
        self.closed = True
        self.interest = 0
        self._loop.unregister(self.fd)
        return self.socket
