"""What all connections of a router share, and how one is given to the control plane."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import attrs
import structlog
import trio

from ..core.access.gate import Gate
from ..dispatch.conversations import Conversations
from ..dispatch.dispatcher import Dispatcher
from .loop.engine import Engine
from .loop.fiber import Fiber

log = structlog.get_logger()

Handover = Callable[[trio.SocketStream, bytes, Callable[[], None]], Awaitable[None]]
"""Serves the rest of a connection: the stream, what was read from it already, and what to
call when bytes come or go."""


@attrs.define(eq=False)
class Gateway:
    """What all connections share.

    Attributes:
        dispatcher: Who grants backends.
        gate: Who may ask for them.
        handover: The control plane.
        conversations: Where it is noted which backend keeps which stream.
        engine: Drives the connections.
        draining: Set at shutdown: every connection ends with its current answer.
        idle: Connections between two requests.
        tasks: Where connections go that the control plane serves.
    """

    dispatcher: Dispatcher
    gate: Gate
    handover: Handover
    conversations: Conversations = attrs.field(factory=Conversations)
    engine: Engine = attrs.field(factory=Engine)
    draining: trio.Event = attrs.field(factory=trio.Event)
    idle: set[Fiber] = attrs.field(factory=set)
    tasks: trio.Nursery | None = None

    def drain(self) -> None:
        """Let idle connections end now and busy ones with their answer."""
        self.draining.set()
        for fiber in self.idle:
            self.engine.wake(fiber)

    def hand_over(self, connection: socket.socket, replay: bytes) -> None:
        """Let the control plane serve the rest of *connection*."""
        assert self.tasks is not None, "the gateway is not served"
        self.tasks.start_soon(self._serve_control, connection, replay)

    async def _serve_control(self, connection: socket.socket, replay: bytes) -> None:
        try:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
            await self.handover(stream, replay, self.engine.hurry)
        except* OSError:
            pass  # nobody is there to be told
        except* Exception:  # beside a cancellation, too: at the end of the router
            log.exception("connection.crashed")
        finally:
            connection.close()
