"""The data plane's event loop: runs all connections as fibers in one Trio task.

A Trio task pays about 10 us of CPU for each wait on a socket (registering it in Trio's
epoll, being scheduled, being unregistered); moving a chunk of a stream takes two system
calls and less than that. So a connection is not a Trio task but a *fiber*: an ordinary
``async def`` coroutine that this module resumes directly from an epoll event, for less
than 1 us.

How it works
============

* Every socket is registered in the loop's epoll once, edge-triggered, for all events, and
  never modified after that: no ``epoll_ctl`` per wait. Its `Channel` records the events and
  resumes the fiber that is interested in one of them.
* `EventLoop.run` is one Trio task. It waits until the epoll itself is readable (an epoll
  can be polled like a socket), then runs a *slice*: some *iterations*, each of which polls
  once and calls the handlers of all events, until nothing is ready or the slice is over.
  Then Trio's other tasks run.
* A fiber waits by `pause`. It is resumed by an event of one of its channels, by
  `EventLoop.wake`, or by an exception: `FiberTimeoutError` when its deadline has passed,
  `FiberCancelledError` when the loop or this one fiber is cancelled.
* Deadlines are checked by a second Trio task, in buckets of `TICK_S`, so that extending one
  is an assignment. The same task detects that the process was suspended.

Rules for fibers
================

* A resume may be spurious: check the flags, and pause again.
* A fiber awaits nothing that waits in Trio and enters no cancel scope: these belong to
  tasks. `EventLoop.run_in_trio` runs such a call in a task. Calling plain functions
  (``Event.set``, ``CancelScope.cancel``, ``start_soon``) is fine.
* A fiber never runs for long: code that moves much data counts it with
  `Fiber.yield_if_over_budget`.

A crash of one fiber costs one connection. The loop owns every fiber: when `run` returns,
all of them have ended.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import resource
import select
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Final, Protocol, TypeVar

import trio

from ...core.requests.body_budget import BodyBudget
from ...core.scheduling import refusals
from ...errors.base import RouterError
from .fiber import (
    ALL_EVENTS,
    ENDING_S,
    PEER_CLOSED,
    READABLE,
    TICK_S,
    Channel,
    Fiber,
    FiberCancelledError,
)
from .pausing import pause

T = TypeVar("T")

#: Longest time for which fibers run before Trio's other tasks do, in seconds.
SLICE_S: Final = 0.002

#: The same while Trio's tasks have priority: their work needs several slices.
SHORT_SLICE_S: Final = 0.0005

#: Duration of that priority after `EventLoop.prioritize_trio`, in seconds.
TRIO_PRIORITY_S: Final = 0.02

#: Longest wait for the next event inside a slice under load, in seconds: epoll's resolution.
POLL_TIMEOUT_S: Final = 0.001

#: Requests that start in one iteration. Requests in progress continue first: when many arrive
#: at once, the first of them are answered before the last ones are read.
MAX_NEW_REQUESTS: Final = 32

#: A deadline check that is late by more than this many seconds means that the process was
#: suspended (a stopped machine, a stolen processor). That time is added to all deadlines:
#: neither the router nor perhaps its backends could be active in it.
SUSPENSION_S: Final = 0.02

#: Longest interval between two checks while there are deadlines, in seconds: the duration of a
#: suspension is known to this precision.
TIMER_CHECK_S: Final = 0.5

#: Most events of one poll.
MAX_EVENTS: Final = 128

#: Descriptors of this process that are kept free of connections: without one, no model could
#: be started.
RESERVED_DESCRIPTORS: Final = 64


class Waker:
    """An eventfd in the loop's epoll: ends the wait for it outside of a slice.

    Source: eventfd(2).
    """

    __slots__ = ("fd",)

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def wake(self) -> None:
        """Make the eventfd readable."""
        os.eventfd_write(self.fd, 1)

    def on_events(self, events: int) -> None:  # noqa: ARG002 -- the signature of all handlers
        """Drain the eventfd."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """Close the eventfd."""
        os.close(self.fd)


class Sender(Protocol):
    """A writer that is flushed at the end of an iteration."""

    def send_now(self, data: bytes) -> None:
        """Send *data* now, unless its connection has ended meanwhile."""


class Work(Protocol):
    """What a fiber does at present, and may have done by the time that it is cancelled.

    Attributes:
        over: It has ended.
    """

    over: bool


class EventLoop:
    """Runs the fibers of one listening router.

    Attributes:
        clock: Returns the clock time in seconds: Trio's own function, without a wrapper.
        now_s: Clock time at the start of this slice, in seconds.
        iterations: Iterations so far, this one included.
        pending_sends: Writes for the end of this iteration: first all sockets are read, then
            all are written. A client that reads many streams on another processor is woken
            once for several chunks then, and each of the two paths through the kernel stays
            in this processor's caches. Many streams cost a tenth less.
        crowded: Several events came at once, so that small requests and complete responses are
            sent in this way, too. A single one is sent at once.
        bodies: The memory budget of all request bodies together.
    """

    def __init__(self, bodies: BodyBudget | None = None) -> None:
        self.bodies = BodyBudget() if bodies is None else bodies
        self.clock: Callable[[], float] = trio.current_time  # `run` replaces it
        self.now_s = 0.0
        self._trio_priority_until_s = -math.inf
        self._slice_ended_s = -math.inf
        self.iterations = 0
        self.pending_sends: list[tuple[Sender, bytes]] = []
        self.crowded = False
        self._epoll = select.epoll()
        self._waker = Waker()
        self._epoll.register(self._waker.fd, READABLE)
        self._channels: dict[int, Channel] = {}
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = sys.maxsize if limit == resource.RLIM_INFINITY else limit
        self._most_channels = max(limit - RESERVED_DESCRIPTORS, limit // 2)
        # The handlers of events, by descriptor.
        self._handlers: dict[int, Callable[[int], None]] = {self._waker.fd: self._waker.on_events}
        self._fibers: set[Fiber] = set()
        self._ready: deque[Fiber] = deque()
        self._cancelled: deque[tuple[Fiber, RouterError, Work | None]] = deque()
        self._in_slice = False
        self._deferred: deque[tuple[Channel, int]] = deque()
        self._buckets: dict[float, set[Fiber]] = {}
        self._ticks: list[float] = []  # a heap of the keys of _buckets
        self._timer = trio.CancelScope()
        self._tasks: trio.Nursery | None = None
        self._idle: trio.Event | None = None

    # -- for fibers and the code that starts them ---------------------------------------------

    def start(self, body: Callable[[Fiber], Coroutine[None, None, None]]) -> None:
        """Run ``body(fiber)`` as a fiber; returns at its first wait."""
        if not self._in_slice:
            self.now_s = self.clock()
        fiber = Fiber(self)
        self._fibers.add(fiber)
        fiber.start(body(fiber))

    def prioritize_trio(self) -> None:
        """Give Trio's tasks more time for `TRIO_PRIORITY_S`: a request waits for one of them."""
        self._trio_priority_until_s = self.clock() + TRIO_PRIORITY_S

    def wake(self, fiber: Fiber) -> None:
        """Resume *fiber* in the next iteration; harmless if it ended."""
        self._ready.append(fiber)
        if not self._in_slice:
            self._waker.wake()

    def cancel(self, fiber: Fiber, error: RouterError, *, work: Work | None = None) -> None:
        """End *fiber* with *error* in the next iteration; harmless if it ended.

        Never at once: the caller may be this fiber, or in the middle of a change of state.

        Args:
            fiber: The fiber.
            error: The reason, for the client.
            work: What is to be ended, if the fiber does other things, too: once it is over,
                nothing happens.
        """
        self._cancelled.append((fiber, error, work))
        if not self._in_slice:
            self._waker.wake()

    async def run_in_trio(
        self, fiber: Fiber, function: Callable[[], Awaitable[T]], *, unless_closed: Channel
    ) -> T | None:
        """Run *function* in a Trio task while *fiber* waits; return or raise what it does.

        An exception in the fiber (its deadline, for example) cancels the task.

        Returns:
            The result; None if the peer of *unless_closed* closed first, which cancels the
            task.
        """
        assert self._tasks is not None, "the event loop is not running"
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
        self.prioritize_trio()
        unless_closed.interest = PEER_CLOSED
        try:
            while not (results or errors or unless_closed.peer_closed):
                await pause()
        finally:
            unless_closed.interest = 0
            scope.cancel()
        if errors:
            raise errors[0]
        return results[0] if results else None

    # -- for channels and fibers ----------------------------------------------------------------

    def defer(self, channel: Channel, events: int) -> None:
        """Handle *events* of *channel* at the end of this iteration or in a later one."""
        self._deferred.append((channel, events))

    def register(self, fd: int, channel: Channel) -> None:
        """Add *fd* to the epoll, with *channel* as its handler."""
        self._epoll.register(fd, ALL_EVENTS)
        self._channels[fd] = channel
        self._handlers[fd] = channel.on_events

    def set_handler(self, channel: Channel, handler: Callable[[int], None]) -> None:
        """Call *handler* for events of *channel*, from the next iteration on."""
        if not channel.closed:
            self._handlers[channel.fd] = handler

    def has_room(self, share: float = 1.0, *, others: int = 0) -> bool:
        """Return whether fewer connections are open than *share* of the allowed number.

        Args:
            share: From 0 to 1.
            others: Number of open connections that are no channels.
        """
        return len(self._channels) + others < self._most_channels * share

    def unregister(self, fd: int) -> None:
        """Remove *fd*, which is still open, from the epoll."""
        del self._channels[fd], self._handlers[fd]
        # Closing alone is not enough while a child that is about to exec has a copy: events
        # of the old socket would reach the next owner of the number. Source: epoll(7), Q6.
        self._epoll.unregister(fd)

    def schedule_deadline(self, fiber: Fiber, deadline_s: float, bucket: float) -> float:
        """Move *fiber* from *bucket* to the one of *deadline_s*; return the new bucket."""
        if bucket != math.inf:
            self._drop_from_bucket(fiber, bucket)
        tick = math.ceil(deadline_s / TICK_S)
        fibers = self._buckets.get(tick)
        if fibers is None:
            fibers = self._buckets[tick] = set()
            heapq.heappush(self._ticks, tick)
            check_s = min(tick * TICK_S, self.now_s + TIMER_CHECK_S)
            self._timer.deadline = min(self._timer.deadline, check_s)
        fibers.add(fiber)
        return tick

    def discard(self, fiber: Fiber, bucket: float) -> None:
        """Remove a *fiber* that has ended."""
        self._fibers.discard(fiber)
        if bucket != math.inf:
            self._drop_from_bucket(fiber, bucket)
        if self._idle is not None and not self._fibers:
            self._idle.set()

    def _drop_from_bucket(self, fiber: Fiber, bucket: float) -> None:
        fibers = self._buckets.get(bucket)
        if fibers is not None:  # an emptied bucket stays until its tick, to be used again
            fibers.discard(fiber)
            if not fibers:
                fibers.clear()  # frees its memory, which removing alone does not

    # -- the two tasks --------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run fibers until cancelled; all have ended when this returns.

        The remaining fibers then get a `FiberCancelledError`, and `ENDING_S` to end.
        """
        self.clock = trio.lowlevel.current_clock().current_time
        try:
            async with trio.open_nursery() as self._tasks:
                self._tasks.start_soon(self._run_timers)
                task_status.started()
                try:
                    while True:
                        await trio.lowlevel.wait_readable(self._epoll)
                        self._run_slice()
                finally:
                    await self._cancel_all()
        finally:
            for channel in list(self._channels.values()):
                channel.close()
            self._epoll.close()
            self._waker.close()

    async def wait_idle(self) -> None:
        """Return when there is no fiber."""
        while self._fibers:
            self._idle = trio.Event()
            await self._idle.wait()

    def _run_slice(self) -> None:
        """Run iterations until nothing is ready, for a slice at most."""
        self._in_slice = True
        self.now_s = now_s = started_s = self.clock()
        # Under load the next event is due soon. Waiting for it here is cheaper than returning
        # to Trio, unless Trio's tasks have priority.
        trio_first = now_s < self._trio_priority_until_s
        slice_s = SHORT_SLICE_S if trio_first else SLICE_S
        under_load = now_s - self._slice_ended_s < SLICE_S and not trio_first
        ready, deferred = self._ready, self._deferred
        while True:
            self.iterations += 1
            timeout_s = POLL_TIMEOUT_S if under_load and not ready and not deferred else 0.0
            events = self._poll_once(timeout_s)
            if deferred:
                self._run_deferred()
            elif not (events or ready or self._run_cancelled()):
                break
            for left in range(len(ready) - 1, -1, -1):
                ready.popleft().resume()
                if left and self.clock() - started_s > slice_s:
                    break  # the others follow after the next events of all channels
            if self.pending_sends:
                self._send_pending()
            self.crowded = False
            now_s = self.clock()
            if now_s - started_s > slice_s:
                break
        self._slice_ended_s = now_s
        self._in_slice = False
        if self._run_cancelled() or ready or deferred:
            self._waker.wake()

    def _poll_once(self, timeout_s: float) -> int:
        """Poll, call the handlers of all events, then send; return the number of events.

        All handlers are looked up before the first is called: the number of a descriptor that
        one of them closes may be that of a new connection, which must not get these events.
        """
        handlers = self._handlers
        calls = [(handlers[fd], events) for fd, events in self._epoll.poll(timeout_s, MAX_EVENTS)]
        self.crowded = len(calls) > 1
        for handler, events in calls:
            handler(events)
        if self.pending_sends:
            self._send_pending()
        return len(calls)

    def _send_pending(self) -> None:
        """Do the pending sends; a fiber that one of them resumes may add others."""
        sends = self.pending_sends
        for sender, data in sends:
            sender.send_now(data)
        sends.clear()

    def _run_cancelled(self) -> bool:
        """End the cancelled fibers; return whether there was any."""
        if not self._cancelled:
            return False
        while self._cancelled:
            fiber, error, work = self._cancelled.popleft()
            if work is None or not work.over:
                fiber.throw(FiberCancelledError(error))
        return True

    def _run_deferred(self) -> None:
        """Handle some of the deferred events: the starts of requests."""
        deferred = self._deferred
        self.crowded |= len(deferred) > 1
        for _ in range(min(MAX_NEW_REQUESTS, len(deferred))):
            channel, events = deferred.popleft()
            Channel.on_events(channel, events)

    async def _run_timers(self) -> None:
        while True:
            next_s = math.inf
            if self._ticks:
                next_s = min(self._ticks[0] * TICK_S, self.clock() + TIMER_CHECK_S)
            with trio.CancelScope(deadline=next_s) as self._timer:
                await trio.sleep_forever()
            self.now_s = now_s = self.clock()
            late_s = now_s - self._timer.deadline
            if late_s > SUSPENSION_S:
                for fiber in self._fibers:
                    fiber.deadline_s += late_s + TICK_S
            for fiber in self._due(now_s):
                fiber.check_deadline(now_s)

    def _due(self, now_s: float) -> Iterator[Fiber]:
        """Remove and yield the fibers with a deadline that is to be checked."""
        while self._ticks and self._ticks[0] * TICK_S <= now_s:
            yield from self._buckets.pop(heapq.heappop(self._ticks))

    async def _cancel_all(self) -> None:
        """Cancel every fiber, and run them while they send their last bytes."""
        self.now_s = self.clock()
        for fiber in list(self._fibers):
            fiber.throw(FiberCancelledError(refusals.cut_by_shutdown()))
        with trio.CancelScope(shield=True, deadline=self.clock() + ENDING_S):
            while self._fibers:
                await trio.lowlevel.wait_readable(self._epoll)
                self._run_slice()
        for fiber in list(self._fibers):
            fiber.close()
        self._waker.on_events(READABLE)
