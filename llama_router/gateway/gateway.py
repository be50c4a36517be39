"""The parts that all connections of a router share, and the handover to the control plane.

The control plane gets exactly one request: its head, and a parser for its body. Bytes after
that are dropped, because each of its responses ends the connection.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable

import attrs
import trio

from ..core.access.gate import Gate
from ..core.requests.control_request import ControlRequest
from ..dispatch.conversations import Conversations
from ..dispatch.dispatcher import Dispatcher
from ..http1 import ChunkedBody, LengthBody, RequestHead
from ..logs.events import log
from .loop.event_loop import EventLoop
from .loop.fiber import Fiber
from .reader import DRAINING_S

Handover = Callable[[trio.SocketStream, ControlRequest, Callable[[], None]], Awaitable[None]]
"""Serves one request and ends its connection. The arguments are the stream, the request, and a
function to call whenever bytes are received or sent."""


@attrs.define(eq=False)
class Gateway:
    """The parts that all connections share.

    Attributes:
        dispatcher: Grants backends.
        gate: Checks access.
        handover: The control plane.
        conversations: The backends that keep resumable streams.
        loop: Runs the connections.
        draining: Set at shutdown: every connection ends with its current response.
        idle: Fibers of connections without a complete request; draining wakes them, and leaves
            them `DRAINING_S` for it.
        tasks: Nursery of the connections that the control plane serves.
        handed_over: Number of these connections.
    """

    dispatcher: Dispatcher
    gate: Gate
    handover: Handover
    conversations: Conversations = attrs.field(factory=Conversations)
    loop: EventLoop = attrs.field(factory=EventLoop)
    draining: trio.Event = attrs.field(factory=trio.Event)
    idle: set[Fiber] = attrs.field(factory=set)
    tasks: trio.Nursery | None = None
    handed_over: int = 0

    def drain(self) -> None:
        """End idle connections soon, and busy ones with their response."""
        self.draining.set()
        self.loop.now_s = self.loop.clock()
        for fiber in self.idle:
            fiber.expire_in(DRAINING_S)
            self.loop.wake(fiber)

    def hand_over(self, connection: socket.socket, head: RequestHead, received: bytes) -> None:
        """Let the control plane serve the request of *head*, and end *connection*.

        Args:
            connection: The socket, unregistered from the event loop.
            head: The request's head.
            received: The bytes received after it.
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
            await self.handover(stream, request, self.loop.prioritize_trio)
        except* OSError:
            pass  # the connection failed; nothing can be sent
        except* Exception:  # also together with a cancellation, at shutdown
            log.exception("connection.crashed")
        finally:
            self.handed_over -= 1
            connection.close()
