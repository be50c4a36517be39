"""``/admin/activity/ID/capture``: bodies of requests, if the configuration keeps any."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.process.harness import Router, post, request
from tests.process.test_admin import admin

pytestmark = pytest.mark.process


async def latest(router: Router) -> Any:
    """Return the row of the latest request."""
    return (await admin(router, "GET", "activity?limit=1")).json()["requests"][0]


async def captured(router: Router) -> Any:
    """Return the capture of the latest request."""
    row = await latest(router)
    assert row["captured"]
    answer = await admin(router, "GET", f"activity/{row['id']}/capture")
    assert answer.status == 200
    return answer.json()


async def test_nothing_is_kept_by_default(start, stage) -> None:
    """Prompts stay between client and backend."""
    router = await start({"a": stage.model("a")})
    await router.ask(post("/v1/chat/completions", "a"))
    row = await latest(router)
    assert not row["captured"]
    answer = await admin(router, "GET", f"activity/{row['id']}/capture")
    assert (answer.status, answer.error["code"]) == (404, "capture_not_found")


async def test_both_bodies_are_kept(start, stage) -> None:
    """As the client sent and got them, with its secrets masked."""
    router = await start({"a": stage.model("a")}, capture_mib=1)
    body = json.dumps({"model": "a", "prompt": "Grüße"}).encode()
    fields = {"content_type": "application/json", "authorization": "Bearer sk-1"}
    answer = await router.ask(request("POST", "/v1/chat/completions?x=1", body, **fields))
    found = await captured(router)
    assert (found["request"]["method"], found["request"]["target"]) == (
        "POST",
        "/v1/chat/completions?x=1",
    )
    assert found["request"]["body"] == body.decode()
    assert found["request"]["is_whole"]
    assert ["authorization", "********"] in found["request"]["headers"]
    assert found["response"]["status"] == 200
    assert found["response"]["body"].encode() == answer.body
    assert found["response"]["is_whole"]


async def test_a_stream_is_kept_as_it_came(start, stage) -> None:
    """And two requests of one connection do not mix."""
    router = await start({"a": stage.model("a")}, capture_mib=1)
    client = await router.connect()
    await client.send(post("/v1/script", "a", stream=True))
    script = await (await stage.backend("a")).request()
    await script.begin_stream()
    for word in (b"data: one\n\n", b"data: two\n\n"):
        await script.chunk(word)
        assert await client.head() if word.endswith(b"one\n\n") else True
        assert await client.chunk() == word
    await script.send(b"0\r\n\r\n")
    assert await client.chunk() == b""
    found = await captured(router)
    assert found["response"]["body"] == "data: one\n\ndata: two\n\n"
    await client.send(post("/v1/embeddings", "a"))
    second = await client.answer()
    again = await admin(router, "GET", f"activity/{found['id']}/capture")
    assert again.json()["response"] == found["response"]
    assert (await captured(router))["response"]["body"].encode() == second.body


async def test_what_the_router_refuses_is_kept_too(start, stage) -> None:
    """An error is what a person looks for."""
    router = await start({"a": stage.model("a")}, capture_mib=1)
    await router.ask(post("/v1/chat/completions", "none"))
    found = await captured(router)
    assert found["response"]["status"] == 404
    assert "model_not_found" in found["response"]["body"]


async def test_it_needs_the_token(start, stage) -> None:
    """No API key does."""
    keys = {"k": {"key": "sk-alice-0123456789"}}
    router = await start({"a": stage.model("a")}, capture_mib=1, api_keys=keys)
    fields = {"authorization": "Bearer sk-alice-0123456789"}
    await router.ask(request("POST", "/v1/chat/completions", b'{"model": "a"}', **fields))
    answer = await router.ask(request("GET", "/admin/activity/1/capture", **fields))
    assert answer.status == 401


@pytest.mark.parametrize("number", ["0", "-1", "x", "9" * 30, "%00"])
async def test_other_numbers_have_none(start, number) -> None:
    """Whatever they look like."""
    router = await start({})
    answer = await admin(router, "GET", f"activity/{number}/capture")
    assert answer.status == 404
