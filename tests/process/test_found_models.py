"""Models without configuration: an empty router.toml, and a folder or a cache with GGUF files."""

from __future__ import annotations

import base64
import fcntl
import json
import signal
import struct
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from llama_router.models.tiny.bert import make_embedding_model, make_rerank_model
from llama_router.models.tiny.chat import make_chat_model
from llama_router.models.tiny.projector import make_projector
from tests.process.real import LIMIT_S, chat, run_cli, serving, write_config

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a chat model, an embedding model and a reranker, one of them deeper."""
    folder = tmp_path / "models"
    (folder / "text").mkdir(parents=True)
    make_chat_model(folder / "text" / "talker-Q4_K_M.gguf", name="talker")
    make_embedding_model(folder / "embedder.gguf")
    make_rerank_model(folder / "ranker.gguf")
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
            body: dict[str, Any] = {"model": "embedder", "input": "what do you see"}
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
            make_chat_model(folder / "second.gguf", name="second", seed=5)
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


async def test_a_replaced_model_file_is_served_after_a_rescan(tmp_path, folder) -> None:
    """The backend of the old one is replaced, although nothing but the file is another one."""
    config = config_for(tmp_path, folder)
    make_chat_model(tmp_path / "new.gguf", name="talker", seed=5)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            answer = await client.post("/v1/chat/completions", json=chat("talker-Q4_K_M"))
            assert answer.status_code == 200, answer.text
            (tmp_path / "new.gguf").replace(folder / "text" / "talker-Q4_K_M.gguf")
            seen = len(router.events)
            done = await run_cli("rescan", "--config", str(config), folder=tmp_path)
            assert done.stdout == b"new models: 0, removed: 0\n", done.stderr
            await router.event("config.applied", after=seen, restarted=["talker-Q4_K_M"])
            await router.event("backend.spawned", after=seen, model="talker-Q4_K_M")
            answer = await client.post("/v1/chat/completions", json=chat("talker-Q4_K_M"))
            assert answer.status_code == 200, answer.text


async def test_an_import_tells_the_running_router(tmp_path, folder) -> None:
    """The import has stored them; new to this router they are nevertheless."""
    config = config_for(tmp_path, folder)
    more = tmp_path / "more"
    more.mkdir()
    make_chat_model(more / "second.gguf", name="second", seed=5)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            done = await run_cli("import", str(more), "-c", str(config), folder=tmp_path)
            assert done.stdout == b"imported: second\n", done.stderr
            assert done.stderr == b"the running router has scanned its models: 1 new\n"
            assert "second" in await listed(client)
            done = await run_cli("rescan", "-c", str(config), folder=tmp_path)
            assert done.stdout == b"new models: 0, removed: 0\n", done.stderr


async def test_an_import_needs_no_configuration(tmp_path, folder) -> None:
    """Models that were imported are served without any ``router.toml``, and stay known."""
    home: dict[str, Any] = {
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
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


def picture() -> str:
    """Return a grey PNG of 32 by 32 pixels, as a URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    head = struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * 96) * 32)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


async def test_a_model_of_the_hub_sees_with_its_projector(tmp_path) -> None:
    """It is found in the cache, under the hub's name; a picture is understood, or so it says."""
    repository = tmp_path / "hub" / "models--tiny--eyes-GGUF"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    make_chat_model(repository / "blobs" / "aa", name="eyes")
    make_projector(repository / "blobs" / "bb")
    (snapshot / "eyes-F32.gguf").symlink_to("../../blobs/aa")
    (snapshot / "mmproj-F32.gguf").symlink_to("../../blobs/bb")
    config = write_config(tmp_path, router=["scan_caches = true"])
    content = [
        {"type": "text", "text": "what do you see"},
        {"type": "image_url", "image_url": {"url": picture()}},
    ]
    body = chat("tiny/eyes-GGUF") | {"messages": [{"role": "user", "content": content}]}
    caches: dict[str, Any] = {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "LLAMA_CACHE": str(tmp_path / "none"),
    }
    with trio.fail_after(LIMIT_S):
        async with serving(config, **caches) as router, router.client() as client:
            assert await listed(client) == {"tiny/eyes-GGUF:F32"}
            answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            spawned = await router.event("backend.spawned")
            assert spawned["argv"][-2:] == ["--mmproj", str(snapshot / "mmproj-F32.gguf")]


async def test_a_folder_that_is_named_later_is_searched_at_once(tmp_path, folder) -> None:
    """A changed ``models_dirs`` starts a scan; nobody has to ask for it."""
    config = config_for(tmp_path, folder / "text")
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            assert await listed(client) == {"talker-Q4_K_M"}
            seen = len(router.events)
            config_for(tmp_path, folder)
            router.signal(signal.SIGHUP)
            scanned = await router.event("models.scanned", after=seen)
            assert scanned["new"] == ["embedder", "ranker"]
            await router.event("config.applied", after=seen, added=["embedder", "ranker"])
            assert await listed(client) == {"talker-Q4_K_M", "embedder", "ranker"}


async def test_settings_of_a_model_that_is_gone_stop_nothing(tmp_path, folder) -> None:
    """Neither a rescan nor the next start; the settings count again when the file is back."""
    table = '[models.ranker]\ngroup = "g"\n'
    config = config_for(tmp_path, folder, table)
    away = tmp_path / "away"
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            (folder / "ranker.gguf").rename(away)
            done = await run_cli("rescan", "--config", str(config), folder=tmp_path)
            assert done.returncode == 0, done.stderr
            assert await listed(client) == {"talker-Q4_K_M", "embedder"}
            line = config.read_text().splitlines().index("[models.ranker]") + 1
            assert (await router.event("config.doubted"))["problem"].startswith(f"line {line}: ")
        async with serving(config) as router, router.client() as client:
            assert await listed(client) == {"talker-Q4_K_M", "embedder"}
            away.rename(folder / "ranker.gguf")
            done = await run_cli("rescan", "--config", str(config), folder=tmp_path)
            assert done.stdout == b"new models: 1, removed: 0\n", done.stderr
            assert "ranker" in await listed(client)


async def test_a_rescan_says_when_the_configuration_is_in_its_way(tmp_path, folder) -> None:
    """It must not look as if what was found were in force."""
    config = config_for(tmp_path, folder)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            config.write_text(config.read_text() + "[oops]\n")
            (folder / "ranker.gguf").unlink()
            done = await run_cli("rescan", "--config", str(config), folder=tmp_path)
            assert done.returncode == 1
            assert b"its file has mistakes" in done.stderr
            assert "ranker" in await listed(client)


async def test_a_scan_that_hangs_neither_blocks_nor_stays_behind(tmp_path, folder) -> None:
    """Requests are answered meanwhile, and SIGTERM ends the scan with the router."""
    table = ["drain_s = 0.5", f"models_dirs = {json.dumps([str(folder)])}"]
    config = write_config(tmp_path, router=table)
    refused = trio.Event()
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            async with serving(config) as router, router.client() as client:
                token = (tmp_path / "state" / "admin-token").read_text().strip()
                lock = (tmp_path / "state" / "models.toml.lock").open()
                fcntl.flock(lock, fcntl.LOCK_EX)  # as if another process wrote for ever

                async def rescan() -> None:
                    async with router.client() as client:
                        headers = {"x-admin-token": token}
                        with pytest.raises(httpx.HTTPError):
                            await client.post("/admin/rescan", json={}, headers=headers)
                    refused.set()

                nursery.start_soon(rescan)
                answer = await client.post("/v1/chat/completions", json=chat("talker-Q4_K_M"))
                assert answer.status_code == 200, answer.text
                assert not refused.is_set()
            await refused.wait()
            lock.close()


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
