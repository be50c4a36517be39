"""Notifications to systemd: starting, ready, reloading, status, watchdog, stopping."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Self

import attrs
import trio

from ..event_feed import EventFeed
from ..logs.events import log
from .notify import Notifier, watchdog_s

#: Seconds between two extensions of systemd's start timeout: a startup model may take longer
#: than any timeout that a unit could set.
EXTEND_EVERY_S: Final = 5.0

#: Seconds by which one request extends the timeout.
EXTEND_BY_S: Final = 30.0

#: Time between the end of the last backend and that of the process, in seconds.
MARGIN_S: Final = 10.0


@attrs.define(eq=False)
class ServiceManager:
    """Sends the state of the router to systemd, if systemd started it.

    The plain methods never block: they queue messages, and `run` sends them in this order.

    Attributes:
        notifier: Sends the messages; None if the router is no service.
        watchdog_s: The watchdog's interval, in seconds; None if it is off.
    """

    notifier: Notifier | None = None
    watchdog_s: float | None = None
    _messages: deque[tuple[str, ...]] = attrs.field(factory=deque[tuple[str, ...]], init=False)
    _not_empty: trio.Event = attrs.field(factory=trio.Event, init=False)
    _is_ready: trio.Event = attrs.field(factory=trio.Event, init=False)
    _reloads: int = attrs.field(default=0, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _unreachable: bool = attrs.field(default=False, init=False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the manager that the environment names. An invalid variable is logged."""
        try:
            return cls(Notifier.from_environ(environ), watchdog_s(environ, os.getpid()))
        except ValueError as exc:
            log.warning("systemd.unreachable", reason=str(exc))
            return cls()

    def starting(self, status: str) -> None:
        """Report the reason why the router is not ready yet."""
        self._enqueue(f"STATUS={status}")

    def ready(self) -> None:
        """Report that connections are accepted and the startup model is loaded."""
        self._is_ready.set()
        self._enqueue("READY=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Report a reload for the length of the block; nested blocks count as one."""
        self._reloads += 1
        if self._reloads == 1:
            usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._enqueue("RELOADING=1", f"MONOTONIC_USEC={usec}")
        try:
            yield
        finally:
            self._reloads -= 1
            if self._reloads == 0 and not self._stopping:
                self._enqueue("READY=1")

    async def run(
        self,
        feed: EventFeed,
        status: Callable[[], str],
        stop: trio.Event,
        longest_end_s: Callable[[], float],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Send messages until cancelled; return at once if the router is no service.

        Args:
            feed: Its events may change *status*.
            status: Returns one line about the router.
            stop: Set when the shutdown begins.
            longest_end_s: Returns an upper bound of the shutdown, in seconds.
            task_status: Reports at once.
        """
        task_status.started()
        if self.notifier is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_all, self.notifier)
            nursery.start_soon(self._extend_start)
            nursery.start_soon(self._report, feed, status)
            nursery.start_soon(self._report_stopping, stop, longest_end_s)
            if self.watchdog_s is not None:
                nursery.start_soon(self._feed_watchdog, self.watchdog_s)

    def _enqueue(self, *fields: str) -> None:
        if self.notifier is not None:
            self._messages.append(fields)
            self._not_empty.set()

    async def _send_all(self, notifier: Notifier) -> None:
        while True:
            await self._not_empty.wait()
            self._not_empty = trio.Event()
            while self._messages:
                fields = self._messages.popleft()
                try:
                    await notifier.send(*fields)
                except OSError as exc:
                    if not self._unreachable:  # once, not with every message
                        log.warning("systemd.unreachable", reason=exc.strerror or str(exc))
                    self._unreachable = True
                else:
                    self._unreachable = False

    async def _extend_start(self) -> None:
        while not self._is_ready.is_set():
            self._enqueue(f"EXTEND_TIMEOUT_USEC={round(EXTEND_BY_S * 1e6)}")
            with trio.move_on_after(EXTEND_EVERY_S):
                await self._is_ready.wait()

    async def _report(self, feed: EventFeed, status: Callable[[], str]) -> None:
        await self._is_ready.wait()
        last_status, seen = None, -1
        while not self._stopping:
            seen = feed.last
            if (line := status()) != last_status:
                last_status = line
                self._enqueue(f"STATUS={line}")
            await feed.wait_after(seen)

    async def _report_stopping(self, stop: trio.Event, longest_end_s: Callable[[], float]) -> None:
        await stop.wait()
        self._stopping = True
        usec = round((longest_end_s() + MARGIN_S) * 1e6)
        self._enqueue("STOPPING=1", f"EXTEND_TIMEOUT_USEC={usec}", "STATUS=stopping")

    async def _feed_watchdog(self, limit_s: float) -> None:
        """Send keepalives, twice as often as required.

        This task runs in the event loop that serves all requests: if that is blocked for too
        long, no keepalive is sent, and systemd restarts the router.
        """
        while True:
            self._enqueue("WATCHDOG=1")
            await trio.sleep(limit_s / 2)
