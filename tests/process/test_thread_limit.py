"""The system refuses the router a new thread: that costs what it was for, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tomli_w
import trio

from tests.process.harness import Router, post, request

pytestmark = pytest.mark.process

ECHO = "/v1/echo"


class Limit:
    """Refuses threads as CPython does, once *allowed* of them were begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.allowed: float = float("inf")
        self._begin = trio.lowlevel.start_thread_soon
        monkeypatch.setattr("trio._threads.start_thread_soon", self._begin_thread)

    def _begin_thread(self, *args: Any) -> None:
        if self.allowed < 1:
            raise RuntimeError("can't start new thread")
        self.allowed -= 1
        self._begin(*args)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Lifted until the test sets it."""
    return Limit(monkeypatch)


@pytest.mark.parametrize("allowed", range(6))
async def test_a_start(start: Callable, stage, limit: Limit, allowed: int) -> None:
    """Whichever thread of it is refused, the model fails at most, and can be started later."""
    router: Router = await start({"a": stage.model("a"), "b": stage.model("b")}, max_restarts=0)
    assert (await router.ask(post(ECHO, "b"))).status == 200
    limit.allowed = allowed
    answer = await router.ask(post(ECHO, "a"))
    assert answer.status in (200, 503)
    if answer.status == 503:
        assert "the system refuses" in (said := answer.error["message"]) or "no more proc" in said
    limit.allowed = float("inf")
    assert (await router.ask(post(ECHO, "b"))).status == 200


async def test_the_first_step_of_a_start(start: Callable, stage, limit: Limit) -> None:
    """It is tried again by itself, as after any failure that may pass."""
    router: Router = await start({"a": stage.model("a")})
    limit.allowed = 0
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            assert (await router.ask(post(ECHO, "a"))).status == 200

        nursery.start_soon(ask)
        await router.events.wait("backend.crashed", model="a")
        limit.allowed = float("inf")


async def test_an_end(start: Callable, stage, limit: Limit) -> None:
    """A backend and what it started are ended all the same, and so is the router."""
    router: Router = await start({"a": stage.model("a")})
    assert (await router.ask(post(ECHO, "a"))).status == 200
    backend = await stage.backend("a")
    limit.allowed = 0
    await router.stop()
    await backend.ended.wait()


async def test_an_exit(start: Callable, stage, limit: Limit) -> None:
    """That a backend ended is noticed, and said, though not why."""
    router: Router = await start({"a": stage.model("a")})
    assert (await router.ask(post(ECHO, "a"))).status == 200
    backend = await stage.backend("a")
    limit.allowed = 0
    await backend.exit(3)
    assert (await router.events.wait("backend.crashed", model="a"))["cause"] == "unknown"


async def test_a_reload(start: Callable, stage, limit: Limit) -> None:
    """It is refused, says why, and is done by itself when there are threads again."""
    router: Router = await start({})
    router.document["models"] = {"a": stage.model("a")}
    limit.allowed = 0
    router.path.write_text(tomli_w.dumps(router.document))
    report = await router.running.reload()
    assert "the system refuses" in str(report.problems)
    limit.allowed = float("inf")
    await router.events.wait("config.applied", added=["a"])


async def test_a_request(start: Callable, limit: Limit) -> None:
    """503 with a code of its own."""
    router: Router = await start({})
    limit.allowed = 0
    answer = await router.ask(request("GET", "/api/tags"))
    assert answer.status == 503
    assert "the system refuses" in answer.json()["error"]
    await router.events.wait("thread.refused")
    limit.allowed = float("inf")
    assert (await router.ask(request("GET", "/api/tags"))).status == 200
