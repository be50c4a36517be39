"""llama-swap's own routes, with scripted backends."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.process.harness import RawClient, Router, Stage, post, request

pytestmark = pytest.mark.process

ECHO = "/v1/echo"
TOKEN = "token-token-token"


@pytest.fixture
async def router(start, stage: Stage) -> Router:
    """A router with a model that is described, and a second one."""
    described = stage.model("a", name="Quick One", description="Answers.", ttl_s=60.0)
    return await start({"a": described, "b": stage.model("b", aliases=["other"])})


async def test_running_models_are_listed(router, stage) -> None:
    """With state, command, address, time to live, and what is said about them."""
    assert (await router.ask(request("GET", "/running"))).json() == {"running": []}
    await router.ask(post(ECHO, "a"))
    backend = await stage.backend("a")
    (entry,) = (await router.ask(request("GET", "/running"))).json()["running"]
    assert "--name a" in entry.pop("cmd")
    assert entry == {
        "model": "a",
        "state": "ready",
        "proxy": f"http://127.0.0.1:{backend.port}",
        "ttl": 60,
        "name": "Quick One",
        "description": "Answers.",
    }


async def test_unload_stops_all_models(router, stage) -> None:
    """As a read, as tools do it; it answers when their memory is free."""
    await router.ask(post(ECHO, "a"))
    backend = await stage.backend("a")
    answer = await router.ask(request("GET", "/unload"))
    assert (answer.status, answer.body) == (200, b"OK")
    await backend.ended.wait()
    assert (await router.ask(request("GET", "/running"))).json() == {"running": []}


async def test_unload_completes_requests_in_flight(router, stage) -> None:
    """Unlike llama-swap: no answer is cut."""
    client = await router.connect()
    await client.send(post("/v1/script", "a"))
    scripted = await (await stage.backend("a")).request()
    answers: list[int] = []

    async def unload() -> None:
        answers.append((await router.ask(request("POST", "/api/models/unload"))).status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(unload)
        while router.of("a").phase != "draining":
            await router.running.dispatcher.changed.wait()
        await scripted.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
        assert (await client.answer()).body == b"hi"
    assert answers == [200]


async def test_one_model_is_unloaded_by_any_of_its_names(router) -> None:
    """The others stay; an unknown name is 404."""
    await router.ask(post(ECHO, "b"))
    assert (await router.ask(request("POST", "/api/models/unload/none"))).status == 404
    answer = await router.ask(request("POST", "/api/models/unload/other"))
    assert (answer.status, answer.body) == (200, b"OK")
    assert router.of("b").phase == "stopped"


async def test_unload_all_says_so_in_json(router) -> None:
    """Also if there was nothing to do."""
    answer = await router.ask(request("POST", "/api/models/unload"))
    assert answer.json() == {"msg": "ok"}


@pytest.mark.parametrize(
    "fields",
    [
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"referer": "https://evil.example/"},
        {"user_agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0"},
    ],
)
async def test_no_page_of_another_site_unloads_by_an_image(router, fields) -> None:
    """It is a read that changes something."""
    await router.ask(post(ECHO, "a"))
    assert (await router.ask(request("GET", "/unload", **fields))).status == 403
    assert router.of("a").phase == "ready"


async def test_a_key_for_some_models_unloads_and_sees_those_only(start, stage) -> None:
    """The others run on, and it does not learn of them."""
    router = await start(
        {name: stage.model(name, group="g") for name in ("a", "b")},
        models_api="open",
        api_keys={
            "all": {"key": "sk-all-0123456789"},
            "some": {"key": "sk-some-0123456789", "models": ["a"]},
        },
    )
    for name in ("a", "b"):
        body = json.dumps({"model": name}).encode()
        await router.ask(
            request(
                "POST", ECHO, body, content_type="application/json", x_api_key="sk-all-0123456789"
            )
        )
    some = {"x_api_key": "sk-some-0123456789"}
    (entry,) = (await router.ask(request("GET", "/running", **some))).json()["running"]
    assert entry["model"] == "a"
    (ended,) = (await router.ask(request("GET", "/api/metrics", **some))).json()
    assert ended["model"] == "a"
    assert (await router.ask(request("GET", "/unload", **some))).status == 200
    assert (router.of("a").phase, router.of("b").phase) == ("stopped", "ready")


async def test_changes_need_the_token_where_others_reach_the_router(start, stage) -> None:
    """As all changes of models do."""
    router = await start({"a": stage.model("a")}, models_api="admin", admin_token=TOKEN)
    for method, path in (("GET", "/unload"), ("POST", "/api/models/unload")):
        assert (await router.ask(request(method, path))).status == 401
        assert (await router.ask(request(method, path, x_admin_token=TOKEN))).status == 200


async def messages(client: RawClient, count: int) -> list[tuple[str, Any]]:
    """Return the next *count* messages of a stream: their kinds and data."""
    found: list[tuple[str, Any]] = []
    data = b""
    while len(found) < count:
        data += await client.chunk()
        *events, data = data.split(b"\n\n")
        for event in events:
            head, _, text = event.partition(b"\ndata:")
            assert head == b"event:message"
            envelope = json.loads(text)
            found.append((envelope["type"], json.loads(envelope["data"])))
    return found


async def test_events_begin_with_the_state_and_tell_its_changes(router) -> None:
    """States of models, requests that ended, and the number of live ones."""
    client = await router.connect()
    await client.send(request("GET", "/api/events"))
    assert (await client.head()).fields["content-type"] == "text/event-stream"
    first = await messages(client, 3)
    assert [kind for kind, _ in first] == ["modelStatus", "metrics", "inflight"]
    assert [(each["id"], each["state"]) for each in first[0][1]] == [
        ("a", "stopped"),
        ("b", "stopped"),
    ]
    assert first[1:] == [("metrics", []), ("inflight", {"total": 0})]
    await router.ask(post(ECHO, "a"))
    seen: list[tuple[str, Any]] = []
    while not any(kind == "metrics" for kind, _ in seen):
        seen += await messages(client, 1)
    (request_of_a,) = next(data for kind, data in seen if kind == "metrics")
    assert (request_of_a["model"], request_of_a["resp_status_code"]) == ("a", 200)
    assert request_of_a["tokens"]["input_tokens"] == request_of_a["input_tokens"] == 0
    states = [each["state"] for kind, data in seen if kind == "modelStatus" for each in data[:1]]
    assert states[-1] == "ready"


async def test_ended_requests_are_listed(start, stage) -> None:
    """With tokens and rate, in the form of older and newer versions."""
    router = await start({"a": stage.model("a")})
    client = await router.connect()
    await client.send(post("/v1/chat/completions?script", "a", stream=True))
    scripted = await (await stage.backend("a")).request()
    await scripted.begin_stream()
    await scripted.chunk(
        b'data: {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}\n\ndata: [DONE]\n\n'
    )
    await scripted.chunk(b"")
    await client.answer()
    await router.events.wait("request.completed", model="a")
    (entry,) = (await router.ask(request("GET", "/api/metrics"))).json()
    assert (entry["input_tokens"], entry["output_tokens"]) == (7, 3)
    assert entry["tokens"]["output_tokens"] == 3
    assert entry["req_path"] == "/v1/chat/completions"
    assert entry["duration_ms"] >= 0


async def test_aliases_may_be_listed_as_models(start, stage) -> None:
    """As a setting of the router, or of one model."""
    router = await start(
        {
            "a": stage.model("a", aliases=["x"]),
            "b": stage.model("b", aliases=["y"], aliases_in_list=False, name="Bee"),
        },
        aliases_in_list=True,
    )
    listed = (await router.ask(request("GET", "/v1/models"))).json()["data"]
    assert [entry["id"] for entry in listed] == ["a", "x", "b"]
    assert listed[2]["name"] == "Bee"


async def text_until(client: RawClient, end: bytes) -> bytes:
    """Return what a stream of text sends, up to *end*."""
    seen = b""
    while end not in seen:
        seen += await client.chunk()
    return seen


async def test_logs_are_the_last_lines_of_all_models(start, stage) -> None:
    """As text; a browser gets the dashboard. They need the admin token, as all logs do."""
    router = await start(
        {name: stage.model(name, group="g") for name in ("a", "b")}, admin_token=TOKEN
    )
    for name in ("a", "b"):
        await router.ask(post(ECHO, name))
        backend = await stage.backend(name)
        await backend.do("print", data=f"hello from {name}\n")
        await backend.said("done", do="print")
    stream = await router.connect()
    await stream.send(request("GET", "/logs/stream/upstream", x_admin_token=TOKEN))
    assert (await stream.head()).fields["content-type"].startswith("text/plain")
    text = await text_until(stream, b"hello from b\n")
    assert text.index(b"hello from a") < text.index(b"hello from b")
    answer = await router.ask(request("GET", "/logs", x_admin_token=TOKEN))
    assert b"hello from a\n" in answer.body
    page = await router.ask(request("GET", "/logs", x_admin_token=TOKEN, accept="text/html,*/*"))
    assert (page.status, page.fields["location"]) == (302, "/ui/")
    for path in ("/logs", "/logs/stream", "/logs/stream/proxy"):
        assert (await router.ask(request("GET", path))).status == 401


async def test_logs_are_followed(start, stage) -> None:
    """Those of models that start later, too; without the past, if that is asked for."""
    router = await start(
        {name: stage.model(name, group="g") for name in ("a", "b")}, admin_token=TOKEN
    )
    await router.ask(post(ECHO, "a"))
    first = await stage.backend("a")
    await first.do("print", data="before\n")
    await first.said("done", do="print")
    await router.ask(request("GET", "/logs", x_admin_token=TOKEN))
    both, one = await router.connect(), await router.connect()
    await both.send(request("GET", "/logs/stream?no-history", x_admin_token=TOKEN))
    await one.send(request("GET", "/logs/stream/b", x_admin_token=TOKEN))
    for client in (both, one):
        assert (await client.head()).status == 200
    await router.ask(post(ECHO, "b"))
    await (await stage.backend("b")).do("print", data="after\n")
    await text_until(both, b"after\n")
    await first.do("print", data="of another\n")
    await text_until(both, b"of another\n")
    assert b"of another" not in await text_until(one, b"after\n")
