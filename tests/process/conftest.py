"""Fixtures of the tests that run a whole router."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.process.harness import LIMIT_S, Events, Harness, Router, Stage
from tests.process.real import RealRouter, serving, write_config

Start = Callable[..., Awaitable[Router]]
Serve = Callable[..., Awaitable[RealRouter]]


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


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Write a configuration, run a router with it as a program, and wait until it serves.

    At the end of the test it is stopped, and must leave nothing behind; see `serving`.
    """
    end = trio.Event()

    async def run(
        config: Path, changes: dict[str, Any], *, task_status: trio.TaskStatus[RealRouter]
    ) -> None:
        async with serving(config, **changes) as router:
            task_status.started(router)
            await end.wait()

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:

            async def start(*tables: str, router: Iterable[str] = (), **changes: str) -> RealRouter:
                config = write_config(tmp_path, *tables, router=router)
                started: RealRouter = await nursery.start(run, config, changes)
                return started

            yield start
            end.set()


@pytest.fixture
async def in_time() -> AsyncIterator[None]:
    """Let the test, which must be asynchronous, take no longer than it may."""
    with trio.fail_after(LIMIT_S):
        yield
