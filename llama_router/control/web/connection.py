"""The connection class of the control plane: what a request holds, and how its body counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable
from quart import request
from quart.wrappers import Request
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody

from ...core.requests.body_budget import ROOM_TIMEOUT_S, BodyBudget, BodyShare
from ...core.scheduling.refusals import no_room_for_body
from .server import BODY_ERROR

#: Bodies up to this do not count, in bytes: a connection takes as much in any case.
UNCOUNTED_BYTES: Final = 64 * 1024

_STACK: Final = "llama_router.stack"

_REFUSED: Final = "llama_router.body_refused"


class BreakableBody(TrioBody):
    """A request's body that may break off."""

    def break_off(self, error: Exception) -> None:
        """Let reading it fail with *error*, unless it fails already."""
        if self._must_raise is None:
            self._must_raise = error
        self.set_complete()


class ScopedConnection(TrioASGIHTTPConnection):
    """Gives each request an exit stack that outlives its handler and its answer.

    A body that is generated may never be begun if the client leaves: what a request holds
    hangs on the stack instead.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve one request."""
        async with AsyncExitStack() as stack:
            cast("dict[str, Any]", self.scope)[_STACK] = stack
            await super().__call__(receive, send)

    async def handle_messages(  # type: ignore[override]  # Quart-Trio's differs from Quart's, too
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        """Take in the body; a view that reads one which breaks off gets the error."""

        async def receive_or_fail() -> ASGIReceiveEvent:
            message = await receive()
            error = cast("dict[str, Any]", message).get(BODY_ERROR)
            if error is not None:
                assert isinstance(request.body, BreakableBody)
                request.body.break_off(error)
            return message

        await super().handle_messages(nursery, request, receive_or_fail)


def request_stack() -> AsyncExitStack:
    """Return what is unwound when the current request is over, whatever becomes of it."""
    stack = cast("dict[str, Any]", request.scope)[_STACK]
    assert isinstance(stack, AsyncExitStack)
    return stack


def counting(bodies: BodyBudget, limit_bytes: Callable[[], int]) -> type[ScopedConnection]:
    """Return the class of connections whose bodies count.

    Args:
        bodies: What all bodies may take.
        limit_bytes: Returns how much that is, as it is configured now.
    """

    class CountingConnection(ScopedConnection):
        async def handle_messages(  # type: ignore[override]  # Quart-Trio's differs from Quart's
            self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
        ) -> None:
            """Pass on the request's body; it counts until the answer is complete."""
            bodies.limit_bytes = limit_bytes()
            counted = Counted(bodies, request, receive)
            try:
                await super().handle_messages(nursery, request, counted.receive)
            finally:
                counted.share.give_back()

    return CountingConnection


class Counted:
    """The messages of one request, whose body has room in the budget.

    Attributes:
        share: What the body holds.
    """

    def __init__(self, bodies: BodyBudget, request: Request, receive: ASGIReceiveCallable) -> None:
        self.share: BodyShare = bodies.share(self._wake)
        self._request = request
        self._receive = receive
        self._received_bytes = 0
        self._refused = False
        self._woken = trio.Event()

    async def receive(self) -> ASGIReceiveEvent:
        """Return the next message; without its bytes if there is no room for the body."""
        message = await self._receive()
        if message["type"] != "http.request":
            return message
        self._received_bytes += len(message.get("body", b""))
        if not self._refused and not await self._has_room():
            self._refused = True
            cast("dict[str, Any]", self._request.scope)[_REFUSED] = True
            self._request.body.clear()
            self._request.body.set_complete()
        if self._refused:
            message["body"] = b""
        return message

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
        """Refuse the request of that *scope* if there was no room for its body.

        Raises:
            BodiesFullError: if that is so.
        """
        if _REFUSED in scope:
            raise no_room_for_body(ROOM_TIMEOUT_S)

    def _wake(self) -> None:
        self._woken.set()
