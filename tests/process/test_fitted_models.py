"""Models that llama.cpp fits into memory: what it chose is said, and repeated as options."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from llama_router.core.config.names import ModelId
from llama_router.core.memory.estimate import estimate
from llama_router.core.memory.flags import read_flags
from llama_router.core.memory.report_lines import LEFT_OUT
from llama_router.dispatch import squeezed
from llama_router.models.tensors import read_weights
from llama_router.models.tiny.chat import make_chat_model
from tests.process.harness import Router

pytestmark = pytest.mark.process

CHAT = "/v1/chat/completions"

_HOST_MIB = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20

#: Says what the file ``fit`` beside it has, then serves.
SERVER = """\
#!{python} -IS
import pathlib, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_POST = do_GET
    def log_message(self, *_):
        pass

sys.stdout.write(pathlib.Path(__file__).with_name("fit").read_text())
sys.stdout.flush()
port = int(sys.argv[sys.argv.index("--port") + 1])
HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""

#: What llama.cpp says on a GPU that other programs use, too.
FIT = """\
common_memory_breakdown_print: |   - CUDA0 (RTX)   | 24000 = 12000 + (9000 = 8000 + 500 + 500) + 0 |
common_params_fit_impl: projected to use 9000 MiB of device memory vs. {free} MiB of free device memory
common_params_fit_impl: cannot meet free memory target of 1024 MiB, need to reduce device memory
common_params_fit_impl:   - CUDA0 (RTX): {layers} layers,   {free} MiB used,   1024 MiB free
common_fit_params: successfully fit params to free device memory
load_tensors: offloaded {layers}/33 layers to GPU
llama_context: n_ctx = 4096
"""  # noqa: E501 -- as it prints them


@pytest.fixture
def large_context(tmp_path: Path) -> dict[str, Any]:
    """The table of a model with a context of 65,536, which is a little too much."""
    path = tmp_path / "large-context.gguf"
    make_chat_model(path, name="large context", n_ctx=65536)
    return {"path": str(path), "args": ["--fit-target", str(_HOST_MIB - 12)]}


async def load(router: Router, model: str) -> dict[str, Any]:
    """Load *model* anew, and return its state."""
    token = (router.path.parent / "state" / "admin-token").read_text().strip()
    async with router.http() as client:
        client.headers["Authorization"] = f"Bearer {token}"
        for path in ("unload", "load"):
            response = await client.post(f"/admin/models/{path}", json={"model": model})
            assert response.status_code == 200, response.text
        state = (await client.get("/admin/status")).json()
    (found,) = [each for each in state["models"] if each["id"] == model]
    return found


@pytest.mark.embedded
async def test_the_second_load_repeats_the_choice(start, large_context) -> None:
    """It gets options that say what llama.cpp chose at the first, and fits no more."""
    router = await start({"a": large_context})
    first, second = await load(router, "a"), await load(router, "a")
    assert first["fit"] == second["fit"]
    assert 4096 <= first["fit"]["n_ctx"] < first["fit"]["n_ctx_full"] == 65536
    options = ["--ctx-size", str(first["fit"]["n_ctx"]), "--fit", "off"]
    assert first["fit"]["options"] == options
    commands = [event["argv"] for event in router.events.named("backend.spawned")]
    assert (list(commands[0][-2:]), list(commands[1][-4:])) == (large_context["args"], options)
    assert [event["repeated"] for event in router.events.named("backend.fitted")] == [False, True]


@pytest.mark.embedded
async def test_a_model_is_fitted_into_its_share_of_host_memory(start, tmp_path) -> None:
    """By itself, llama.cpp would compare with all memory, and take more than models may have."""
    path = tmp_path / "a.gguf"
    make_chat_model(path, name="a", n_ctx=1 << 18)
    takes = estimate(read_weights(str(path)), read_flags([], {}), has_gpu=False)
    assert takes.least_host_mib is not None
    most_mib = (takes.host_mib + takes.least_host_mib) // 2
    router = await start(
        {"a": {"path": str(path)}},
        scheduler={"policy": "memory"},
        devices={"host": {"memory_mib": most_mib, "reserve_mib": 0}},
    )
    found = await load(router, "a")
    assert found["fit"]["n_ctx_full"] == 1 << 18
    assert 0.4 < found["fit"]["n_ctx"] / (1 << 18) < 0.6


@pytest.mark.embedded
async def test_the_log_of_the_first_load_is_as_short_as_any(start, large_context) -> None:
    """What llama.cpp says only because the router asks for its report is left out, and that said.

    With a verbosity of the user's own, everything is there.
    """
    verbose = {**large_context, "spawn": {"env": {"LLAMA_ARG_LOG_VERBOSITY": "4"}}}
    router = await start({"a": large_context, "b": verbose})
    texts = {}
    for name in ("a", "b"):
        assert (await load(router, name))["fit"]["n_ctx"]
        token = (router.path.parent / "state" / "admin-token").read_text().strip()
        async with router.http() as client:
            client.headers["Authorization"] = f"Bearer {token}"
            texts[name] = (await client.get(f"/admin/logs/{name}?tail=1000")).text
    assert LEFT_OUT in texts["a"]
    assert "memory breakdown" not in texts["a"]
    assert texts["a"].count("\n") < 40
    assert "memory breakdown" in texts["b"]
    assert LEFT_OUT not in texts["b"]


@pytest.mark.embedded
async def test_a_later_router_knows_the_choice(start, large_context) -> None:
    """It was written to the state directory; the context is in the lists before any load."""
    first = await start({"a": large_context})
    n_ctx = (await load(first, "a"))["fit"]["n_ctx"]
    await first.stop()
    second = await start({"a": large_context})
    entry = (await second.ask(b"GET /v1/models/a HTTP/1.1\r\nHost: localhost\r\n\r\n")).json()
    assert entry["meta"] == {"n_ctx": n_ctx}
    assert entry["status"]["value"] == "unloaded"
    assert (await load(second, "a"))["fit"]["n_ctx"] == n_ctx
    assert second.events.named("backend.fitted")[-1]["repeated"] is True


async def test_a_squeezed_model_is_said_loudly(start, tmp_path) -> None:
    """It got fewer layers on the GPU than at an earlier load of the same files and command."""
    server = tmp_path / "llama-server-scripted"
    server.write_text(SERVER.format(python=sys.executable))
    server.chmod(0o755)
    (tmp_path / "fit").write_text(FIT.format(free=9500, layers=32))
    (tmp_path / "a.gguf").touch()
    router = await start({"a": {"path": str(tmp_path / "a.gguf")}}, llama_server=str(server))
    first = await load(router, "a")
    (tmp_path / "fit").write_text(FIT.format(free=4000, layers=9))
    second = await load(router, "a")
    assert (first["fit"]["n_gpu_layers"], second["fit"]["n_gpu_layers"]) == (32, 9)
    assert second["fit"]["squeezed"]
    assert "9 of 33 layers" in router.events.named("backend.squeezed")[-1]["reason"]


@pytest.mark.parametrize("policy", ["groups", "memory"])
async def test_a_squeezed_model_is_loaded_again_when_there_is_room(
    start, tmp_path, monkeypatch, policy
) -> None:
    """On a simulated GPU: another program gives its memory back, and the model gets all of it."""
    monkeypatch.setattr(squeezed, "IDLE_S", 0.0)
    monkeypatch.setattr(squeezed, "PERIOD_S", 0.05)
    server = tmp_path / "llama-server-scripted"
    server.write_text(SERVER.format(python=sys.executable))
    server.chmod(0o755)
    (tmp_path / "fit").write_text(FIT.format(free=4000, layers=9))
    (tmp_path / "a.gguf").touch()
    holders = tmp_path / "state" / "simulated" / "gpu0.json"
    holders.parent.mkdir(parents=True, mode=0o700)
    holders.write_text(json.dumps({os.getpid(): 20000}))
    router = await start(
        {"a": {"path": str(tmp_path / "a.gguf")}},
        llama_server=str(server),
        scheduler={"policy": policy},
        devices={"gpu0": {"kind": "simulated", "memory_mib": 24000}},
    )
    assert (await load(router, "a"))["fit"]["squeezed"]
    assert router.events.named("backend.unsqueezed") == []
    full = FIT.format(free=23000, layers=33).replace(
        "cannot meet free", "will leave 13000 >= 1024 MiB of free"
    )
    (tmp_path / "fit").write_text(full)
    holders.write_text("{}")
    again = await router.events.wait("backend.unsqueezed")
    assert (again["model"], again["needs_mib"]) == ("a", 9000 + 1024)
    dispatcher = router.running.dispatcher
    while (backend := dispatcher.backend(ModelId("a"))) is None or backend.squeezed:
        await dispatcher.changed.wait()
    assert len(router.spawned()) == 2
