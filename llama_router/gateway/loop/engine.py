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
  assignment. The same task notices when the process was held up.

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
import resource
import select
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Final, Protocol, TypeVar

import structlog
import trio

from ...core.requests.body_budget import BodyBudget
from ...core.scheduling import refusals
from ...errors.base import RouterError
from .channel import EVERYTHING, GONE, READABLE, Channel
from .fiber import ENDING_S, TICK_S, Fiber, FiberCutError, pause

log = structlog.get_logger()

T = TypeVar("T")

#: How long fibers are driven before Trio's tasks have their turn, in seconds.
TURN_S: Final = 0.002

#: The same while Trio's tasks are in a hurry: what they do takes them several turns.
SHORT_TURN_S: Final = 0.0005

#: For how long they are, once they have something to do, in seconds.
HURRY_S: Final = 0.02

#: How long a turn waits for the next event where many come, in seconds; what epoll can.
LINGER_S: Final = 0.001

#: From so many events per second on, they are gathered for so many seconds before they are
#: handled: a network card does the same with its interrupts. Many streams then cost a fifth
#: less, and each chunk comes that much later. A token takes fifteen times as long and more.
GATHER_S: Final = {4000: 0.0004, 10_000: 0.0008, 20_000: 0.0012}

#: For so long no request may have begun, in seconds: who asks is not made to wait.
CALM_S: Final = 0.005

#: Requests that begin in one round. What has begun goes on first: when many arrive at once,
#: the first of them have their answers before the last ones are read.
BEGINNINGS: Final = 32

#: From so late on, in seconds, a look at the deadlines says that the process was held up (a
#: stopped machine, a stolen processor). That time does not count: nobody could be active in
#: it, neither the router nor, maybe, its backends.
HELD_UP_S: Final = 0.02

#: While there are deadlines, time is looked at so often, in seconds: for how long the process
#: was held up is known no better than that.
BEAT_S: Final = 0.5

#: Events taken in one round.
EVENTS: Final = 128

#: How many of the descriptors that this process may have are no connection's: with none left,
#: no model could be started.
RESERVED: Final = 64


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


class Sender(Protocol):
    """Somebody who sends at the end of a round."""

    def send(self, data: bytes) -> None:
        """Send *data* now, if that still makes sense."""


class Engine:
    """Drives the fibers of one listening router.

    Attributes:
        clock: Returns the clock time, in seconds: Trio's own, with nothing around it.
        now_s: Clock time at the beginning of this turn, in seconds.
        rounds: Rounds of events so far, this one included.
        sends: Who is to send what as soon as all events of this round are noted: first all
            is received and then all is sent. Whoever reads on another processor is woken
            once for several chunks then, and each of the two paths through the kernel stays
            in this processor's caches. Many streams cost a tenth less.
        bodies: The memory that the bodies of requests may take together.
    """

    def __init__(self, bodies: BodyBudget | None = None) -> None:
        self.bodies = BodyBudget() if bodies is None else bodies
        self.clock: Callable[[], float] = trio.current_time  # until `run` knows better
        self.now_s = 0.0
        self._hurried_until_s = -math.inf
        self._turned_s = -math.inf  # when the last turn ended
        self._began_s = -math.inf  # when a request began
        self._gather_s = 0.0  # how long to gather events, as many come one by one
        self.rounds = 0
        self.sends: list[tuple[Sender, bytes]] = []
        self._epoll = select.epoll()
        self._bell = _Bell()
        self._epoll.register(self._bell.fd, READABLE)
        self._channels: dict[int, Channel] = {}
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = sys.maxsize if limit == resource.RLIM_INFINITY else limit
        self._most_channels = max(limit - RESERVED, limit // 2)
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
            self.now_s = self.clock()
        fiber = Fiber(self)
        self._fibers.add(fiber)
        fiber.begin(body(fiber))

    def hurry(self) -> None:
        """Leave more time to Trio's tasks for a moment: somebody waits for one of them."""
        self._hurried_until_s = self.clock() + HURRY_S

    def wake(self, fiber: Fiber) -> None:
        """Resume *fiber* soon; harmless if it ended."""
        self._ready.append(fiber)
        if not self._turning:
            self._bell.ring()

    def cut(self, fiber: Fiber, error: RouterError) -> None:
        """Let *fiber* end with *error*. Not for fibers to call; harmless if it ended."""
        assert not self._turning, "a fiber cannot cut another one"
        self.now_s = self.clock()
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
        self.hurry()
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
        self._epoll.register(fd, EVERYTHING)
        self._channels[fd] = channel
        self._notes[fd] = channel.note

    def tell(self, channel: Channel, note: Callable[[int], None]) -> None:
        """Let *note* be told of events of *channel*, from the next round on."""
        if not channel.closed:
            self._notes[channel.fd] = note

    def has_room(self, share: float = 1.0, *, besides: int = 0) -> bool:
        """Say whether less than that *share* of all connections that there may be are open.

        Args:
            share: From 0 to 1.
            besides: How many are open that are no channels.
        """
        return len(self._channels) + besides < self._most_channels * share

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
            beat_s = min(tick * TICK_S, self.now_s + BEAT_S)
            self._alarm.deadline = min(self._alarm.deadline, beat_s)
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
        self.clock = trio.lowlevel.current_clock().current_time
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
        """Drive fibers as long as something happens, but no longer than a turn."""
        self._turning = True
        self.now_s = now_s = begun_s = self.clock()
        # Where much happens, the next event is about to come. Waiting here for it is cheaper
        # than going back to Trio, as long as nobody there is in a hurry.
        hurried = now_s < self._hurried_until_s
        turn_s = SHORT_TURN_S if hurried else TURN_S
        linger = now_s - self._turned_s < TURN_S and not hurried
        ready, put_off, taken = self._ready, self._put_off, 0
        while True:
            self.rounds += 1
            timeout_s = LINGER_S if linger and not ready and not put_off else 0.0
            if timeout_s and self._gather_s and now_s - self._began_s > CALM_S:
                time.sleep(self._gather_s)
            happened = self._take(timeout_s)
            taken += happened
            if put_off:
                self._began_s = now_s
                self._begin()
            elif not happened and not ready:
                break
            for left in range(len(ready) - 1, -1, -1):
                ready.popleft().resume()
                if left and self.clock() - begun_s > turn_s:
                    break  # who is left goes on after everybody's events
            now_s = self.clock()
            if now_s - begun_s > turn_s:
                break
        passed_s = now_s - begun_s if linger else math.inf
        gather = (each_s for per_s, each_s in GATHER_S.items() if taken > per_s * passed_s)
        self._gather_s = max(gather, default=0.0)
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
        sends = self.sends
        if sends:
            for sender, data in sends:
                sender.send(data)
            sends.clear()
        return len(events)

    def _begin(self) -> None:
        """Let some of the requests begin that were put off."""
        put_off = self._put_off
        for _ in range(min(BEGINNINGS, len(put_off))):
            channel, happened = put_off.popleft()
            Channel.note(channel, happened)

    async def _keep_time(self) -> None:
        while True:
            next_s = math.inf
            if self._ticks:
                next_s = min(self._ticks[0] * TICK_S, self.clock() + BEAT_S)
            with trio.CancelScope(deadline=next_s) as self._alarm:
                await trio.sleep_forever()
            self.now_s = now_s = self.clock()
            late_s = now_s - self._alarm.deadline
            if late_s > HELD_UP_S:
                for fiber in self._fibers:
                    fiber.deadline_s += late_s + TICK_S
            for fiber in self._due(now_s):
                fiber.tick(now_s)

    def _due(self, now_s: float) -> Iterator[Fiber]:
        """Take out the fibers whose deadlines are to be looked at."""
        while self._ticks and self._ticks[0] * TICK_S <= now_s:
            yield from self._buckets.pop(heapq.heappop(self._ticks))

    async def _cut(self) -> None:
        """Tell every fiber that it ends, and drive what it still has to send."""
        self.now_s = self.clock()
        for fiber in list(self._fibers):
            fiber.throw(FiberCutError(refusals.cut_by_shutdown()))
        with trio.CancelScope(shield=True, deadline=self.clock() + ENDING_S):
            while self._fibers:
                await trio.lowlevel.wait_readable(self._epoll)
                self._turn()
        for fiber in list(self._fibers):
            fiber.close()
        self._bell.note(READABLE)
