"""The record of requests, live and past, with scripted backends."""

from __future__ import annotations

import gc
import hashlib
import json
import weakref

import pytest
import trio

from llama_router.dispatch.activity_log import ActivityRow
from llama_router.gateway.model_request import ModelRequest
from tests.process.harness import Router, post, request

pytestmark = pytest.mark.process

CHAT = "/v1/chat/completions?script"
USAGE = b'data: {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}\n\ndata: [DONE]\n\n'


def rows(router: Router) -> list[ActivityRow]:
    """Return the rows of *router*, in the order of arrival."""
    log = router.running.dispatcher.activity
    found = [log.row(one, now_s=trio.current_time()) for one in log.latest()]
    return sorted(found, key=lambda row: row.id)


async def test_a_request_is_there_from_its_arrival_to_its_end(start, stage) -> None:
    """It loads, runs and is done; then its row has all figures."""
    router = await start({"a": stage.model("a", "--health", "told")})
    client = await router.connect()
    await client.send(post(CHAT, "a", stream=True))
    backend = await stage.backend("a")
    (row,) = rows(router)
    assert (row.model, row.client, row.key, row.state) == ("a", "127.0.0.1", None, "loading")
    assert (row.method, row.path) == ("POST", "/v1/chat/completions")
    assert row.outcome is None
    await backend.do("ready")
    scripted = await backend.request()
    (row,) = rows(router)
    assert row.state == "running"
    await scripted.begin_stream()
    await scripted.chunk(USAGE)
    await scripted.chunk(b"")
    await client.answer()
    await router.events.wait("request.completed", model="a")
    (row,) = rows(router)
    assert (row.state, row.outcome, row.status, row.cancel_id) == ("done", "ok", 200, None)
    assert (row.prompt_tokens, row.completion_tokens) == (7, 3)
    assert row.load_s
    assert row.ttft_s
    assert row.duration_s >= row.ttft_s
    assert row.sent_bytes >= len(USAGE)


async def test_a_head_is_no_first_token(start, stage) -> None:
    """llama-server sends it at once: without a byte of the body there is no time to the first."""
    router = await start({"a": stage.model("a")})
    client = await router.connect()
    await client.send(post(CHAT, "a", stream=True))
    scripted = await (await stage.backend("a")).request()
    await scripted.begin_stream()
    await client.head()
    await scripted.close()
    ended = await router.events.wait("request.completed", model="a")
    assert "ttft_s" not in ended
    (row,) = rows(router)
    assert (row.outcome, row.ttft_s) == ("cut", None)


async def test_the_polls_of_monitoring_are_no_activity(start, stage) -> None:
    """They would push the requests out of the log within minutes."""
    router = await start({"a": stage.model("a")})
    await router.ask(post("/v1/echo", "a"))
    for target in ("/health", "/metrics?model=a&autoload=false", "/a/slots"):
        await router.ask(request("GET", target))
    assert [row.path for row in rows(router)] == ["/v1/echo"]


async def test_a_client_is_named_by_its_key(start, stage) -> None:
    """Also if the request is refused."""
    key = "k" * 32
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    router = await start({"a": stage.model("a")}, api_keys={"alice": {"sha256": sha256}})
    body = json.dumps({"model": "none"}).encode()
    await router.ask(
        request("POST", "/v1/echo", body, content_type="application/json", x_api_key=key)
    )
    await router.ask(request("POST", "/v1/echo", body, content_type="application/json"))
    known, unknown = rows(router)
    assert (known.client, known.key, known.code) == ("alice", "alice", "model_not_found")
    assert (unknown.client, unknown.key, unknown.outcome) == ("127.0.0.1", None, "refused")


async def test_a_request_of_ollamas_api_is_one_too(start, stage) -> None:
    """Both planes write the same record."""
    router = await start({"a": stage.model("a")})
    body = json.dumps({"model": "a", "messages": [], "stream": False}).encode()
    await router.ask(request("POST", "/api/chat", body, content_type="application/json"))
    await router.events.wait("request.completed", path="/api/chat")
    (row,) = rows(router)
    assert (row.model, row.path, row.state, row.client) == ("a", "/api/chat", "done", "127.0.0.1")


@pytest.mark.interpreted
async def test_an_ended_request_keeps_no_connection(start, stage, monkeypatch) -> None:
    """What served it can be collected, although its record is kept: also after an error."""
    made: list[weakref.ref[Marked]] = []

    class Marked(ModelRequest):
        __slots__ = ("__weakref__",)

        def __init__(self, *args) -> None:
            super().__init__(*args)
            made.append(weakref.ref(self))

    monkeypatch.setattr("llama_router.gateway.connection.ModelRequest", Marked)
    router = await start({"a": stage.model("a")})
    await router.ask(post("/v1/echo", "none"))
    client = await router.connect()
    body = json.dumps({"model": "a", "stream": True}).encode()
    await client.send(request("POST", CHAT, body, connection="close"))
    scripted = await (await stage.backend("a")).request()
    await scripted.begin_stream()
    await client.head()
    await scripted.close()
    await client.rest()
    await client.stream.aclose()
    await router.ask(post("/v1/echo", "a"))
    gc.collect()
    assert [row.outcome for row in rows(router)] == ["refused", "cut", "ok"]
    assert [one() for one in made[:2]] == [None, None]  # the connection of the third may be open
