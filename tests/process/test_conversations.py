"""Resumable streams of llama.cpp's server: who comes back finds the model that goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import trio

from tests.process.harness import RawClient, request
from tests.process.real import (
    LIMIT_S,
    RealRouter,
    Shared,
    chat,
    make_models,
    model_table,
    serving,
    shared,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded, pytest.mark.usefixtures("in_time")]


ROUTER = ["notify_model_swap = true"]


def tables(factory: pytest.TempPathFactory) -> list[str]:
    """Return two models that take turns."""
    folder = make_models(factory)
    preset = "presets = { fast = { temperature = 0.0 } }"
    return [model_table(folder, name, preset) for name in "ab"]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Shared]:
    """A router that all tests share which do not look at its events."""
    with shared(tmp_path_factory, *tables(tmp_path_factory), router=ROUTER) as served:
        yield served


@pytest.fixture
async def client(served) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it; no model is loaded, and none knows a conversation."""
    await served.unload()
    async with served.client() as client:
        yield client


def content(data: bytes) -> str:
    """Return what the model says in a stream, without notices."""
    found = []
    for line in data.decode().splitlines():
        if line.startswith("data: {"):
            choices = json.loads(line.removeprefix("data: "))["choices"]
            found += [choice["delta"].get("content") or "" for choice in choices]
    return "".join(found)


async def talk(client: httpx.AsyncClient, model: str, name: str, **more: object) -> bytes:
    """Return a whole stream."""
    body = chat(model, stream=True, max_tokens=16, **more)
    answer = await client.post(
        "/v1/chat/completions", json=body, headers={"x-conversation-id": name}
    )
    assert answer.status_code == 200
    return answer.content


async def look_up(client: httpx.AsyncClient, *names: str) -> list[dict[str, Any]]:
    answer = await client.post("/v1/streams/lookup", json={"conversation_ids": names})
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()
    return found


async def resume(client: httpx.AsyncClient, name: str, **query: Any) -> httpx.Response:
    return await client.get("/v1/stream", params={"conv_id": name, **query})


async def test_nobody_knows_a_conversation_that_never_was(client) -> None:
    """The list is empty, a stream is not found, and cancelling one is fine."""
    assert await look_up(client, "c", "d") == []
    answer = await resume(client, "c")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "stream_not_found")
    answer = await client.delete("/v1/stream", params={"conv_id": "c"})
    assert (answer.status_code, answer.content) == (204, b"")


async def test_a_stream_is_replayed_from_any_byte_on(client) -> None:
    """Notices count, although the backend that replays knows nothing of them."""
    whole = await talk(client, "a", "c::a")
    assert b"Loading model" in whole
    (entry,) = await look_up(client, "c")
    assert (entry["conversation_id"], entry["is_done"]) == ("c::a", True)
    assert entry["total_bytes"] == len(whole)
    said = whole.rindex(b"is ready")
    for at in (0, 1, said // 2, said + 200, len(whole) - 10, len(whole)):
        answer = await resume(client, "c::a", **{"from": at})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert len(answer.content) == len(whole) - at
    assert content((await resume(client, "c::a")).content) == content(whole)


async def test_a_replay_bears_the_name_of_the_preset(client) -> None:
    """From any byte on, counted as they were sent; the backend's events are shorter."""
    whole = await talk(client, "a:fast", "c::a:fast")
    models = {json.loads(event[6:])["model"] for event in whole.split(b"\n\n") if b"{" in event}
    assert models == {"a:fast"}
    (entry,) = await look_up(client, "c")
    assert (entry["conversation_id"], entry["is_done"]) == ("c::a:fast", True)
    assert entry["total_bytes"] == len(whole)
    said = whole.rindex(b"is ready")
    for at in (0, 1, said // 2, said + 200, len(whole) - 10, len(whole)):
        replayed = (await resume(client, "c::a:fast", **{"from": at})).content
        assert len(replayed) == len(whole) - at
        assert replayed.endswith(whole[max(at, said + 100) :])
    assert content((await resume(client, "c::a:fast")).content) == content(whole)


async def test_a_page_that_is_loaded_anew_during_the_load_misses_nothing(served, client) -> None:
    """Its request goes on to wait without it; notices and the whole answer follow."""
    port = int(served.url.rpartition(":")[2])
    body = json.dumps(chat("a", stream=True, max_tokens=16)).encode()
    fields = {"content_type": "application/json", "x_conversation_id": "c::a"}
    async with await trio.open_tcp_stream("127.0.0.1", port) as raw:
        page = RawClient(raw)
        await page.send(request("POST", "/v1/chat/completions", body, **fields))
        await page.head()
        said = await page.chunk()
    (entry,) = await look_up(client, "c")
    assert entry["conversation_id"] == "c::a"
    whole = (await resume(client, "c::a")).content
    assert whole.startswith(said)
    assert whole.endswith(b"data: [DONE]\n\n")
    assert len(content(whole).split()) > 1
    assert (await resume(client, "c::a", **{"from": len(whole)})).content == b""


async def test_a_stream_goes_on_without_its_client(tmp_path, tmp_path_factory) -> None:
    """Who comes back gets the rest of it, and what comes after that."""
    config = write_config(tmp_path, *tables(tmp_path_factory), router=ROUTER)
    async with serving(config) as router, router.client() as client:
        await _leave_and_come_back(router, client)


async def _leave_and_come_back(router: RealRouter, client: httpx.AsyncClient) -> None:
    await talk(client, "a", "c")  # what waits is not going on yet
    await router.event("request.completed")
    seen = len(router.events)
    body = chat("a", stream=True, max_tokens=1500, ignore_eos=True)
    async with await trio.open_tcp_stream("127.0.0.1", int(router.url.rpartition(":")[2])) as raw:
        leaving = RawClient(raw)
        fields = {"x_conversation_id": "c", "content_type": "application/json"}
        encoded = json.dumps(body).encode()
        await leaving.send(request("POST", "/v1/chat/completions", encoded, **fields))
        await leaving.head()
        first = await leaving.chunk()
    # "client_gone", but "ok" where the machine was so busy that all of it was on its way by then.
    await router.event("request.completed", after=seen, model="a")
    answer = await resume(client, "c", **{"from": len(first)})
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert len(content(first + answer.content).split()) > 1000


async def test_a_stream_of_a_preset_is_looked_up_while_it_goes_on(client) -> None:
    """That it is measured for that does not end it."""
    await talk(client, "a", "other")  # what waits is not going on yet
    name = "c::a:fast"
    body = chat("a:fast", stream=True, max_tokens=1500, ignore_eos=True)
    fields = {"x-conversation-id": name}
    async with client.stream("POST", "/v1/chat/completions", json=body, headers=fields) as answer:
        pieces = answer.aiter_raw()
        first = await anext(pieces)
        (entry,) = await look_up(client, "c")
        whole = first + b"".join([piece async for piece in pieces])
    (ended,) = await look_up(client, "c")
    assert 0 < entry["total_bytes"] <= ended["total_bytes"] == len(whole)
    assert whole.endswith(b"data: [DONE]\n\n")


async def test_a_cancelled_stream_is_gone(client) -> None:
    """There and here."""
    await talk(client, "a", "c")
    assert (await client.delete("/v1/stream", params={"conv_id": "c"})).status_code == 204
    assert await look_up(client, "c") == []
    assert (await resume(client, "c")).status_code == 404


async def test_a_stream_is_lost_with_its_backend(client) -> None:
    """The other model knows nothing of it, and none is loaded to look."""
    await talk(client, "a", "c::a")
    await talk(client, "b", "c::b")
    assert [entry["conversation_id"] for entry in await look_up(client, "c")] == ["c::b"]
    assert (await resume(client, "c::a")).status_code == 404
    await client.post("/models/unload", json={"model": "b"})
    assert (await resume(client, "c::b")).status_code == 404
    assert await look_up(client, "c") == []


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/v1/stream", 400),
        ("GET", "/v1/stream?conv_id=c&from=-1", 400),
        ("GET", "/v1/stream?conv_id=c&from=x", 400),
        ("DELETE", "/v1/stream", 400),
        ("POST", "/v1/stream", 405),
        ("GET", "/v1/streams/lookup", 405),
        ("POST", "/v1/streams/lookup", 200),
    ],
)
async def test_mistakes_are_told(client, method: str, target: str, status: int) -> None:
    """A lookup of nothing is none."""
    answer = await client.request(method, target)
    assert answer.status_code == status
    assert answer.json() == [] if status == 200 else answer.json()["error"]["message"]


#: A backend that dies in the middle of a replay, and knows no lookup.
_DYING = """
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        if self.path.startswith("/v1/stream?"):
            self.wfile.write(b"a\\r\\ndata: {}\\n\\n\\r\\n")
            os._exit(3)
        self.wfile.write(b"0\\r\\n\\r\\n")

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/streams/lookup":
            return self.send_error(404)
        self.do_GET()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


async def test_a_replay_that_breaks_off_says_so(start, tmp_path) -> None:
    """As any other stream does: by an error event. A backend without lookup has no streams."""
    script = tmp_path / "dying.py"
    script.write_text(_DYING)
    command = [sys.executable, "-I", str(script), "$port"]
    with trio.fail_after(LIMIT_S):
        router = await start({"a": {"spawn": {"command": command}}})
        async with router.http() as client:
            body = {"model": "a", "stream": True}
            fields = {"x-conversation-id": "c"}
            answer = await client.post("/v1/chat/completions", json=body, headers=fields)
            assert answer.status_code == 200
            assert await look_up(client, "c") == []
            answer = await resume(client, "c")
            first, error, _ = answer.text.replace("\n\n\n\n", "\n\n").split("\n\n", 2)
            assert first == "data: {}"
            assert "exited with code 3" in error


async def test_a_key_finds_only_streams_of_its_models(tmp_path, tmp_path_factory) -> None:
    """For others it is as if there were none."""
    folder = make_models(tmp_path_factory)
    config = write_config(
        tmp_path,
        '[api_keys.all]\nkey = "all-0123456789abcd"\n'
        '[api_keys.some]\nkey = "some-0123456789abcd"\nmodels = ["b"]\n',
        *(model_table(folder, name, 'group = "g"') for name in "ab"),
    )
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            assert (await client.get("/v1/stream", params={"conv_id": "c"})).status_code == 401
            client.headers["authorization"] = "Bearer all-0123456789abcd"
            await talk(client, "a", "c::a")
            await talk(client, "b", "c::b")
            client.headers["authorization"] = "Bearer some-0123456789abcd"
            assert [entry["conversation_id"] for entry in await look_up(client, "c")] == ["c::b"]
            assert (await resume(client, "c::a")).status_code == 404
            assert (await resume(client, "c::b")).status_code == 200
            await client.delete("/v1/stream", params={"conv_id": "c::a"})
            client.headers["authorization"] = "Bearer all-0123456789abcd"
            assert len(await look_up(client, "c")) == 2
