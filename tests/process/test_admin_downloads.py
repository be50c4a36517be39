"""Downloads over the admin API of a router that runs as a process."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from llama_router.models.tiny.chat import make_chat_model
from llama_router.process import procfs
from tests.hub_server import HubServer
from tests.process.real import RealRouter, chat

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]

REPO = "acme/tiny-GGUF"
MODEL = f"{REPO}:Q4_K_M"
CHAT_PATH = "/v1/chat/completions"


@pytest.fixture
def server(tmp_path) -> Iterator[HubServer]:
    """A hub with one chat model that really runs."""
    folder = tmp_path / "hub" / REPO
    folder.mkdir(parents=True)
    make_chat_model(folder / "tiny-Q4_K_M.gguf", name="tiny", seed=1)
    with HubServer(tmp_path / "hub") as server:
        yield server


@pytest.fixture
async def router(server, serve, tmp_path) -> RealRouter:
    """A router without any model."""
    environ: dict[str, Any] = dict.fromkeys(
        ("HF_TOKEN", "HF_HUB_OFFLINE", "LLAMA_CACHE", "XDG_CACHE_HOME"), ""
    )
    environ |= {"HOME": str(tmp_path), "HF_ENDPOINT": server.url, "NO_PROXY": "*"}
    environ |= {"HF_HUB_CACHE": str(tmp_path / "cache")}
    return await serve(router=["drain_s = 0.5", "scan_caches = true"], **environ)


@pytest.fixture
async def admin(router, tmp_path) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the token."""
    token = (tmp_path / "state" / "admin-token").read_text().strip()
    async with router.client() as client:
        client.headers["authorization"] = f"Bearer {token}"
        yield client


async def begin(admin: httpx.AsyncClient, model: str = REPO, **more: str) -> dict[str, Any]:
    answer = await admin.post("/admin/models/download", json={"model": model, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def news(admin: httpx.AsyncClient, id_: str) -> AsyncGenerator[dict[str, Any]]:
    """Yield the news about one download."""
    head = f"GET /admin/events HTTP/1.1\r\nhost: {admin.base_url.netloc.decode()}\r\n"
    head += f"authorization: {admin.headers['authorization']}\r\n\r\n"
    async with await trio.open_tcp_stream("127.0.0.1", admin.base_url.port or 0) as stream:
        await stream.send_all(head.encode())
        rest = b""
        async for received in stream:
            *lines, rest = (rest + received).split(b"\n")
            for line in lines:
                if line.startswith(b'data: {"id":"' + id_.encode() + b'"'):
                    yield json.loads(line.removeprefix(b"data: "))


async def over(admin: httpx.AsyncClient, router: RealRouter, id_: str) -> dict[str, Any]:
    """Wait until a download is over, and return it."""
    endings = ("download.finished", "download.failed", "download.cancelled")
    async with trio.open_nursery() as nursery:

        async def wait(event: str) -> None:
            await router.event(event, id=id_)
            nursery.cancel_scope.cancel()

        for event in endings:
            nursery.start_soon(wait, event)
    found: dict[str, Any] = (await admin.get(f"/admin/downloads/{id_}")).json()
    return found


async def test_a_download_ends_in_an_answer(router, admin, server) -> None:
    """Begun over HTTP, served without a restart when it is done, and deleted over HTTP."""
    begun = await begin(admin)
    done = await over(admin, router, begun["id"])
    assert (done["state"], done["model"]) == ("done", MODEL)
    assert done["done_bytes"] == done["total_bytes"] > 0
    answer = await admin.post(CHAT_PATH, json=chat(MODEL))
    assert answer.status_code == 200, answer.text
    deleted = await admin.delete("/admin/models", params={"model": REPO})
    assert deleted.json() == {"id": MODEL, "freed_bytes": done["total_bytes"]}
    assert await router.loaded() == []
    assert (await admin.post(CHAT_PATH, json=chat(MODEL))).status_code == 404
    assert not Path(done["path"]).exists()  # noqa: ASYNC240 -- one look


async def test_progress_is_told(router, admin, server) -> None:
    """As events, with bytes and rate; the list has the same download."""
    server.rate = 400_000
    begun = await begin(admin)
    async with aclosing(news(admin, begun["id"])) as told:
        async for data in told:
            if data["done_bytes"] and data["bytes_per_s"]:
                assert data["total_bytes"] > data["done_bytes"]
                assert data["left_s"] > 0
                break
    (listed,) = (await admin.get("/admin/downloads")).json()["downloads"]
    assert (listed["id"], listed["state"]) == (begun["id"], "running")


async def test_a_cancelled_download_leaves_no_process(router, admin, server) -> None:
    """Also while the hub is silent; a new one begins where it ended."""
    server.stall_after = 100_000
    begun = await begin(admin)
    await trio.to_thread.run_sync(server.stalled.wait)
    assert (await begin(admin))["id"] == begun["id"]
    cancelled = (await admin.delete(f"/admin/downloads/{begun['id']}")).json()
    assert cancelled["state"] == "cancelled"
    fetching = [
        pid
        for pid in procfs.children(router.process.pid)
        if b"models.fetch" in Path(f"/proc/{pid}/cmdline").read_bytes()  # noqa: ASYNC240 -- short
    ]
    assert fetching == []
    server.stall_after = None
    again = await begin(admin)
    assert again["id"] != begun["id"]
    assert (await over(admin, router, again["id"]))["state"] == "done"
    assert [entry["start"] > 0 for entry in server.served(".gguf")] == [False, True]


async def test_a_router_that_stops_takes_its_downloads_along(router, admin, server) -> None:
    """`serving` looks for what is left of the router's processes."""
    server.stall_after = 1
    begun = await begin(admin)
    await trio.to_thread.run_sync(server.stalled.wait)
    assert (await admin.get(f"/admin/downloads/{begun['id']}")).json()["state"] == "running"


async def test_failures_keep_their_code(router, admin) -> None:
    """In the download and in the log."""
    begun = await begin(admin, f"{REPO}:Q2_K")
    failed = await over(admin, router, begun["id"])
    assert failed["state"] == "failed"
    assert failed["error"] == {
        "code": "hub_file_missing",
        "message": f"{REPO} has no quantization 'Q2_K'; there are: Q4_K_M",
    }
    event = await router.event("download.failed", id=begun["id"])
    assert event["code"] == "hub_file_missing"


async def test_mistakes_are_told(router, admin) -> None:
    """Each with its status and code."""
    for method, path, body, status, code in (
        ("POST", "models/download", {"model": "../../x"}, 400, "hub_reference_invalid"),
        ("POST", "models/download", {"model": REPO, "file": "../x"}, 400, "hub_reference_invalid"),
        ("POST", "models/download", {}, 400, "invalid_request"),
        ("GET", "downloads/99", None, 404, "download_not_found"),
        ("DELETE", "downloads/99", None, 404, "download_not_found"),
        ("DELETE", "models?model=nobody", None, 404, "model_not_found"),
        ("DELETE", "models", None, 400, "invalid_request"),
    ):
        answer = await admin.request(method, f"/admin/{path}", json=body)
        told = (answer.status_code, answer.json()["error"]["code"])
        assert told == (status, code), (method, path, body)


async def test_every_route_needs_the_token(router) -> None:
    """A download fills the disk, and a deletion empties it."""
    async with router.client() as client:
        for method, path in (
            ("POST", "models/download"),
            ("GET", "downloads"),
            ("GET", "downloads/1"),
            ("DELETE", "downloads/1"),
            ("DELETE", "models?model=x"),
        ):
            answer = await client.request(method, f"/admin/{path}")
            assert answer.status_code == 401, (method, path)
