"""The official Ollama client works against the router, its error class included."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import ollama
import pytest
import trio

from tests.process.real import (
    LIMIT_S,
    RealRouter,
    Served,
    chat,
    endless_table,
    make_models,
    model_table,
    program_table,
    serving,
    shared,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded, pytest.mark.usefixtures("in_time")]

MESSAGES = [{"role": "user", "content": "what do you see"}]
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 8}

#: A call that the tiny model can be made to spell.
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks at something.",
        "parameters": {
            "type": "object",
            "properties": {"at": {"type": "string", "enum": ["water", "day"]}},
            "required": ["at"],
        },
    },
}


def tables(factory: pytest.TempPathFactory) -> list[str]:
    """Return two chat models and an embedding model."""
    models = make_models(factory)
    return [
        model_table(models, "a", 'aliases = ["gpt-4o"]'),
        model_table(models, "b"),
        model_table(models, "embedder", args=["--embeddings"]),
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    """A router that all tests share which only ask it."""
    with shared(tmp_path_factory, *tables(tmp_path_factory)) as served:
        yield served


@pytest.fixture
async def client(served) -> AsyncIterator[ollama.AsyncClient]:
    """A client of the shared router."""
    async with ollama.AsyncClient(served.url) as client:
        yield client


@pytest.fixture
def config(tmp_path, tmp_path_factory) -> Path:
    """A configuration of a test's own."""
    return write_config(tmp_path, *tables(tmp_path_factory))


@asynccontextmanager
async def connected(config: Path) -> AsyncIterator[tuple[ollama.AsyncClient, RealRouter]]:
    """Run a router and yield a client."""
    async with serving(config) as router, ollama.AsyncClient(router.url) as client:
        yield client, router


async def in_thread(router: Served, use: Callable[[ollama.Client], Any]) -> Any:
    """Use the synchronous client: the other one does not close its generators in Trio."""

    def run() -> Any:
        with ollama.Client(router.url) as client:
            return use(client)

    return await trio.to_thread.run_sync(run)


async def test_chat(client, served) -> None:
    """A whole answer has the text that the OpenAI API gives, and figures in nanoseconds."""
    answer = await client.chat("a", MESSAGES, options=GREEDY)
    async with served.client() as other:
        asked = chat("a", max_tokens=8, temperature=0, seed=1)
        same = (await other.post("/v1/chat/completions", json=asked)).json()
    assert answer.message.role == "assistant"
    assert answer.message.content == same["choices"][0]["message"]["content"]
    assert (answer.done, answer.done_reason) == (True, "length")
    assert (answer.eval_count, answer.prompt_eval_count) == (8, same["usage"]["prompt_tokens"])
    assert answer.load_duration > 0
    assert answer.total_duration > answer.load_duration + answer.eval_duration


async def test_streamed_chat(config) -> None:
    """A stream has the same text in one piece for each token, and ends with the figures."""
    async with connected(config) as (client, router):
        whole = await client.chat("a", MESSAGES, options=GREEDY)
        before = len(router.events)
        *pieces, last = await in_thread(
            router, lambda c: list(c.chat("a", MESSAGES, options=GREEDY, stream=True))
        )
        done = await router.event("request.completed", path="/api/chat", after=before)
    assert [piece.done for piece in pieces] == [False] * 8
    assert "".join(piece.message.content for piece in pieces) == whole.message.content
    assert (last.done, last.done_reason, last.message.content) == (True, "length", "")
    assert last.eval_count == 8
    assert done["completion_tokens"] == 8


async def test_a_stream_begins_before_it_ends(config) -> None:
    """The first piece is in the client's hands while the backend still generates."""
    options = {"num_predict": 1500, "temperature": 0}

    def read(client: ollama.Client) -> tuple[bool, int]:
        stream = client.chat("a", MESSAGES, options=options, stream=True)
        next(stream)
        served = trio.from_thread.run_sync(lambda: bool(router.named("request.completed")))
        return served, sum(1 for _ in stream)

    async with connected(config) as (_, router):
        assert await in_thread(router, read) == (False, 1500)


async def test_leaving_a_stream_ends_the_generation(config) -> None:
    """A client that loses interest leaves a usable router, and the log says so."""

    def lose_interest(client: ollama.Client) -> None:
        options = {"num_predict": 100_000}
        next(client.chat("a", MESSAGES, options=options, stream=True))

    async with connected(config) as (client, router):
        await in_thread(router, lose_interest)
        left = await router.event("request.completed")
        answer = await client.chat("b", MESSAGES, options=GREEDY)
    assert left["outcome"] == "client_gone"
    assert answer.done


async def test_generate(client) -> None:
    """A prompt is a chat of one message; with ``raw`` the model sees nothing but the prompt."""
    chatted = await client.chat("a", MESSAGES, options=GREEDY)
    prompted = await client.generate("a", MESSAGES[0]["content"], options=GREEDY)
    raw = await client.generate("a", MESSAGES[0]["content"], raw=True, options=GREEDY)
    told = await client.generate("a", "water", system="see", options=GREEDY)
    assert prompted.response == chatted.message.content
    assert raw.prompt_eval_count < prompted.prompt_eval_count
    assert raw.eval_count == told.eval_count == 8
    assert raw.response


async def test_a_format_binds_the_answer(client) -> None:
    """A JSON schema, and plain ``json``, give an answer that parses."""
    schema = {"type": "object", "properties": {"n": {"enum": [7]}}, "required": ["n"]}
    answer = await client.chat("a", MESSAGES, format=schema)
    assert json.loads(answer.message.content) == {"n": 7}


#: A program that answers every chat with a call, in the chunks in which llama-server sends one.
CALLER = """
import http.server, json, sys

DELTAS = [
    {"reasoning_content": "hm"},
    {"tool_calls": [{"index": 0, "id": "c1", "type": "function",
                     "function": {"name": "look", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": "{\\"at\\": \\"wa"}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": "ter\\"}"}}]},
]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["tools"][0]["function"]["name"] == "look", asked
        self.send_response(200)
        self.end_headers()
        for delta in DELTAS:
            chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\\n\\n")
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
        self.wfile.write(b"data: " + json.dumps(last).encode() + b"\\n\\n")
        if asked["messages"][-1]["content"] != "break off":
            self.wfile.write(b"data: [DONE]\\n\\n")
        else:
            self.wfile.write(b'data: {"error": {"message": "the GPU fell out"}}\\n\\n')

    def log_message(self, *_):
        pass

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def caller(tmp_path) -> Path:
    """A configuration with a backend that calls tools."""
    return write_config(tmp_path, program_table(tmp_path, "caller", CALLER))


async def test_calls_of_tools(caller) -> None:
    """The pieces of a call become one call, whose arguments are an object; thoughts come first."""
    async with connected(caller) as (_, router):
        pieces = await in_thread(
            router, lambda c: list(c.chat("caller", MESSAGES, tools=[TOOL], stream=True))
        )
    thought, called, last = pieces
    assert thought.message.thinking == "hm"
    (call,) = called.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("look", {"at": "water"})
    assert (last.done, last.done_reason) == (True, "stop")


async def test_a_failure_in_the_middle_is_an_error(caller) -> None:
    """An error in a stream that has begun is content and the last line, which the client raises."""
    messages = [{"role": "user", "content": "break off"}]

    def read(client: ollama.Client) -> str:
        stream = client.chat("caller", messages, tools=[TOOL], stream=True)
        assert next(stream).message.thinking
        assert next(stream).message.content == "\n\nError: the GPU fell out"
        with pytest.raises(ollama.ResponseError) as caught:
            next(stream)
        return caught.value.error

    async with connected(caller) as (_, router):
        assert await in_thread(router, read) == "the GPU fell out"
        await router.event("request.completed", outcome="cut")


async def test_results_of_tools(client) -> None:
    """A history with a call and its result is understood by llama.cpp's template."""
    call = {"function": {"name": "look", "arguments": {"at": "water"}}}
    history = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_name": "look", "content": "blue"},
    ]
    answer = await client.chat("a", history, tools=[TOOL], options=GREEDY)
    without = await client.chat("a", MESSAGES, tools=[TOOL], options=GREEDY)
    assert answer.prompt_eval_count > without.prompt_eval_count + 10


async def test_embeddings(client, served) -> None:
    """Both ways give the vectors of the OpenAI API, in the order of the texts."""
    answer = await client.embed("embedder", ["water", "the long way"])
    old = await client.embeddings("embedder", "water")
    async with served.client() as other:
        asked = {"model": "embedder", "input": ["water", "the long way"]}
        same = (await other.post("/v1/embeddings", json=asked)).json()["data"]
    assert [list(v) for v in answer.embeddings] == [pytest.approx(i["embedding"]) for i in same]
    assert list(old.embedding) == pytest.approx(answer.embeddings[0])
    assert answer.prompt_eval_count > 0


async def test_lists(client) -> None:
    """All models are listed with size, family and quantization; the running one as such."""
    await client.generate("gpt-4o")  # an empty prompt only loads it
    listed = (await client.list()).models
    (running,) = (await client.ps()).models
    shown = await client.show("b")
    assert [model.model for model in listed] == ["a", "b", "embedder"]
    assert listed[0].details.family == "llama"
    assert listed[0].details.quantization_level == "F32"
    assert listed[0].size > 100_000
    assert len({model.digest for model in listed}) == 3
    assert running.model == "a"
    assert running.size > 2**20
    assert "tools" in shown.capabilities
    assert "<|im_start|>" in shown.template
    assert shown.modelinfo["llama.context_length"] == 2048


async def test_the_context_is_the_one_that_is_served(tmp_path, tmp_path_factory) -> None:
    """It is that of the command before a load, and of the backend after it."""
    models = make_models(tmp_path_factory)
    args = ["--ctx-size", "512", "--parallel", "2", "--kv-unified"]
    config = write_config(tmp_path, model_table(models, "a", args=args))
    async with serving(config) as router, router.client() as client:
        before = (await client.get("/api/tags")).json()["models"][0]
        await client.post("/api/generate", json={"model": "a"})
        (running,) = (await client.get("/api/ps")).json()["models"]
        shown = (await client.post("/api/show", json={"model": "a"})).json()
        (entry,) = (await client.get("/v1/models")).json()["data"]
    told = [document["context_length"] for document in (before, running, entry)]
    assert [*told, shown["model_info"]["llama.context_length"]] == [512] * 4
    assert before["capabilities"] == running["capabilities"] == shown["capabilities"]


async def test_long_lists_of_embeddings_log_their_tokens(tmp_path, tmp_path_factory) -> None:
    """Their figures are at the beginning of the answer."""
    models = make_models(tmp_path_factory)
    config = write_config(tmp_path, model_table(models, "embedder", args=["--embeddings"]))
    async with serving(config) as router, router.client() as client:
        asked = {"model": "embedder", "input": ["water"] * 40}
        usage = (await client.post("/v1/embeddings", json=asked)).json()["usage"]
        (await client.post("/api/embed", json=asked)).raise_for_status()
        for path in ("/v1/embeddings", "/api/embed"):
            logged = await router.event("request.completed", path=path)
            assert logged["sent_bytes"] > 8192
            assert logged["prompt_tokens"] == usage["prompt_tokens"] > 0


async def test_keep_alive(config) -> None:
    """A duration moves the end of the model's stay; 0 ends it once nobody uses the model."""
    async with connected(config) as (client, router):
        await client.chat("a", MESSAGES, options=GREEDY, keep_alive="1h")
        (running,) = (await client.ps()).models
        assert running.expires_at is not None
        left_s = (running.expires_at - datetime.now(UTC)).total_seconds()
        assert math.isclose(left_s, 3600, abs_tol=LIMIT_S)
        answer = await client.generate("a", keep_alive=0)
        await router.event("backend.stopped", model="a")
        assert await router.loaded() == []
    assert answer.done_reason == "unload"


async def test_an_unknown_model_is_not_found(client, served) -> None:
    """The client raises its error, streaming or not, and the sentence names the model."""
    with pytest.raises(ollama.ResponseError, match="'nobody'") as caught:
        await client.chat("nobody", MESSAGES)
    with pytest.raises(ollama.ResponseError, match="'nobody'") as streamed:
        await in_thread(served, lambda c: list(c.generate("nobody", "x", stream=True)))
    answer = await client.chat("a:latest", MESSAGES, options=GREEDY)
    assert (caught.value.status_code, streamed.value.status_code) == (404, 404)
    assert answer.done


async def test_a_backends_own_refusal_passes_through(client) -> None:
    """What the backend finds wrong comes with its own sentence and status."""
    with pytest.raises(ollama.ResponseError, match="embeddings") as caught:
        await client.embed("a", "water")
    assert caught.value.status_code in {400, 501}


async def test_what_cannot_be_understood(served) -> None:
    """Broken JSON, a wrong type, no model and a wrong method: all in Ollama's shape."""
    async with served.client() as client:
        answers = [
            await client.post("/api/chat", content=b'{"model": "a", '),
            await client.post("/api/chat", content=b"\xff\x00"),
            await client.post("/api/chat"),
            await client.post("/api/chat", json={"model": "a", "messages": "hello"}),
            await client.post("/api/chat", json={"messages": MESSAGES}),
            await client.post("/api/generate", json={"model": "a", "prompt": "x", "context": [1]}),
            await client.post("/api/chat", json={"model": "a", "keep_alive": "soon"}),
        ]
        wrong_method = await client.get("/api/chat")
    assert [answer.status_code for answer in answers] == [400] * len(answers)
    assert wrong_method.status_code == 405
    for answer in (*answers, wrong_method):
        assert isinstance(answer.json()["error"], str), answer.text
        assert list(answer.json()) == ["error"]


async def test_pictures_may_be_large(client) -> None:
    """A body beyond the limit of the admin API reaches the backend, which cannot see."""
    picture = b"\x89PNG" + bytes(3 * 2**20)
    with pytest.raises(ollama.ResponseError, match="image") as caught:
        await client.chat("a", [{**MESSAGES[0], "images": [picture]}])
    assert caught.value.status_code in {400, 500, 501}


async def test_keys(config) -> None:
    """A key is needed where there are keys, and opens only its own models."""
    config.write_text(config.read_text() + '[api_keys.me]\nkey = "not-a-secret"\nmodels = ["a"]\n')
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            async with ollama.AsyncClient(router.url) as stranger:
                with pytest.raises(ollama.ResponseError, match="API key") as without:
                    await stranger.chat("a", MESSAGES)
            headers = {"Authorization": "Bearer not-a-secret"}
            async with ollama.AsyncClient(router.url, headers=headers) as client:
                answer = await client.chat("a", MESSAGES, options=GREEDY)
                with pytest.raises(ollama.ResponseError, match="may not use it") as forbidden:
                    await client.chat("b", MESSAGES)
                listed = (await client.list()).models
            async with router.client() as other:
                page = await other.get("/api/tags", headers={"origin": "http://evil.example"})
    assert (without.value.status_code, forbidden.value.status_code) == (401, 404)
    assert answer.done
    assert [model.model for model in listed] == ["a"]
    assert page.status_code == httpx.codes.FORBIDDEN
    assert isinstance(page.json()["error"], str)


async def ask(router: RealRouter, body: dict[str, Any]) -> trio.SocketStream:
    """Send a chat on a connection of its own."""
    data = json.dumps(body).encode()
    stream = await trio.open_tcp_stream("127.0.0.1", int(router.url.rpartition(":")[2]))
    head = b"POST /api/chat HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(data)
    await stream.send_all(head + data)
    return stream


async def rest_of(stream: trio.SocketStream) -> bytes:
    """Return everything until the router ends the connection."""
    received = b""
    async for data in stream:
        received += data
    return received


ASKED = {"model": "a", "messages": MESSAGES}


@pytest.fixture
def endless(tmp_path) -> Path:
    """A configuration with a backend whose streams begin and never end."""
    return write_config(tmp_path, endless_table(tmp_path, "a"), router=["drain_s = 0.5"])


async def test_a_backend_that_dies_ends_the_stream(endless) -> None:
    """The last line says what happened, and the answer is properly framed."""
    async with connected(endless) as (_, router), await ask(router, ASKED) as stream:
        received = await stream.receive_some()
        os.kill((await router.event("backend.ready", model="a"))["pid"], signal.SIGKILL)
        received += await rest_of(stream)
        cut = await router.event("request.completed", path="/api/chat")
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"\r\n0\r\n\r\n")
    assert b'{"error":"the backend of model \'a\' was killed by signal 9' in received
    assert (cut["outcome"], cut["code"]) == ("cut", "backend_exited")


async def test_an_operator_can_cancel(endless, tmp_path) -> None:
    """The stream ends with the reason as its last line."""
    async with connected(endless) as (_, router), router.client() as admin:
        token = (tmp_path / "state" / "admin-token").read_text().strip()
        admin.headers["authorization"] = f"Bearer {token}"
        async with await ask(router, ASKED) as stream:
            received = await stream.receive_some()
            (model,) = (await admin.get("/admin/status")).json()["models"]
            (served,) = model["serving"]
            answer = await admin.post("/admin/requests/cancel", json={"id": served["id"]})
            assert answer.status_code == httpx.codes.OK, answer.text
            received += await rest_of(stream)
    assert b'{"error":"the request was cancelled' in received


async def test_who_leaves_while_a_model_loads_is_forgotten(config) -> None:
    """Nothing is held for a client that is gone, and the model is still loaded for others."""
    async with connected(config) as (client, router):
        stream = await ask(router, ASKED)
        await router.event("backend.spawned", model="a")
        await stream.aclose()
        left = await router.event("request.completed", path="/api/chat")
        answer = await client.chat("b", MESSAGES, options=GREEDY)
    assert left["outcome"] == "client_gone"
    assert answer.done


async def test_a_stream_ends_at_shutdown(endless) -> None:
    """The router does not wait for ever for it, and leaves nothing behind."""
    async with connected(endless) as (_, router), await ask(router, ASKED) as stream:
        assert await stream.receive_some()
        router.signal(signal.SIGTERM)
        assert await router.process.wait() == 0
