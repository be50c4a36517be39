"""``/admin/router-log``: the router's own log over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import trio

from tests.process.harness import RawClient, request
from tests.process.real import RealRouter

pytestmark = pytest.mark.process


@pytest.fixture
async def router(serve) -> RealRouter:
    """A router as a program."""
    return await serve(router=["drain_s = 0.5"])


@pytest.fixture
async def admin(router, tmp_path) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the token."""
    token = (tmp_path / "state" / "admin-token").read_text().strip()
    async with router.client() as client:
        client.headers["authorization"] = f"Bearer {token}"
        yield client


async def test_the_log_is_there_from_its_beginning(admin) -> None:
    """As JSON lines, or as text."""
    answer = await admin.get("/admin/router-log", params={"tail": 1000})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    events = [json.loads(line) for line in answer.text.splitlines()]
    assert "router.ready" in [event["event"] for event in events]
    assert events[0].keys() > {"ts", "level", "event"}
    text = (await admin.get("/admin/router-log", params={"format": "text"})).text
    assert "router.ready" in text
    assert "\x1b" not in text


async def test_it_is_followed(admin) -> None:
    """New events come as they happen, also those of requests."""
    fields = {"authorization": admin.headers["authorization"]}
    async with await trio.open_tcp_stream("127.0.0.1", admin.base_url.port) as stream:
        client = RawClient(stream)
        await client.send(request("GET", "/admin/router-log?tail=0&follow=1", **fields))
        assert (await client.head()).status == 200
        await admin.post("/v1/chat/completions", json={"model": "none"})
        seen = b""
        while b"request.refused" not in seen:
            seen += await client.chunk()
    (event,) = [json.loads(line) for line in seen.splitlines() if b"request.refused" in line]
    assert (event["model"], event["code"]) == ("none", "model_not_found")


async def test_a_level_leaves_the_others_out(admin) -> None:
    """Errors only, for example."""
    answer = await admin.get("/admin/router-log", params={"level": "error", "tail": 1000})
    assert [json.loads(line)["level"] for line in answer.text.splitlines()] == []


@pytest.mark.parametrize("query", ["level=loud", "tail=x", "follow=maybe", "format=xml"])
async def test_a_mistake_is_told(admin, query) -> None:
    """With the parameter."""
    answer = await admin.get(f"/admin/router-log?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])


async def test_llama_swaps_route_for_it(admin) -> None:
    """As text, past lines and new ones."""
    fields = {"authorization": admin.headers["authorization"]}
    async with await trio.open_tcp_stream("127.0.0.1", admin.base_url.port) as stream:
        client = RawClient(stream)
        await client.send(request("GET", "/logs/stream/proxy", **fields))
        assert (await client.head()).status == 200
        seen = await client.chunk()
        assert b"router.ready" in seen
        await admin.post("/v1/chat/completions", json={"model": "none"})
        while b"request.refused" not in seen:
            seen += await client.chunk()
