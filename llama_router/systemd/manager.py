"""Keeps systemd informed: starting, ready, reloading, what runs, alive, stopping."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Self

import attrs
import structlog
import trio

from ..event_feed import EventFeed
from .notify import Notifier, watchdog_s

log = structlog.get_logger()

#: While the router starts, systemd is asked this often, in seconds, for more time: a
#: startup model may take longer than any limit that a unit can know.
EXTEND_EVERY_S: Final = 5.0

#: How much more it is asked for, in seconds.
EXTEND_BY_S: Final = 30.0

#: Time between the end of the last backend and that of the process, in seconds.
MARGIN_S: Final = 10.0


@attrs.define(eq=False)
class ServiceManager:
    """Who started this router and wants to know how it is; perhaps nobody.

    Its plain methods never block: they put messages into a queue, and `run` sends them
    in this order.

    Attributes:
        notifier: Where messages go; None if nobody wants any.
        watchdog_s: How often there must be a sign of life, in seconds; None if not at all.
    """

    notifier: Notifier | None = None
    watchdog_s: float | None = None
    _messages: deque[tuple[str, ...]] = attrs.field(factory=deque[tuple[str, ...]], init=False)
    _more: trio.Event = attrs.field(factory=trio.Event, init=False)
    _is_ready: trio.Event = attrs.field(factory=trio.Event, init=False)
    _reloads: int = attrs.field(default=0, init=False)
    _stopping: bool = attrs.field(default=False, init=False)
    _unreachable: bool = attrs.field(default=False, init=False)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return what the environment of this process says. What makes no sense is logged."""
        try:
            return cls(Notifier.from_environ(environ), watchdog_s(environ, os.getpid()))
        except ValueError as exc:
            log.warning("systemd.unreachable", reason=str(exc))
            return cls()

    def starting(self, what: str) -> None:
        """Say what keeps the router from being ready."""
        self._tell(f"STATUS={what}")

    def ready(self) -> None:
        """Say that connections are accepted and the startup model is loaded."""
        self._is_ready.set()
        self._tell("READY=1")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Let systemd wait meanwhile; blocks inside one another count as one."""
        self._reloads += 1
        if self._reloads == 1:
            usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
            self._tell("RELOADING=1", f"MONOTONIC_USEC={usec}")
        try:
            yield
        finally:
            self._reloads -= 1
            if self._reloads == 0 and not self._stopping:
                self._tell("READY=1")

    async def run(
        self,
        feed: EventFeed,
        status: Callable[[], str],
        stop: trio.Event,
        longest_end_s: Callable[[], float],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Send what there is to say, until cancelled; return at once if nobody listens.

        Args:
            feed: Each event in it may have changed *status*.
            status: Returns one line about the router.
            stop: Set when the end has begun.
            longest_end_s: Returns how long that may take, in seconds.
            task_status: Reports at once.
        """
        task_status.started()
        if self.notifier is None:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_all, self.notifier)
            nursery.start_soon(self._ask_for_time)
            nursery.start_soon(self._report, feed, status)
            nursery.start_soon(self._say_stopping, stop, longest_end_s)
            if self.watchdog_s is not None:
                nursery.start_soon(self._feed_watchdog, self.watchdog_s)

    def _tell(self, *fields: str) -> None:
        if self.notifier is not None:
            self._messages.append(fields)
            self._more.set()

    async def _send_all(self, notifier: Notifier) -> None:
        while True:
            await self._more.wait()
            self._more = trio.Event()
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

    async def _ask_for_time(self) -> None:
        while not self._is_ready.is_set():
            self._tell(f"EXTEND_TIMEOUT_USEC={round(EXTEND_BY_S * 1e6)}")
            with trio.move_on_after(EXTEND_EVERY_S):
                await self._is_ready.wait()

    async def _report(self, feed: EventFeed, status: Callable[[], str]) -> None:
        await self._is_ready.wait()
        last_status, seen = None, -1
        while not self._stopping:
            seen = feed.last
            if (line := status()) != last_status:
                last_status = line
                self._tell(f"STATUS={line}")
            await feed.wait_after(seen)

    async def _say_stopping(self, stop: trio.Event, longest_end_s: Callable[[], float]) -> None:
        await stop.wait()
        self._stopping = True
        usec = round((longest_end_s() + MARGIN_S) * 1e6)
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={usec}", "STATUS=stopping")

    async def _feed_watchdog(self, limit_s: float) -> None:
        """Send signs of life, twice as often as needed.

        This task shares its thread with everything else, so that it runs is the proof: if
        something blocks the loop for too long, systemd restarts the router.
        """
        while True:
            self._tell("WATCHDOG=1")
            await trio.sleep(limit_s / 2)
