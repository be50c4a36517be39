"""Two routers on one machine, with the same settings: neither is in the other's way."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from tests.process.harness import base_port
from tests.process.real import (
    LIMIT_S,
    RealRouter,
    chat,
    endless_table,
    make_models,
    model_table,
    run_cli,
    serving,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]

#: How often both load a model at the same time.
ROUNDS = 3


async def load_at_once(routers: list[RealRouter], model: str) -> None:
    """Let every router load *model*, all at the same moment, and answer."""

    async def ask(router: RealRouter) -> None:
        async with router.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat(model))
            assert answer.status_code == 200, answer.text

    async with trio.open_nursery() as nursery:
        for router in routers:
            nursery.start_soon(ask, router)


@pytest.fixture
def configs(tmp_path, tmp_path_factory) -> list[Path]:
    """Two configurations with the same models and the same ports, and places of their own."""
    models = make_models(tmp_path_factory)
    tables = [model_table(models, "a"), model_table(models, "b")]
    lines = [f"base_port = {base_port()}", "max_restarts = 0", "drain_s = 0.5"]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    return [write_config(folder, *tables, router=lines) for folder in folders]


async def test_both_load_at_the_same_time(configs) -> None:
    """Whoever loses the race for a port takes another one at once; nobody sees a failure."""
    with trio.fail_after(LIMIT_S):
        async with AsyncExitStack() as running:
            routers = [await running.enter_async_context(serving(config)) for config in configs]
            for number in range(ROUNDS * 2):
                await load_at_once(routers, "ab"[number % 2])
            for router in routers:
                assert not router.named("backend.crashed")
                assert not router.named("backend.failed")
                assert len(router.named("backend.ready")) == ROUNDS * 2
                changed = len(router.named("backend.port_taken"))
                assert len(router.named("backend.spawned")) == ROUNDS * 2 + changed


async def test_a_second_router_with_the_same_state_is_refused(tmp_path) -> None:
    """Before its scan: the models that the first one found stay."""
    config = write_config(tmp_path, endless_table(tmp_path, "a"))
    other = tmp_path / "other.toml"
    other.write_text(config.read_text().replace("[models.a]", "[models.b]"))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            done = await run_cli("serve", "--config", str(other), "--port", "0", folder=tmp_path)
            assert done.returncode == 1
            assert f"another router, pid {router.process.pid}, uses the state".encode() in (
                done.stderr
            )
        async with serving(config):
            pass
