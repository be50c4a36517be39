"""The ASGI connection class of the control plane: an exit stack and a body budget per request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable
from quart import request, wrappers
from quart.wrappers import Request
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody

from ...core.requests.body_budget import ROOM_TIMEOUT_S, BodyBudget, BodyShare
from ...core.scheduling.refusals import no_room_for_body
from .server import BODY_ERROR

#: Bodies up to this size are not counted, in bytes: the buffers of a connection are as large.
UNCOUNTED_BYTES: Final = 64 * 1024

#: What Quart raises where a client has disconnected; releases before 0.23 have no such class.
CLIENT_LEFT: Final[tuple[type[Exception], ...]] = tuple(
    getattr(wrappers, name) for name in ("ClientDisconnectedError",) if hasattr(wrappers, name)
)

_STACK: Final = "llama_router.stack"

_REFUSED: Final = "llama_router.body_refused"


class FailableBody(TrioBody):
    """A request body that can be made to raise an error in its reader."""

    def fail(self, error: Exception) -> None:
        """Let reading the body raise *error*, unless it raises another error already."""
        if self._must_raise is None:
            self._must_raise = error
        self.set_complete()


class ScopedConnection(TrioASGIHTTPConnection):
    """Gives each request an exit stack that is unwound after its response.

    If the client disconnects, a generator that makes the response may never be started, so it
    cannot release what the request holds; the stack can.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request; return at once if the client disconnects."""
        try:
            async with AsyncExitStack() as stack:
                cast("dict[str, Any]", self.scope)[_STACK] = stack
                await super().__call__(receive, send)
        except* CLIENT_LEFT:
            pass

    async def handle_messages(  # type: ignore[override]  # Quart-Trio's differs from Quart's, too
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        """Receive the body; a `BODY_ERROR` in a message is raised in the view that reads it."""

        async def receive_or_fail() -> ASGIReceiveEvent:
            # What completes the body is not passed on: Quart 0.23 takes nothing after it.
            while True:
                message = await receive()
                error = cast("dict[str, Any]", message).get(BODY_ERROR)
                if error is None:
                    return message
                assert isinstance(request.body, FailableBody)
                request.body.fail(error)

        await super().handle_messages(nursery, request, receive_or_fail)


def request_stack() -> AsyncExitStack:
    """Return the stack that is unwound when the current request ends, in any way."""
    stack = cast("dict[str, Any]", request.scope)[_STACK]
    assert isinstance(stack, AsyncExitStack)
    return stack


def connection_class(bodies: BodyBudget, limit_bytes: Callable[[], int]) -> type[ScopedConnection]:
    """Return a connection class that takes the memory of request bodies from *bodies*.

    Args:
        bodies: The budget of all bodies.
        limit_bytes: Returns the configured size of the budget.
    """

    class BudgetedConnection(ScopedConnection):
        async def handle_messages(  # type: ignore[override]  # Quart-Trio's differs from Quart's
            self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
        ) -> None:
            """Receive the body; its memory counts until the response is complete."""
            bodies.limit_bytes = limit_bytes()
            budgeted = BudgetedBody(bodies, request, receive)
            try:
                await super().handle_messages(nursery, request, budgeted.receive)
            finally:
                budgeted.share.give_back()

    return BudgetedConnection


class BudgetedBody:
    """The ASGI messages of one request, with room for the body taken from a budget.

    Attributes:
        share: The memory that the body holds.
    """

    def __init__(self, bodies: BodyBudget, request: Request, receive: ASGIReceiveCallable) -> None:
        self.share: BodyShare = bodies.share(self._wake)
        self._request = request
        self._receive = receive
        self._received_bytes = 0
        self._refused = False
        self._woken = trio.Event()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message; drop those of a body for which the budget has no room."""
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                return message
            if self._refused:
                continue
            self._received_bytes += len(message.get("body", b""))
            if await self._has_room():
                return message
            self._refused = True
            cast("dict[str, Any]", self._request.scope)[_REFUSED] = True
            self._request.body.clear()
            self._request.body.set_complete()

    async def _has_room(self) -> bool:
        missing_bytes = self._received_bytes - self.share.held_bytes
        if self._received_bytes <= UNCOUNTED_BYTES or missing_bytes <= 0:
            return True
        with trio.move_on_after(ROOM_TIMEOUT_S):
            while not self.share.take(missing_bytes):
                self._woken = trio.Event()
                await self._woken.wait()
            return True
        self.share.give_back()
        return False

    @staticmethod
    def check(scope: Mapping[str, Any]) -> None:
        """Refuse the request of *scope* if the budget had no room for its body.

        Raises:
            BodiesFullError: if there was no room.
        """
        if _REFUSED in scope:
            raise no_room_for_body(ROOM_TIMEOUT_S)

    def _wake(self) -> None:
        self._woken.set()
