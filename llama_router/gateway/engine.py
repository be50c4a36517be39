"""Fibers: the connections' coroutines, all in one Trio task, driven by an epoll of their own.

The clever part of the data plane, and the only one. A Trio task pays about 10 us of
CPU for each wait on a socket (entering it into Trio's epoll, being scheduled, leaving it
again); moving a chunk of a stream takes two system calls and less than that. So a
connection is not a Trio task. It is a *fiber*: an ordinary ``async def`` coroutine that
this module resumes directly from an epoll event, for less than 1 us.

How it works
============

* Every socket is entered into the engine's epoll once, edge-triggered, for all events,
  and never changed after that: no ``epoll_ctl`` per wait. `Channel` remembers what the
  edges said, and whom to resume for which of them.
* `Engine.run` is one Trio task. It waits until the epoll itself is readable (an epoll
  can be waited for like a socket), then makes a *turn*: takes all events and resumes
  the fibers that wait for them, until nothing is ready or it is Trio's turn again.
* A fiber waits by `pause`. It is resumed by an event of one of its channels, by
  `Engine.wake`, or by an exception: `FiberTimeoutError` when its deadline is over,
  `FiberCutError` when the engine is cancelled, or somebody wants this one to end.
* Deadlines are checked by one Trio task, in buckets of `TICK_S`; renewing one is an
  assignment.

What a fiber must know
======================

* It may be resumed without a reason: look at the flags, and pause again.
* Nothing of Trio that waits may be awaited in it, and no cancel scope entered: they
  belong to tasks, and a fiber is none. `Engine.in_trio` runs such things in a task.
  Calling plain functions (``Event.set``, ``CancelScope.cancel``, ``start_soon``) is fine.
* It never runs for long: whoever moves much data counts it with `Fiber.spend`.

A crash of one fiber costs one connection. The engine owns every fiber: when `run` ends,
all of them have ended.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import select
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import coroutine
from typing import Final, Protocol, TypeVar

import structlog
import trio

from ..core import refusals
from ..errors import RouterError

log = structlog.get_logger()

T = TypeVar("T")

#: Resolution of deadlines, in seconds.
TICK_S: Final = 1 / 16

#: How long fibers are driven before Trio's tasks have their turn, in seconds.
TURN_S: Final = 0.002

#: How long a turn waits for the next event where many come, in seconds; what epoll can.
LINGER_S: Final = 0.001

#: Events per second from which on they are gathered: a network card does the same with its
#: interrupts. Many streams then cost a sixth less, and each chunk comes `GATHER_S` later.
DENSE_PER_S: Final = 4000

#: How long events are gathered, in seconds. A token takes fifty times as long.
GATHER_S: Final = 0.0004

#: For so long no request may have begun, in seconds: who asks is not made to wait.
CALM_S: Final = 0.005

#: Requests that begin in one round. What has begun goes on first: when many arrive at once,
#: the first of them have their answers before the last ones are read.
BEGINNINGS: Final = 32

#: Events taken in one round.
EVENTS: Final = 128

#: Pieces of data that one fiber may move before others get their turn.
PIECES: Final = 16

#: How long fibers get to end once the engine is cancelled, in seconds.
ENDING_S: Final = 0.5

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
#: The peer closed at least its sending side, or the connection broke.
GONE: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR

_TELLING: Final = READABLE | GONE  # reading gives bytes, the end, or the error
_EVERYTHING: Final = READABLE | WRITABLE | select.EPOLLRDHUP | select.EPOLLET


class FiberTimeoutError(Exception):
    """The fiber's deadline is over. Raised in the fiber, where it waits."""


class FiberCutError(Exception):
    """The fiber is to end, within `ENDING_S`. Raised in the fiber, where it waits.

    Attributes:
        error: Why, for the client.
    """

    def __init__(self, error: RouterError) -> None:
        super().__init__(str(error))
        self.error = error


class Waiter(Protocol):
    """Somebody whom an event resumes."""

    def resume(self) -> None:
        """Go on; there may be nothing new."""


class Channel:
    """A non-blocking socket in the engine's epoll.

    Attributes:
        socket: The socket itself.
        waiter: Whom to resume.
        want: For which events (`READABLE`, `WRITABLE`, `GONE`) to resume it now.
        readable: Reading may give something; cleared by who finds that it does not.
        gone: The peer closed at least its sending side.
        closed: It was closed or given away by this side.
    """

    __slots__ = ("_engine", "_fd", "closed", "gone", "readable", "socket", "waiter", "want")

    def __init__(self, engine: Engine, connection: socket.socket, waiter: Waiter) -> None:
        """Enter *connection* into the epoll of *engine*.

        Raises:
            OSError: if the kernel has no room for it; the socket is still the caller's.
        """
        self._engine = engine
        self._fd = connection.fileno()
        self.socket = connection
        self.waiter = waiter
        self.want = 0
        self.readable = False
        self.gone = False
        self.closed = False
        engine.enter(self._fd, self)

    def note(self, events: int) -> None:
        """Remember *events*, and resume who waits for one of them."""
        if events & _TELLING:
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
            self._engine.leave(self._fd)
            self.socket.close()

    def release(self) -> socket.socket:
        """Give the socket away, to be served by somebody else."""
        self.closed = True
        self.want = 0
        self._engine.leave(self._fd)
        return self.socket


class _Bell:
    """Rung by who wakes a fiber from outside of a turn. Source: eventfd(2)."""

    __slots__ = ("fd",)

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """Let there be an event."""
        os.eventfd_write(self.fd, 1)

    def note(self, events: int) -> None:  # noqa: ARG002 -- as `Channel.note`
        """Be quiet again: the turn that it was rung for has begun."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """Close it."""
        os.close(self.fd)


@coroutine
def pause() -> Generator[None, None, None]:
    """Let the fiber wait; see the module for what resumes it."""
    yield


class Fiber:
    """One coroutine and its deadline.

    Attributes:
        deadline_s: Clock time at which `FiberTimeoutError` is raised in it, in seconds.
    """

    __slots__ = ("_bucket", "_coroutine", "_engine", "_pieces", "_send", "deadline_s")

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._coroutine: Coroutine[None, None, None] | None = None
        self._send: Callable[[None], object] | None = None
        self._bucket = math.inf  # the tick at which its deadline is looked at
        self._pieces = PIECES
        self.deadline_s = math.inf

    def begin(self, body: Coroutine[None, None, None]) -> None:
        """Run *body* until it first waits."""
        self._coroutine = body
        self._send = body.send
        self.resume()

    def resume(self) -> None:
        """Run on until the coroutine waits again, or ends."""
        if self._send is None:
            return  # it ended meanwhile
        self._pieces = PIECES
        try:
            self._send(None)
        except StopIteration:
            self._end()
        except Exception:
            self._end()
            log.exception("connection.crashed")

    def throw(self, error: Exception) -> None:
        """Raise *error* in the coroutine, where it waits."""
        if self._coroutine is None:
            return
        self._pieces = PIECES
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
        """Set the deadline, counted from this turn."""
        self.deadline_s = deadline_s = self._engine.now_s + timeout_s
        if deadline_s < self._bucket * TICK_S:
            self._bucket = self._engine.look_at(self, deadline_s, self._bucket)

    async def spend(self) -> None:
        """Count one piece of data; wait a turn if there were many."""
        self._pieces -= 1
        if self._pieces <= 0:
            self._engine.wake(self)
            await pause()

    def tick(self, now_s: float) -> float:
        """Look at the deadline; return the next tick to look at it, or infinity."""
        self._bucket = math.inf
        if self.deadline_s > now_s:
            if self.deadline_s < math.inf and self._send is not None:
                self._bucket = self._engine.look_at(self, self.deadline_s, math.inf)
            return self._bucket
        self.deadline_s = math.inf
        self.throw(FiberTimeoutError())
        return math.inf

    def _end(self) -> None:
        self._coroutine = self._send = None
        self._engine.forget(self, self._bucket)


class Engine:
    """Drives the fibers of one listening router.

    Attributes:
        now_s: Clock time at the beginning of this turn, in seconds.
        hurried: Says whether a Trio task is waited for, so that it must have its turn soon.
        rounds: Rounds of events so far, this one included.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.hurried: Callable[[], bool] = bool
        self._turned_s = -math.inf  # when the last turn ended
        self._began_s = -math.inf  # when a request began
        self._dense = False  # many events come, one by one
        self.rounds = 0
        self._epoll = select.epoll()
        self._bell = _Bell()
        self._epoll.register(self._bell.fd, READABLE)
        self._channels: dict[int, Channel] = {}
        # Whom to tell of events, by number.
        self._notes: dict[int, Callable[[int], None]] = {self._bell.fd: self._bell.note}
        self._fibers: set[Fiber] = set()
        self._ready: deque[Fiber] = deque()
        self._turning = False
        self._put_off: deque[tuple[Channel, int]] = deque()
        self._buckets: dict[float, set[Fiber]] = {}
        self._ticks: list[float] = []  # a heap of the keys of _buckets
        self._alarm = trio.CancelScope()
        self._tasks: trio.Nursery | None = None
        self._idle: trio.Event | None = None

    # -- for fibers and those who start them --------------------------------------------------

    def start(self, body: Callable[[Fiber], Coroutine[None, None, None]]) -> None:
        """Run ``body(fiber)`` as a fiber; it has run until its first wait when this returns."""
        if not self._turning:
            self.now_s = trio.current_time()
        fiber = Fiber(self)
        self._fibers.add(fiber)
        fiber.begin(body(fiber))

    def wake(self, fiber: Fiber) -> None:
        """Resume *fiber* soon; harmless if it ended."""
        self._ready.append(fiber)
        if not self._turning:
            self._bell.ring()

    def cut(self, fiber: Fiber, error: RouterError) -> None:
        """Let *fiber* end with *error*. Not for fibers to call; harmless if it ended."""
        assert not self._turning, "a fiber cannot cut another one"
        self.now_s = trio.current_time()
        fiber.throw(FiberCutError(error))

    async def in_trio(
        self, fiber: Fiber, function: Callable[[], Awaitable[T]], *, unless_gone: Channel
    ) -> T | None:
        """Run *function* in a Trio task, and let *fiber* wait for what it returns or raises.

        An exception in the fiber (e.g. its deadline) cancels the task.

        Returns:
            What it returned; None if the peer of *unless_gone* closed before, which
            cancels it.
        """
        assert self._tasks is not None, "the engine is not running"
        scope = trio.CancelScope()
        results: list[T] = []
        errors: list[Exception] = []

        async def task() -> None:
            with scope:
                try:
                    results.append(await function())
                except Exception as exc:  # noqa: BLE001 -- it is raised in the fiber
                    errors.append(exc)
            self.wake(fiber)

        self._tasks.start_soon(task)
        unless_gone.want = GONE
        try:
            while not (results or errors or unless_gone.gone):
                await pause()
        finally:
            unless_gone.want = 0
            scope.cancel()
        if errors:
            raise errors[0]
        return results[0] if results else None

    # -- for channels and fibers ----------------------------------------------------------------

    def put_off(self, channel: Channel, happened: int) -> None:
        """Let *channel* note what *happened* to it at the end of this round."""
        self._put_off.append((channel, happened))

    def enter(self, fd: int, channel: Channel) -> None:
        """Watch *fd* for *channel*."""
        self._epoll.register(fd, _EVERYTHING)
        self._channels[fd] = channel
        self._notes[fd] = channel.note

    def leave(self, fd: int) -> None:
        """Watch *fd*, which is still open, no more."""
        del self._channels[fd], self._notes[fd]
        # Closing alone would not do while a child that is about to exec has a copy: the
        # old socket's events would reach whoever gets the number. Source: epoll(7), Q6.
        self._epoll.unregister(fd)

    def look_at(self, fiber: Fiber, deadline_s: float, bucket: float) -> float:
        """Move *fiber* to the bucket of *deadline_s*, out of *bucket*; return the new one."""
        if bucket != math.inf:
            self._drop(fiber, bucket)
        tick = math.ceil(deadline_s / TICK_S)
        fibers = self._buckets.get(tick)
        if fibers is None:
            fibers = self._buckets[tick] = set()
            heapq.heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._alarm.deadline = tick * TICK_S
        fibers.add(fiber)
        return tick

    def forget(self, fiber: Fiber, bucket: float) -> None:
        """Drop a *fiber* that has ended."""
        self._fibers.discard(fiber)
        if bucket != math.inf:
            self._drop(fiber, bucket)
        if self._idle is not None and not self._fibers:
            self._idle.set()

    def _drop(self, fiber: Fiber, bucket: float) -> None:
        fibers = self._buckets.get(bucket)
        if fibers is not None:  # an emptied bucket stays until its tick, for whoever is next
            fibers.discard(fiber)
            if not fibers:
                fibers.clear()  # gives its memory back, which removing alone does not

    # -- the two tasks --------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drive fibers until cancelled; all have ended when this returns.

        Fibers that are left then are told by `FiberCutError`, and get `ENDING_S` to end.
        """
        try:
            async with trio.open_nursery() as self._tasks:
                self._tasks.start_soon(self._keep_time)
                task_status.started()
                try:
                    while True:
                        await trio.lowlevel.wait_readable(self._epoll)
                        self._turn()
                finally:
                    await self._cut()
        finally:
            for channel in list(self._channels.values()):
                channel.close()
            self._epoll.close()
            self._bell.close()

    async def wait_idle(self) -> None:
        """Return when there is no fiber."""
        while self._fibers:
            self._idle = trio.Event()
            await self._idle.wait()

    def _turn(self) -> None:
        """Drive fibers as long as something happens, but no longer than `TURN_S`."""
        self._turning = True
        self.now_s = now_s = begun_s = trio.current_time()
        # Where much happens, the next event is about to come. Waiting here for it is cheaper
        # than going back to Trio, as long as nobody there is in a hurry.
        linger = now_s - self._turned_s < TURN_S and not self.hurried()
        ready, put_off, taken = self._ready, self._put_off, 0
        while True:
            self.rounds += 1
            timeout_s = LINGER_S if linger and not ready and not put_off else 0.0
            if timeout_s and self._dense and now_s - self._began_s > CALM_S:
                time.sleep(GATHER_S)
            happened = self._take(timeout_s)
            taken += happened
            if put_off:
                self._began_s = now_s
                self._begin()
            elif not happened and not ready:
                break
            for _ in range(len(ready)):
                ready.popleft().resume()
            now_s = trio.current_time()
            if now_s - begun_s > TURN_S:
                break
        self._dense = linger and taken > DENSE_PER_S * (now_s - begun_s)
        self._turned_s = now_s
        self._turning = False
        if ready or put_off:
            self._bell.ring()

    def _take(self, timeout_s: float) -> int:
        """Take a round of events, waiting for the first; return how many there were.

        All numbers are looked up before anybody runs: a number that is closed meanwhile may
        be that of a new connection, which must not get the old one's events.
        """
        notes = self._notes
        events = [(notes[fd], happened) for fd, happened in self._epoll.poll(timeout_s, EVENTS)]
        for note, happened in events:
            note(happened)
        return len(events)

    def _begin(self) -> None:
        """Let some of the requests begin that were put off."""
        put_off = self._put_off
        for _ in range(min(BEGINNINGS, len(put_off))):
            channel, happened = put_off.popleft()
            Channel.note(channel, happened)

    async def _keep_time(self) -> None:
        while True:
            next_s = self._ticks[0] * TICK_S if self._ticks else math.inf
            with trio.CancelScope(deadline=next_s) as self._alarm:
                await trio.sleep_forever()
            self.now_s = now_s = trio.current_time()
            while self._ticks and self._ticks[0] * TICK_S <= now_s:
                for fiber in self._buckets.pop(heapq.heappop(self._ticks)):
                    fiber.tick(now_s)

    async def _cut(self) -> None:
        """Tell every fiber that it ends, and drive what it still has to send."""
        self.now_s = trio.current_time()
        for fiber in list(self._fibers):
            fiber.throw(FiberCutError(refusals.cut_by_shutdown()))
        with trio.CancelScope(shield=True, deadline=trio.current_time() + ENDING_S):
            while self._fibers:
                await trio.lowlevel.wait_readable(self._epoll)
                self._turn()
        for fiber in list(self._fibers):
            fiber.close()
        self._bell.note(READABLE)
