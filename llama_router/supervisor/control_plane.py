"""The control plane of a running router, which is loaded once the data plane serves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from ..control.web.context import ControlContext
from ..core.requests.control_request import ControlRequest
from ..threads import in_thread_or_here
from ..workers.interpreter_settings import loop_goes_first, settle_imports, thresholds

if TYPE_CHECKING:
    from ..control.web.server import ControlServer

#: New objects between two garbage collections while it is loaded, and young collections between
#: two others: nearly all objects of imports stay.
_NEW_OBJECTS: Final = 5000
_YOUNG_COLLECTIONS: Final = 1000


class ControlPlane:
    """Serves the requests for the control plane. They wait until it is loaded.

    Quart and what it imports take as much processor time as all the rest of a start. Requests
    for models need none of it, so it is loaded beside them: on a thread, as soon as the router
    listens. Not when it is used for the first time: by then an upgrade may have replaced the
    files.

    Args:
        context: The parts of the router that its routes use.
    """

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._server: ControlServer | None = None
        self._loaded = trio.Event()
        self._draining = False

    async def load(self) -> None:
        """Load it; it serves when this returns."""
        server = await in_thread_or_here(self._build)
        if self._draining:
            server.drain()
        self._server = server
        self._loaded.set()

    async def serve(
        self, stream: trio.SocketStream, request: ControlRequest, on_activity: Callable[[], None]
    ) -> None:
        """Answer *request*, as `ControlServer.serve` does."""
        await self._loaded.wait()
        assert self._server is not None, "set before the event"
        await self._server.serve(stream, request, on_activity)

    def drain(self) -> None:
        """Shorten all waits for clients; see `ControlServer.drain`."""
        self._draining = True
        if self._server is not None:
            self._server.drain()

    def _build(self) -> ControlServer:
        fewer = thresholds.changed(lambda kept: (_NEW_OBJECTS, _YOUNG_COLLECTIONS, kept[2]))
        with loop_goes_first(), fewer:
            from ..control.web.app import build_app  # noqa: PLC0415 -- see the class
            from ..control.web.server import ControlServer  # noqa: PLC0415 -- same

            server = ControlServer(build_app(self._context))
            settle_imports()
            return server
