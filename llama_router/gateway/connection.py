"""One client's connection: serves requests until one is for the control plane.

Such a request is handed over, together with the connection and the bytes already received;
the connection does not return.
"""

from __future__ import annotations

import socket
from typing import Final

from ..core.access.gate import Scope
from ..core.requests.routes import ByBody, Control, DataRoute, Observe, RouterHealth, route
from ..dispatch.request_log import log_unread_refusal
from ..errors.access import AccessError
from ..errors.requests import RequestError
from ..http1 import RequestHead
from ..logs.events import log
from ..logs.request_ids import new_request_id
from .gateway import Gateway
from .health import answer_health, is_loading
from .loop.fiber import Fiber, FiberCancelledError, FiberTimeoutError
from .model_request import ModelRequest, send_refusal
from .reader import Reader
from .sockets import ClientGoneError, ClientSocket


async def serve_connection(
    gateway: Gateway, connection: socket.socket, peer: str, fiber: Fiber
) -> None:
    """Serve one connection until either side ends it. Closes it.

    Args:
        gateway: The parts that all connections share.
        connection: The socket, non-blocking.
        peer: Address of the client.
        fiber: The fiber that this runs in.
    """
    try:
        client = ClientSocket(gateway.loop, connection, fiber, peer)
    except OSError as exc:
        connection.close()
        log.warning("connection.dropped", reason=exc.strerror)
        return
    try:
        await _Connection(gateway, client).serve()
    except (ClientGoneError, FiberTimeoutError, FiberCancelledError, OSError):
        pass  # nothing more can be sent
    finally:
        client.close()


#: The request for the properties of the running model; if none runs, the router has some.
_PROPS: Final = Observe(None, "/props")


class _Connection:
    def __init__(self, gateway: Gateway, client: ClientSocket) -> None:
        self._gateway = gateway
        self._client = client
        self._reader = Reader(gateway.loop, client, gateway.idle, gateway.draining)

    async def serve(self) -> None:
        while True:
            try:
                head = await self._reader.receive_head()
            except RequestError as exc:
                await self._refuse_unread(exc)
                await self._client.linger()
                return
            if head is None:
                return
            destination = self._destination(head)
            if destination is None:
                self._hand_over(head)
                return
            if isinstance(destination, RouterHealth):
                reusable = await answer_health(
                    self._gateway,
                    self._client,
                    self._reader,
                    head,
                    readiness=destination.readiness,
                )
            else:
                request = ModelRequest(self._gateway, self._client, self._reader, head)
                reusable = await request.serve(destination)
            if not reusable:
                await self._client.linger()
                return
            if self._reader.buffer:  # pipelined requests may be refused without a wait
                await self._client.fiber.yield_if_over_budget()

    def _destination(self, head: RequestHead) -> DataRoute | None:
        """Return the route of a request; None if the control plane answers it."""
        destination = route(head.method, head.path, head.query)
        if isinstance(destination, ByBody):
            return destination
        if isinstance(destination, Control):
            is_preflight = head.get(b"access-control-request-method") is not None
            return None if is_preflight else destination.only_preflight
        if isinstance(destination, Observe) and destination == _PROPS and self._is_idle_for(head):
            return None
        return destination

    def _is_idle_for(self, head: RequestHead) -> bool:
        """Return whether no model runs or loads that the sender of *head* may use."""
        dispatcher = self._gateway.dispatcher
        try:
            caller = self._gateway.gate.check(Scope.MODELS, head.method, head.fields)
        except AccessError:
            return False  # the request is refused
        running = any(caller.may_use(backend.spec) for backend in dispatcher.ready_backends())
        return not running and not is_loading(dispatcher)

    def _hand_over(self, head: RequestHead) -> None:
        received, self._reader.buffer = self._reader.buffer[head.size :], b""
        self._gateway.hand_over(self._client.release(), head, received)

    async def _refuse_unread(self, error: RequestError) -> None:
        """Respond with an error to bytes that are no request, so that its API is not known."""
        request_id = new_request_id()
        log_unread_refusal(error, request_id)
        await send_refusal(self._client, None, error, request_id, (), close=True)
