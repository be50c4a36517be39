"""``/admin/hub``: a search on the hub, and what a repository offers, over the admin API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from llama_router.errors.downloads import HubUnreachableError
from llama_router.hub import browser
from llama_router.hub.browser import HubBrowser
from llama_router.models.tiny.chat import make_chat_model
from tests.hub_server import HubServer
from tests.process.real import RealRouter

pytest.importorskip("gguf", reason="the extra 'embedded' is not installed")
pytestmark = pytest.mark.process

REPO = "acme/tiny-GGUF"
MIB = 2**20


@pytest.fixture
def server(tmp_path) -> Iterator[HubServer]:
    """A hub with some repositories."""
    folder = tmp_path / "hub" / REPO
    folder.mkdir(parents=True)
    make_chat_model(folder / "tiny-Q8_0.gguf", name="tiny", seed=1)
    (folder / "tiny-Q4_K_M.gguf").write_bytes((folder / "tiny-Q8_0.gguf").read_bytes())
    for part, size in ((1, 3), (2, 4)):
        (folder / f"tiny-F32-0000{part}-of-00002.gguf").write_bytes(b"x" * size)
    (folder / "mmproj-tiny-F16.gguf").write_bytes(b"x" * 5)
    other = tmp_path / "hub" / "acme" / "weights"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"x")
    with HubServer(tmp_path / "hub") as server:
        yield server


def environ_of(server: HubServer, tmp_path, **more: str) -> dict[str, Any]:
    environ: dict[str, Any] = dict.fromkeys(
        ("HF_TOKEN", "HF_HUB_OFFLINE", "LLAMA_CACHE", "XDG_CACHE_HOME"), ""
    )
    environ |= {"HOME": str(tmp_path), "HF_ENDPOINT": server.url, "NO_PROXY": "*"}
    return environ | {"HF_HUB_CACHE": str(tmp_path / "cache"), **more}


@pytest.fixture
async def router(server, serve, tmp_path) -> RealRouter:
    """A router without any model, with a GPU of 4 GiB that does not exist."""
    return await serve(
        "[scheduler]\npolicy = 'memory'\n[devices.gpu]\nkind = 'simulated'\nmemory_mib = 4096\n",
        router=["drain_s = 0.5"],
        **environ_of(server, tmp_path),
    )


@pytest.fixture
async def admin(router, tmp_path) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the token."""
    token = (tmp_path / "state" / "admin-token").read_text().strip()
    async with router.client() as client:
        client.headers["authorization"] = f"Bearer {token}"
        yield client


async def test_a_search_finds_repositories(admin, server) -> None:
    """What makes no sense in the hub's answer is left out."""
    server.gated.add(REPO)
    server.extra_found = [7, {"id": "../../etc"}, {"id": "x/y", "downloads": "many"}]
    answer = await admin.get("/admin/hub/search", params={"q": " tiny <b> "})
    assert answer.json() == {"query": "tiny <b>", "repositories": [  # the last one fits anything
        {"id": "x/y", "downloads": None, "likes": None, "modified_at": None, "gated": False,
         "task": None, "is_here": False}]}  # fmt: skip
    found = (await admin.get("/admin/hub/search", params={"q": "tiny", "sort": "likes"})).json()
    (repository, _) = found["repositories"]
    assert (repository["id"], repository["gated"], repository["likes"]) == (REPO, True, 1)
    query = server.log[-1]["query"]
    assert (query["filter"], query["sort"], query["search"]) == (["gguf"], ["likes"], ["tiny"])


async def test_a_repository_lists_its_models(admin, server, tmp_path) -> None:
    """Smallest first; the parts of a split one count together, and so does the projector."""
    size = (tmp_path / "hub" / REPO / "tiny-Q8_0.gguf").stat().st_size
    found = (await admin.get("/admin/hub/repo", params={"id": REPO.lower()})).json()
    assert (found["id"], found["gated"], found["note"]) == (REPO, False, "")
    assert found["free_bytes"] > 0
    models = {model["label"]: model for model in found["models"]}
    assert list(models) == ["F32", "Q4_K_M", "Q8_0"]
    assert models["F32"]["size_bytes"] == 7
    assert models["F32"]["files"] == [f"tiny-F32-0000{part}-of-00002.gguf" for part in (1, 2)]
    assert models["Q8_0"]["size_bytes"] == size
    assert (models["Q8_0"]["mmproj"], models["Q8_0"]["mmproj_bytes"]) == ("mmproj-tiny-F16.gguf", 5)
    assert [model["label"] for model in models.values() if model["is_default"]] == ["Q4_K_M"]
    assert models["Q4_K_M"]["reference"] == f"{REPO}:Q4_K_M"
    fit = models["Q4_K_M"]["fit"]
    assert (fit["where"], fit["devices"], fit["source"]) == ("gpu", ["gpu"], "header")
    assert size / MIB < fit["need_mib"] < 4096


async def test_what_is_here_already_is_told(admin, router) -> None:
    """After a download of it."""
    answer = await admin.post("/admin/models/download", json={"model": f"{REPO}:F32"})
    await router.event("download.finished", id=answer.json()["id"])
    found = (await admin.get("/admin/hub/repo", params={"id": REPO})).json()
    here = {model["label"]: model["is_here"] for model in found["models"]}
    assert here == {"F32": True, "Q4_K_M": False, "Q8_0": False}
    (repository,) = (await admin.get("/admin/hub/search", params={"q": "tiny"})).json()[
        "repositories"
    ]
    assert repository["is_here"]


async def test_a_repository_without_models_says_why(admin) -> None:
    """It has weights for other programs, for example."""
    found = (await admin.get("/admin/hub/repo", params={"id": "acme/weights"})).json()
    assert found["models"] == []
    assert "no GGUF files" in found["note"]


async def test_a_mistake_is_told(admin) -> None:
    """In one sentence, with its code."""
    for query, status, code, param in (
        ("repo?id=acme/none", 404, "hub_repository_missing", "model"),
        ("repo?id=../../etc/passwd", 400, "hub_reference_invalid", "id"),
        ("repo", 400, "invalid_request", "id"),
        ("search?sort=evil", 400, "invalid_request", "sort"),
        ("search?q=" + "x" * 201, 400, "invalid_request", "q"),
    ):
        answer = await admin.get(f"/admin/hub/{query}")
        error = answer.json()["error"]
        told = (answer.status_code, error["code"], error["param"])
        assert told == (status, code, param), query


async def test_a_hub_that_fails_is_told_at_once(admin, server) -> None:
    """Without the retries of a download: a person waits."""
    for query in ("search?q=x", f"repo?id={REPO}"):
        server.answers = [(503, {})] * 2
        answer = await admin.get(f"/admin/hub/{query}")
        told = (answer.status_code, answer.json()["error"]["code"])
        assert told == (503, "hub_unreachable"), query
        assert len(server.answers) == 1


async def test_a_hub_that_is_silent_is_given_up(server, tmp_path, monkeypatch) -> None:
    """In bounded time, and its process is ended."""
    monkeypatch.setattr(browser, "LIMIT_S", 3.0)
    server.stall_api = True
    hub = HubBrowser(environ_of(server, tmp_path, PATH="/usr/bin:/bin"))
    with pytest.raises(HubUnreachableError, match="did not answer within 3 seconds"):
        await hub.search("x", "likes")


async def test_no_request_leaves_when_it_is_offline(server, tmp_path) -> None:
    """The user said so."""
    hub = HubBrowser(environ_of(server, tmp_path, HF_HUB_OFFLINE="1"))
    with pytest.raises(HubUnreachableError, match="HF_HUB_OFFLINE"):
        await hub.search("x", "likes")
    assert server.log == []
