"""Fixtures of the tests that run a whole router."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from tests.process.harness import LIMIT_S, Events, Harness, Router, Stage

Start = Callable[..., Awaitable[Router]]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Where the fake backends of one test report."""
    async with trio.open_nursery() as nursery:
        stage = Stage()
        nursery.start_soon(stage.run)
        yield stage
        nursery.cancel_scope.cancel()


@pytest.fixture
async def start(stage: Stage, tmp_path: Path) -> AsyncIterator[Start]:
    """Start a router; at the end of the test it is stopped, and must leave nothing behind."""
    events = Events()
    with events.captured(), trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            harness = Harness(nursery, tmp_path, events)
            yield harness.start
            await harness.finish()
