"""What all connections of a router share, and how one is given to the control plane.

The control plane gets exactly one request: its head, and what finds the end of its body.
Whatever follows is dropped, because each of its answers ends the connection.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import attrs
import structlog
import trio

from ..core.access.gate import Gate
from ..core.requests.control_request import ControlRequest
from ..dispatch.conversations import Conversations
from ..dispatch.dispatcher import Dispatcher
from ..http1 import ChunkedBody, LengthBody, RequestHead
from .loop.engine import Engine
from .loop.fiber import Fiber

log = structlog.get_logger()

Handover = Callable[[trio.SocketStream, ControlRequest, Callable[[], None]], Awaitable[None]]
"""Answers one request and ends its connection: the stream, the request, and what to call when
bytes come or go."""


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
        idle: Connections that have no whole head of a request; draining wakes them.
        tasks: Where connections go that the control plane serves.
        handed_over: How many of them there are.
    """

    dispatcher: Dispatcher
    gate: Gate
    handover: Handover
    conversations: Conversations = attrs.field(factory=Conversations)
    engine: Engine = attrs.field(factory=Engine)
    draining: trio.Event = attrs.field(factory=trio.Event)
    idle: set[Fiber] = attrs.field(factory=set)
    tasks: trio.Nursery | None = None
    handed_over: int = 0

    def drain(self) -> None:
        """Let idle connections end soon and busy ones with their answer."""
        self.draining.set()
        for fiber in self.idle:
            self.engine.wake(fiber)

    def hand_over(self, connection: socket.socket, head: RequestHead, received: bytes) -> None:
        """Let the control plane answer *head*, and end *connection*.

        Args:
            connection: No channel of the engine any more.
            head: The request.
            received: What was received behind its head.
        """
        assert self.tasks is not None, "the gateway is not served"
        request = ControlRequest(
            method=head.method,
            target=head.origin,
            version=f"1.{head.version_minor}",
            fields=head.fields,
            expects_continue=head.expect_continue,
            body=ChunkedBody() if head.chunked else LengthBody(head.content_length or 0),
            received=received,
        )
        self.handed_over += 1
        self.tasks.start_soon(self._serve_control, connection, request)

    async def _serve_control(self, connection: socket.socket, request: ControlRequest) -> None:
        try:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
            await self.handover(stream, request, self.engine.hurry)
        except* OSError:
            pass  # nobody is there to be told
        except* Exception:  # beside a cancellation, too: at the end of the router
            log.exception("connection.crashed")
        finally:
            self.handed_over -= 1
            connection.close()
