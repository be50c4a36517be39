"""The control plane while it is being loaded."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from llama_router.supervisor.control_plane import ControlPlane
from tests.limits import LIMIT_S


class FakeServer:
    """Takes the place of a `ControlServer`."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.drained = 0

    async def serve(self, _stream: str, request: str, _: object) -> None:
        """Note the request."""
        self.served.append(request)

    def drain(self) -> None:
        """Count."""
        self.drained += 1


@pytest.fixture
def server() -> FakeServer:
    """The server that is loaded."""
    return FakeServer()


@pytest.fixture
def may_load() -> threading.Event:
    """Set once it may be loaded."""
    return threading.Event()


@pytest.fixture
def plane(server, may_load, monkeypatch) -> ControlPlane:
    """A control plane that is loaded as soon as the test allows it."""

    def build(_: ControlPlane) -> FakeServer:
        assert may_load.wait(LIMIT_S)
        return server

    monkeypatch.setattr(ControlPlane, "_build", build)
    return ControlPlane(cast("Any", None))


async def test_requests_wait_until_it_is_loaded(plane, server, may_load) -> None:
    """The loop runs meanwhile, and none of them is lost."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plane.load)
        for request in ("a", "b"):
            nursery.start_soon(plane.serve, cast("Any", ""), cast("Any", request), lambda: None)
        await wait_all_tasks_blocked()
        assert server.served == []
        may_load.set()
    assert sorted(server.served) == ["a", "b"]
    await plane.serve(cast("Any", ""), cast("Any", "c"), lambda: None)
    assert server.served[2:] == ["c"]


async def test_a_drain_before_that_counts(plane, server, may_load) -> None:
    """It is passed on when it is loaded, and later ones at once."""
    may_load.set()
    plane.drain()
    await plane.load()
    assert server.drained == 1
    plane.drain()
    assert server.drained == 2
