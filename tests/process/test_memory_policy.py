"""The policy of memory: real processes on simulated GPUs, and real models in host memory."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from llama_router.core.config.parse import parse_config
from llama_router.core.memory.devices import DeviceId
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.process.names import name_of
from tests.process.harness import Router, Stage, post
from tests.process.real import (
    LIMIT_S,
    chat,
    make_models,
    model_table,
    run_cli,
    serving,
    write_config,
)

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("_in_time")]

MEMORY = {"policy": "memory"}

Start = Callable[..., Awaitable[Router]]


@pytest.fixture
async def _in_time() -> AsyncIterator[None]:
    """Let no test take longer than it may."""
    with trio.fail_after(LIMIT_S):
        yield


def gpu(memory_mib: int) -> dict[str, object]:
    return {"kind": "simulated", "memory_mib": memory_mib}


async def loaded(router: Router) -> set[str]:
    """Return the models that are ready."""
    found = router.running.dispatcher.statistics()
    return {str(model) for model, each in found.items() if each.phase is Phase.READY}


async def devices_read(router: Router, name: str) -> set[str]:
    """Wait until a device was read; return all that were."""
    token = (router.path.parent / "state" / "admin-token").read_text().strip()
    async with router.http() as client:
        while True:
            changed = router.running.dispatcher.changed
            headers = {"Authorization": f"Bearer {token}"}
            status = (await client.get("/admin/status", headers=headers)).json()
            if name in (found := {device["name"] for device in status["devices"]}):
                return found
            await changed.wait()


async def test_models_stay_side_by_side_as_long_as_they_fit(start: Start, stage: Stage) -> None:
    """No groups are written; the third one takes the place of one that is enough."""
    router = await start(
        {name: stage.model(name, memory_mib=4000) for name in "abc"},
        scheduler=MEMORY,
        devices={"gpu0": gpu(9000)},
        min_residency_s=0.0,
    )
    for name in "abab":
        assert (await router.ask(post("/v1/echo", name))).status == 200
    assert router.spawned() == ["a", "b"]
    assert await loaded(router) == {"a", "b"}
    assert (await router.ask(post("/v1/echo", "c"))).status == 200
    assert "c" in await loaded(router)
    assert len(await loaded(router)) == 2


async def test_a_backend_sees_the_gpu_that_was_chosen_for_it(start: Start, stage: Stage) -> None:
    """The tightest one that has room; no other one is visible."""
    router = await start(
        {name: stage.model(name, memory_mib=4000) for name in "ab"},
        scheduler=MEMORY,
        devices={"large": gpu(20000), "small": gpu(5000)},
    )
    seen = {}
    for name in "ab":
        assert (await router.ask(post("/v1/echo", name))).status == 200
        pid = (await stage.backend(name)).pid
        environment = await trio.Path(f"/proc/{pid}/environ").read_bytes()
        variables = dict(each.partition(b"=")[::2] for each in environment.split(b"\0"))
        seen[name] = variables[b"SIMULATED_VISIBLE_DEVICES"]
    assert seen == {"a": b"small", "b": b"large"}


async def test_a_model_that_fits_nowhere_is_refused_and_evicts_nothing(
    start: Start, stage: Stage
) -> None:
    """The error says how much it needs, and how that is known."""
    router = await start(
        {
            "a": stage.model("a", memory_mib=4000),
            "huge": stage.model("huge", memory_mib=64000),
        },
        scheduler=MEMORY,
        devices={"gpu0": gpu(9000)},
    )
    assert (await router.ask(post("/v1/echo", "a"))).status == 200
    refused = await router.ask(post("/v1/echo", "huge"))
    assert refused.status == 503
    assert refused.error["code"] == "model_too_large"
    assert "62.5 GiB of GPU memory (configured)" in refused.error["message"]
    assert router.spawned() == ["a"]
    assert await loaded(router) == {"a"}


async def test_memory_that_another_program_holds_is_waited_for(
    start: Start, stage: Stage, tmp_path: Path
) -> None:
    """Nothing is stopped for it, and the model starts when the program has gone."""
    holder = tmp_path / "state" / "simulated" / "gpu0.json"
    holder.parent.mkdir(parents=True, mode=0o700)
    holder.write_text(json.dumps({os.getpid(): 10000}))
    router = await start(
        {"a": stage.model("a", memory_mib=1000), "b": stage.model("b", memory_mib=6500)},
        scheduler=MEMORY,
        devices={"gpu0": gpu(16000)},
    )
    assert (await router.ask(post("/v1/echo", "a"))).status == 200
    client = await router.connect()
    await client.send(post("/v1/echo", "b"))
    dispatcher = router.running.dispatcher
    while not router.of("b").queued:
        await dispatcher.feed.wait_after(dispatcher.feed.last)
    (request,) = router.of("b").waiting_since_s
    wait = dispatcher.wait_of(request)
    while wait is None or not wait.reason.startswith("model 'b' needs"):
        await trio.testing.wait_all_tasks_blocked()
        wait = dispatcher.wait_of(request)
    assert f"gpu0 is held by model 'a' (1000 MiB) and {name_of(os.getpid())} (9.8 GiB)" in (
        wait.reason
    )
    assert wait.blockers == ()
    holder.write_text("{}")
    assert (await client.answer()).status == 200
    assert await loaded(router) == {"a", "b"}


async def test_a_model_of_unknown_size_runs_alone(start: Start, stage: Stage) -> None:
    """It takes the place of the others, which would fit beside it for all that is known."""
    router = await start(
        {"a": stage.model("a", memory_mib=10), "odd": stage.model("odd")},
        scheduler=MEMORY,
        devices={"gpu0": gpu(9000)},
        min_residency_s=0.0,
    )
    for name in ("a", "odd"):
        assert (await router.ask(post("/v1/echo", name))).status == 200
    assert router.spawned() == ["a", "odd"]
    assert router.of("a").phase is not Phase.READY


async def test_a_model_that_ran_out_of_memory_gets_one_more_start_with_a_larger_figure(
    start: Start, stage: Stage
) -> None:
    """The other one leaves for it; then it is given up, and the error names the holders."""
    out_of_memory = ["--say", "CUDA error: out of memory\\n", "--exit", "1"]
    router = await start(
        {
            "a": stage.model("a", memory_mib=3000),
            "odd": stage.model("odd", *out_of_memory),
        },
        scheduler=MEMORY,
        devices={"gpu0": gpu(9000)},
        min_residency_s=0.0,
    )
    assert (await router.ask(post("/v1/echo", "a"))).status == 200
    refused = await router.ask(post("/v1/echo", "odd"))
    assert refused.status == 503
    assert router.spawned() == ["a", "odd", "odd"]
    assert router.of("odd").phase is Phase.FAILED


async def test_two_models_that_claim_one_gpu_by_hand_take_turns(start: Start, stage: Stage) -> None:
    """Where their launches put them, they do not fit together; the other GPU stays empty."""
    by_hand = {"env": {"SIMULATED_VISIBLE_DEVICES": "gpu0"}}
    router = await start(
        {name: stage.model(name, memory_mib=6000, spawn=by_hand) for name in "ab"},
        scheduler=MEMORY,
        devices={"gpu0": gpu(9000), "gpu1": gpu(9000)},
        min_residency_s=0.0,
    )
    for name in "ab":
        assert (await router.ask(post("/v1/echo", name))).status == 200
        assert await loaded(router) == {name}
        claims = router.of(name).claims
        assert (claims[DeviceId("gpu0")], claims.get(DeviceId("gpu1"), 0)) == (6000, 0)


async def test_what_was_measured_counts_in_a_later_life(
    start: Start, stage: Stage, tmp_path: Path
) -> None:
    """On any GPU: the one that was chosen is no part of what a launch is."""
    holders = tmp_path / "state" / "simulated" / "gpu0.json"
    holders.parent.mkdir(parents=True, mode=0o700)
    table: dict[str, object] = {"scheduler": MEMORY, "devices": {"gpu0": gpu(9000)}}
    first = await start({"odd": stage.model("odd"), "a": stage.model("a")}, **table)
    # Until it is known what it takes, no GPU is chosen; then the second start has one. It takes
    # more, so that its claim shows that it was measured and not only chosen.
    for taken_mib in (3000, 4000):
        assert (await first.ask(post("/v1/echo", "odd"))).status == 200
        holders.write_text(json.dumps({(await stage.backend("odd")).pid: taken_mib}))
        while first.of("odd").claims.get(DeviceId("gpu0")) != taken_mib:
            await first.running.dispatcher.changed.wait()
        assert (await first.ask(post("/v1/echo", "a"))).status == 200
    await first.stop()
    second = await start({"odd": stage.model("odd")}, **table)
    await devices_read(second, "gpu0")
    client = await second.connect()
    await client.send(post("/v1/echo", "odd"))
    while second.of("odd").phase is Phase.STOPPED:
        await second.running.dispatcher.changed.wait()
    # As it starts: once it runs, what is measured counts, and this process holds nothing.
    assert second.of("odd").claims[DeviceId("gpu0")] == 4000
    assert (await client.answer()).status == 200


async def test_a_device_that_is_gone_costs_only_the_models_that_need_it(
    start: Start, stage: Stage
) -> None:
    """Their requests get an error that says so; the others go on, and nothing is stopped."""
    models = {
        "a": stage.model("a", memory_mib=4000, devices=["gpu0"]),
        "b": stage.model("b", memory_mib=4000, devices=["gpu1"]),
    }
    router = await start(models, scheduler=MEMORY, devices={"gpu0": gpu(9000), "gpu1": gpu(9000)})
    assert (await router.ask(post("/v1/echo", "a"))).status == 200
    document = {**router.document, "devices": {"gpu0": gpu(9000), "gpu2": gpu(9000)}}
    router.running.dispatcher.reconfigure(parse_config(document))
    assert "gpu1" not in await devices_read(router, "gpu2")
    refused = await router.ask(post("/v1/echo", "b"))
    assert (refused.status, refused.error["code"]) == (503, "no_memory")
    assert "may be on gpu1 only" in refused.error["message"]
    assert (await router.ask(post("/v1/echo", "a"))).status == 200
    assert router.spawned() == ["a"]


async def test_a_budget_of_nothing_refuses_every_model(start: Start, stage: Stage) -> None:
    """The reserve is larger than the device: that is said at once, and in each error."""
    router = await start(
        {"a": stage.model("a", memory_mib=1)},
        scheduler=MEMORY,
        devices={"host": {"reserve_mib": 2**30}},
    )
    warning = await router.events.wait("devices.setting")
    assert "host is left to other programs" in warning["reason"]
    refused = await router.ask(post("/v1/echo", "a"))
    assert (refused.status, refused.error["code"]) == (503, "model_too_large")
    assert "more than models may take here: host 0 MiB" in refused.error["message"]
    assert router.spawned() == []


async def test_real_models_share_host_memory_of_two_of_three(tmp_path, tmp_path_factory) -> None:
    """Never a third one; no swap between two that fit."""
    folder = make_models(tmp_path_factory)
    tables = [
        model_table(folder, name, "memory_mib = 400", args=["--ctx-size", "256"]) for name in "abc"
    ]
    config = write_config(
        tmp_path,
        *tables,
        '[scheduler]\npolicy = "memory"\n[devices.host]\nmemory_mib = 900\nreserve_mib = 0\n',
        router=["min_residency_s = 0.0"],
    )
    async with serving(config) as router, router.client() as client:
        for name in "ababc":
            answer = await client.post("/v1/chat/completions", json=chat(name))
            assert answer.status_code == 200
            assert len(await router.loaded()) <= 2
        spawned = [event["model"] for event in router.named("backend.spawned")]
        assert spawned == ["a", "b", "c"]


async def test_commands_say_what_models_take(tmp_path, tmp_path_factory) -> None:
    """`ps`, `status` and `plan` of a running router, and `plan` without one."""
    folder = make_models(tmp_path_factory)
    tables = [model_table(folder, name, "memory_mib = 400") for name in "abc"]
    config = write_config(
        tmp_path,
        *tables,
        '[scheduler]\npolicy = "memory"\n[devices.host]\nmemory_mib = 900\nreserve_mib = 0\n',
    )

    async def command(*words: str) -> str:
        ended = await run_cli(*words, "--config", str(config), folder=tmp_path)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.decode()

    offline = json.loads(await command("plan", "a", "b", "c", "--offline", "--json"))
    assert [each["evicted"] for each in offline["models"]] == [[], [], ["a"]]
    async with serving(config) as router, router.client() as client:
        for name in "bc":
            await client.post("/v1/chat/completions", json=chat(name))
        plan = json.loads(await command("plan", "a", "--json"))
        assert plan["loaded"] == ["b", "c"]
        (step,) = plan["models"]
        assert step["claims"] == {"host": 400}
        assert step["footprint"]["source"] == "configured"
        assert step["evicted"] in (["b"], ["c"])
        assert "400 MiB host" in await command("ps")
        assert "100 MiB of 900 MiB for models are free" in await command("status")
