"""Bodies of requests to the control plane count among all bodies."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from quart_trio.wrappers.request import TrioBody
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.control.web.connection import UNCOUNTED_BYTES, BudgetedBody
from llama_router.core.requests.body_budget import ROOM_TIMEOUT_S, BodyBudget
from llama_router.errors.requests import BodiesFullError

LIMIT_BYTES = 4 * UNCOUNTED_BYTES


class FakeRequest:
    """What is used of Quart's."""

    def __init__(self) -> None:
        self.scope: dict[str, Any] = {}
        self.body = TrioBody(None, None)


class Messages:
    """A request's messages, whose body has room or not.

    Attributes:
        budgeted: What passes them on.
        request: Whose they are.
    """

    def __init__(self, budget: BodyBudget, *sizes: int) -> None:
        self._sizes = list(sizes)
        request: Any = FakeRequest()
        self.request = request
        self.budgeted = BudgetedBody(budget, request, self._receive)

    async def _receive(self) -> Any:
        await trio.lowlevel.checkpoint()
        if not self._sizes:
            return {"type": "http.disconnect"}
        data = b"x" * self._sizes.pop(0)
        return {"type": "http.request", "body": data, "more_body": bool(self._sizes)}

    async def all(self) -> bytes:
        """Return what is passed on of the body before the client leaves."""
        data = b""
        while (message := await self.budgeted.receive())["type"] == "http.request":
            data += message["body"]
        return data


@pytest.fixture
def budget() -> BodyBudget:
    """Room for four times what does not count."""
    return BodyBudget(LIMIT_BYTES)


async def test_a_small_body_does_not_count(budget) -> None:
    """Its connection takes as much in any case."""
    messages = Messages(budget, UNCOUNTED_BYTES)
    assert len(await messages.all()) == UNCOUNTED_BYTES
    assert budget.held_bytes == 0


async def test_a_large_body_counts_as_it_comes(budget) -> None:
    """All of it, until it is given back."""
    messages = Messages(budget, UNCOUNTED_BYTES, UNCOUNTED_BYTES, 1)
    assert len(await messages.all()) == budget.held_bytes == 2 * UNCOUNTED_BYTES + 1
    messages.budgeted.share.give_back()
    assert budget.held_bytes == 0


async def test_a_body_waits_for_room(budget, nursery) -> None:
    """It goes on as soon as there is some."""
    other = budget.share(lambda: None)
    assert other.take(LIMIT_BYTES + 1)
    messages, got = Messages(budget, 2 * UNCOUNTED_BYTES), list[bytes]()

    async def receive() -> None:
        got.append(await messages.all())

    nursery.start_soon(receive)
    await wait_all_tasks_blocked()
    assert got == []
    other.give_back()
    await wait_all_tasks_blocked()
    assert [len(data) for data in got] == [2 * UNCOUNTED_BYTES]


async def test_a_body_without_room_is_dropped(budget, autojump_clock: MockClock) -> None:
    """Its bytes are read on and thrown away, and the view is told."""
    assert budget.share(lambda: None).take(LIMIT_BYTES + 1)
    messages = Messages(budget, 2 * UNCOUNTED_BYTES, 5)
    begun_s = trio.current_time()
    assert await messages.all() == b""
    assert trio.current_time() - begun_s == ROOM_TIMEOUT_S
    assert budget.held_bytes == LIMIT_BYTES + 1
    with pytest.raises(BodiesFullError):
        BudgetedBody.check(messages.request.scope)
    BudgetedBody.check(FakeRequest().scope)
