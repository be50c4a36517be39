"""A router as those who started it hold it: what they may ask, and what they are told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from ..config.reload_report import ReloadReport
from ..dispatch.dispatcher import Dispatcher


@attrs.define(eq=False)
class RouterSignals:
    """What the outside may ask of a running router, by setting events.

    Attributes:
        stop: Drain, stop every backend, end.
        hurry: End now: no draining, no grace.
    """

    stop: trio.Event = attrs.field(factory=trio.Event)
    hurry: trio.Event = attrs.field(factory=trio.Event)
    _reload: trio.Event = attrs.field(factory=trio.Event)
    _rescan: trio.Event = attrs.field(factory=trio.Event)

    def reload(self) -> None:
        """Ask for the configuration to be read again; several asks may become one."""
        self._reload.set()

    async def next_reload(self) -> None:
        """Wait until a reload is asked for."""
        await self._reload.wait()
        self._reload = trio.Event()

    def rescan(self) -> None:
        """Ask for models to be looked for again; several asks may become one."""
        self._rescan.set()

    async def next_rescan(self) -> None:
        """Wait until a scan is asked for."""
        await self._rescan.wait()
        self._rescan = trio.Event()


@attrs.frozen
class RunningRouter:
    """A router that accepts connections.

    Attributes:
        urls: Its base URLs.
        dispatcher: For those who want to look inside.
        reload: Reads the configuration again; returns what became of it.
    """

    urls: tuple[str, ...]
    dispatcher: Dispatcher
    reload: Callable[[], Awaitable[ReloadReport]]
