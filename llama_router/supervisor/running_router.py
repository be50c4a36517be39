"""Signals to a router, and its handle once it accepts connections."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs
import trio

from ..core.config.reload import ReloadReport
from ..dispatch.dispatcher import Dispatcher


@attrs.define(eq=False)
class RouterSignals:
    """Events by which a signal handler or a test controls a running router.

    Attributes:
        stop: Drain, stop every backend, return.
        force_stop: Return now: no draining, no grace for backends.
    """

    stop: trio.Event = attrs.field(factory=trio.Event)
    force_stop: trio.Event = attrs.field(factory=trio.Event)
    _reload: trio.Event = attrs.field(factory=trio.Event)
    _rescan: trio.Event = attrs.field(factory=trio.Event)

    def reload(self) -> None:
        """Request a reload of the configuration; several requests may become one."""
        self._reload.set()

    async def next_reload(self) -> None:
        """Wait until a reload is requested."""
        await self._reload.wait()
        self._reload = trio.Event()

    def rescan(self) -> None:
        """Request a scan for models; several requests may become one."""
        self._rescan.set()

    async def next_rescan(self) -> None:
        """Wait until a scan is requested."""
        await self._rescan.wait()
        self._rescan = trio.Event()


@attrs.frozen
class RunningRouter:
    """Handle of a router that accepts connections.

    Attributes:
        urls: Its base URLs.
        dispatcher: The state of its models, for inspection.
        reload: Reads the configuration again; returns the report of that reload.
    """

    urls: tuple[str, ...]
    dispatcher: Dispatcher
    reload: Callable[[], Awaitable[ReloadReport]]
