"""Models without configuration: an empty router.toml, and a folder or a cache with GGUF files."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest
import trio

from llama_router.models import tiny
from tests.process.real import LIMIT_S, chat, run_cli, serving, write_config

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a chat model, an embedding model and a reranker, one of them deeper."""
    folder = tmp_path / "models"
    (folder / "text").mkdir(parents=True)
    tiny.make_chat_model(folder / "text" / "talker-Q4_K_M.gguf", name="talker")
    tiny.make_embedding_model(folder / "embedder.gguf")
    tiny.make_rerank_model(folder / "ranker.gguf")
    return folder


def config_for(tmp_path: Path, folder: Path, *tables: str) -> Path:
    """Write a configuration that says nothing but where the models are."""
    return write_config(tmp_path, *tables, router=[f"models_dirs = {json.dumps([str(folder)])}"])


async def listed(client: httpx.AsyncClient) -> set[str]:
    """Return the names of all models."""
    return {model["id"] for model in (await client.get("/v1/models")).json()["data"]}


async def test_found_models_are_served_each_as_what_it_is(tmp_path, folder) -> None:
    """Chat, embeddings and reranking are answered without a line about the models."""
    config = config_for(tmp_path, folder)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            assert await listed(client) == {"talker-Q4_K_M", "embedder", "ranker"}
            answer = await client.post("/v1/chat/completions", json=chat("talker-Q4_K_M"))
            assert answer.status_code == 200, answer.text
            by_file = await client.post("/v1/chat/completions", json=chat("talker-Q4_K_M.gguf"))
            assert by_file.status_code == 200, by_file.text
            body = {"model": "embedder", "input": "what do you see"}
            answer = await client.post("/v1/embeddings", json=body)
            assert len(answer.json()["data"][0]["embedding"]) == 64, answer.text
            body = {"model": "ranker", "query": "a word", "documents": ["one", "other"]}
            answer = await client.post("/v1/rerank", json=body)
            assert len(answer.json()["results"]) == 2, answer.text


async def test_a_rescan_sees_what_came_and_what_went(tmp_path, folder) -> None:
    """A removed file takes its model away, a new one is served, and the rest runs on."""
    config = config_for(tmp_path, folder)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat("talker-Q4_K_M"))
            assert answer.status_code == 200, answer.text
            (folder / "ranker.gguf").unlink()
            tiny.make_chat_model(folder / "second.gguf", name="second", seed=5)
            done = await run_cli("rescan", "--config", str(config), folder=tmp_path)
            assert done.stdout == b"new models: 1, removed: 1\n", done.stderr
            assert await listed(client) == {"talker-Q4_K_M", "embedder", "second"}
            assert await router.loaded() == ["talker-Q4_K_M"]
            body = {"model": "ranker", "query": "a", "documents": ["b"]}
            assert (await client.post("/v1/rerank", json=body)).status_code == 404
            answer = await client.post("/v1/chat/completions", json=chat("second"))
            assert answer.status_code == 200, answer.text
            assert [event["model"] for event in router.named("backend.spawned")] == [
                "talker-Q4_K_M",
                "second",
            ]


async def test_an_import_needs_no_configuration(tmp_path, folder) -> None:
    """Models that were imported are served without any ``router.toml``, and stay known."""
    home = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    with trio.fail_after(LIMIT_S):
        done = await run_cli("import", str(folder), folder=tmp_path, **home)
        assert done.stdout.count(b"imported: ") == 3, done.stderr
        done = await run_cli("import", str(folder), folder=tmp_path, **home)
        assert done.stdout.count(b"known already: ") == 3, done.stderr
        (folder / "ranker.gguf").rename(tmp_path / "elsewhere")
        done = await run_cli("check", folder=tmp_path, **home)
        assert done.returncode == 1, "check is about a file"
        async with serving(tmp_path, **home) as router, router.client() as client:
            assert await listed(client) == {"talker-Q4_K_M", "embedder"}
            answer = await client.post("/v1/chat/completions", json=chat("talker-Q4_K_M"))
            assert answer.status_code == 200, answer.text
            (tmp_path / "elsewhere").rename(folder / "ranker.gguf")
            done = await run_cli("rescan", folder=tmp_path, **home)
            assert done.returncode == 0, done.stderr
            assert await listed(client) == {"talker-Q4_K_M", "embedder", "ranker"}


async def test_found_models_survive_a_restart_and_a_reload(tmp_path, folder) -> None:
    """A second router of the same state finds nothing new, and a reload keeps what was found."""
    config = config_for(tmp_path, folder)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            assert (await router.event("models.scanned"))["new"] != []
        async with serving(config) as router, router.client() as client:
            scanned = await router.event("models.scanned")
            assert (scanned["found"], scanned["new"]) == (3, [])
            answer = await client.post("/v1/chat/completions", json=chat("talker-Q4_K_M"))
            assert answer.status_code == 200, answer.text
            config.write_text(config.read_text() + '[models.embedder]\ngroup = "small"\n')
            router.signal(signal.SIGHUP)
            applied = await router.event("config.applied")
            assert (applied["retuned"], applied["restarted"]) == (["embedder"], [])
            assert await router.loaded() == ["talker-Q4_K_M"]
