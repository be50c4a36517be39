"""The health of the router itself: ``/livez``, ``/readyz``, and ``/health`` while no model runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core.access.gate import Scope
from ..core.scheduling import refusals
from ..core.scheduling.lifecycle import Phase
from ..dispatch.dispatcher import Dispatcher
from ..errors.access import AccessError
from ..errors.base import RouterError
from ..errors.requests import ModelLoadingError
from ..http1 import RequestHead
from ..logs.request_ids import new_request_id
from .gateway import Gateway
from .reader import BODY_TIMEOUT_S, Reader
from .router_responses import error_response, healthy_response
from .sockets import ClientSocket


async def answer_health(
    gateway: Gateway, client: ClientSocket, reader: Reader, head: RequestHead, *, readiness: bool
) -> bool:
    """Answer ``/livez`` or ``/readyz``; return whether the connection can be used again.

    Not logged: supervisors ask every few seconds.

    Args:
        gateway: The parts that all connections share.
        client: The client's connection.
        reader: Reads it.
        head: The request.
        readiness: The question is whether the router is ready for requests.

    Raises:
        ClientGoneError: if the client left.
        FiberTimeoutError: if it does not read.
    """
    reader.buffer = reader.buffer[head.size :]
    has_body = head.chunked or bool(head.content_length)
    close = has_body or not head.keep_alive or gateway.draining.is_set()
    error: RouterError | None = None
    try:
        gateway.gate.check(Scope.OPEN, head.method, head.fields)
        error = health_error(gateway) if readiness else None
    except AccessError as exc:
        error = exc
    fields: Sequence[tuple[bytes, bytes]] = gateway.gate.cors_fields(head.fields)
    client.fiber.expire_in(BODY_TIMEOUT_S)
    if error is None:
        await client.send(healthy_response(head, fields, close=close))
    else:
        await client.send(error_response(head, error, new_request_id(), fields, close=close))
    client.fiber.deadline_s = math.inf
    return not close


def health_error(gateway: Gateway) -> RouterError | None:
    """Return why the router is not ready for requests; None if it is.

    A router without a running model is ready: the next request loads one.
    """
    if gateway.draining.is_set():
        return refusals.shutting_down()
    if gateway.dispatcher.ready_backends() or not is_loading(gateway.dispatcher):
        return None
    return ModelLoadingError("the model is being loaded, and no other one is ready")


def is_loading(dispatcher: Dispatcher) -> bool:
    """Return whether any model is being started, or is waited for."""
    models = dispatcher.local_statistics().values()
    return any(each.phase is Phase.STARTING or each.queued for each in models)
