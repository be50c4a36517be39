"""``/api/pull`` with the official Ollama client, from a hub of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
import trio

from llama_router.models.tiny.chat import make_chat_model
from tests.hub_server import HubServer
from tests.process.real import LIMIT_S, RealRouter, serving, write_config

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]

REPO = "acme/tiny-GGUF"
MODEL = f"{REPO}:Q4_K_M"
MESSAGES = [{"role": "user", "content": "what do you see"}]


@pytest.fixture
def server(tmp_path) -> Iterator[HubServer]:
    """A hub with one chat model that really runs."""
    folder = tmp_path / "hub" / REPO
    folder.mkdir(parents=True)
    make_chat_model(folder / "tiny-Q4_K_M.gguf", name="tiny", seed=1)
    with HubServer(tmp_path / "hub") as server:
        yield server


def environ(server: HubServer, folder: Path) -> dict[str, Any]:
    """Return an environment in which that hub is the only one."""
    changes = dict.fromkeys(("HF_TOKEN", "HF_HUB_OFFLINE", "LLAMA_CACHE", "XDG_CACHE_HOME"), "")
    changes |= {"HOME": str(folder), "HF_ENDPOINT": server.url, "NO_PROXY": "*"}
    return changes | {"HF_HUB_CACHE": str(folder / "cache")}


@pytest.fixture
async def router(server, serve, tmp_path) -> RealRouter:
    """A router without any model."""
    how = ["drain_s = 0.5", "scan_caches = true"]
    return await serve(router=how, **environ(server, tmp_path))


async def test_a_pulled_model_answers(router, server) -> None:
    """Progress comes in bytes, ``success`` at the end, and the name that was pulled works."""
    server.rate = 2_000_000

    def pull() -> list[ollama.ProgressResponse]:
        return list(ollama.Client(router.url).pull(f"hf.co/{MODEL}", stream=True))

    progress = await trio.to_thread.run_sync(pull)
    async with ollama.AsyncClient(router.url) as client:
        answer = await client.chat(f"hf.co/{MODEL}", MESSAGES, options={"num_predict": 3})
        listed = (await client.list()).models
        again = await client.pull(REPO)
    assert progress[0].status == "pulling manifest"
    assert progress[-1].status == "success"
    moved = [line for line in progress if line.total]
    assert all(0 <= (line.completed or 0) <= (line.total or 0) for line in moved)
    assert len({line.digest for line in moved}) == 1
    assert answer.eval_count == 3
    assert [model.model for model in listed] == [MODEL]
    assert listed[0].details.quantization_level
    assert again.status == "success"


async def test_what_is_not_on_the_hub(router) -> None:
    """The client raises its error with the reason, streaming or not."""

    def pull() -> None:
        list(ollama.Client(router.url).pull("acme/nothing", stream=True))

    with pytest.raises(ollama.ResponseError, match="acme/nothing"):
        await trio.to_thread.run_sync(pull)
    async with ollama.AsyncClient(router.url) as client:
        with pytest.raises(ollama.ResponseError, match="acme/nothing") as missing:
            await client.pull("acme/nothing")
        with pytest.raises(ollama.ResponseError, match="user/repo") as unclear:
            await client.pull("llama3.2")
    assert (missing.value.status_code, unclear.value.status_code) == (404, 400)


async def test_who_leaves_ends_the_download(router, server) -> None:
    """What is here is kept for the next time."""
    server.stall_after = 100_000

    def leave() -> None:
        for line in ollama.Client(router.url).pull(MODEL, stream=True):
            if line.completed:
                return

    await trio.to_thread.run_sync(leave)
    ended = await router.event("download.cancelled")
    assert 0 < ended["done_bytes"] <= 100_000


@pytest.mark.parametrize(
    ("models_api", "key_status"), [("auto", 200), ("open", 200), ("admin", 401)]
)
async def test_who_may_pull(server, tmp_path, models_api, key_status) -> None:
    """The same rule as for llama.cpp's API, and never with a key for some models only."""
    keys = '[api_keys.me]\nkey = "not-a-secret"\n'
    keys += '[api_keys.one]\nkey = "not-a-secret-either"\nmodels = ["x"]\n'
    config = write_config(tmp_path, keys, router=[f'models_api = "{models_api}"'])
    with trio.fail_after(LIMIT_S):
        async with serving(config, **environ(server, tmp_path)) as router:
            token = (tmp_path / "state" / "admin-token").read_text().strip()
            statuses = []
            for key in ("", "not-a-secret-either", "not-a-secret", token):
                headers = {"Authorization": f"Bearer {key}"} if key else {}
                async with router.client() as client:
                    body = {"model": REPO, "stream": False}
                    answer = await client.post("/api/pull", json=body, headers=headers)
                    assert answer.is_success or list(answer.json()) == ["error"]
                statuses.append(answer.status_code)
    limited = 401 if models_api == "admin" else 403
    with_token = 200 if models_api == "admin" else 401  # it is no API key
    assert statuses == [401, limited, key_status, with_token]


async def test_a_pulled_model_is_deleted(router) -> None:
    """It goes from the list and from the disk; what is not here is not found."""
    async with ollama.AsyncClient(router.url) as client:
        await client.pull(MODEL)
        await client.chat(MODEL.lower(), MESSAGES, options={"num_predict": 3})
        assert (await client.delete(f"hf.co/{MODEL}")).status == "success"
        assert (await client.list()).models == []
        with pytest.raises(ollama.ResponseError, match="acme") as missing:
            await client.delete(MODEL)
    assert missing.value.status_code == 404


async def test_what_is_not_done(router) -> None:
    """The client raises its error, which says what to do instead."""
    async with ollama.AsyncClient(router.url) as client:
        with pytest.raises(ollama.ResponseError, match=r"router\.toml") as created:
            await client.create("x", from_="y")
        with pytest.raises(ollama.ResponseError, match="uploaded") as pushed:
            await client.push("x")
    assert (created.value.status_code, pushed.value.status_code) == (501, 501)
    async with router.client() as http:
        answers = [
            await http.post("/api/copy", json={"source": "x", "destination": "y"}),
            await http.post("/api/blobs/sha256:00", content=b"GGUF"),
            await http.post("/api/create", content=b"\xff\x00"),
            await http.get("/api/copy"),
            await http.get("/api/blobs/sha256:00"),
        ]
    assert [answer.status_code for answer in answers] == [501, 501, 501, 405, 405]
    assert all(list(answer.json()) == ["error"] for answer in answers)
