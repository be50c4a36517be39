"""Ollama's requests reach backends in the shape that the configuration says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from tests.process.harness import Answer, Router, post, request

pytestmark = pytest.mark.process

CHAT_PATH = "/v1/chat/completions"
EMBEDDING_PATH = "/v1/embeddings"
MESSAGES = [{"role": "user", "content": "hello"}]
ANSWER = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
SHAPE: dict[str, Any] = {
    "aliases": ["x"],
    "upstream_model": "org/a",
    "drop_params": ["seed", "dimensions"],
    "default_params": {"max_tokens": 7},
    "set_params": {"top_k": 1},
    "presets": {"high": {"temperature": 0.0, "reasoning_effort": "high"}},
}


@pytest.fixture
async def router(start, stage) -> Router:
    """A model that shapes requests, for chats; one for embeddings; and a default."""
    models = {
        "a": stage.model("a", "--script", CHAT_PATH, **SHAPE, group="g"),
        "e": stage.model("e", "--script", EMBEDDING_PATH, **SHAPE | {"aliases": []}, group="g"),
    }
    return await start(models, default_model="x:high", default_for_unknown=True)


async def received(router, stage, data: bytes, model: str = "a") -> tuple[Any, Answer]:
    """Return what the backend got, and what the client got."""
    answers: list[Answer] = []

    async def ask() -> None:
        answers.append(await router.ask(data))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        script = await (await stage.backend(model)).request()
        said = ANSWER if model == "a" else {"data": [{"embedding": [1.0], "index": 0}]}
        body = json.dumps(said).encode()
        await script.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    return json.loads(script.body), answers[0]


async def test_a_chat(router, stage) -> None:
    """Ollama's options are translated first: the settings are about what backends know."""
    options = {"seed": 5, "top_k": 40, "temperature": 0.5}
    asked = post("/api/chat", "a:latest", messages=MESSAGES, stream=False, options=options)
    got, answer = await received(router, stage, asked)
    assert got == {
        "model": "org/a",
        "messages": MESSAGES,
        "stream": False,
        "temperature": 0.5,
        "top_k": 1,
        "max_tokens": 7,
    }
    assert (answer.json()["model"], answer.json()["message"]["content"]) == ("a:latest", "hi")


async def test_a_preset_in_a_generation(router, stage) -> None:
    """Asked for by an alias, as if it were one of Ollama's tags."""
    asked = post("/api/generate", "x:high", prompt="hello", stream=False, think="low")
    got, answer = await received(router, stage, asked)
    assert (got["temperature"], got["reasoning_effort"], got["top_k"]) == (0.0, "high", 1)
    assert (got["model"], answer.json()["model"]) == ("org/a", "x:high")


async def test_embeddings(router, stage) -> None:
    """They have parameters, too."""
    asked = post("/api/embed", "e", input=["x"], dimensions=64)
    got, answer = await received(router, stage, asked, "e")
    assert got == {"model": "org/a", "input": ["x"], "top_k": 1, "max_tokens": 7}
    assert answer.json()["embeddings"] == [[1.0]]


@pytest.mark.parametrize("named", [{}, {"model": "llama3.2"}])
async def test_the_default_model_answers(router, stage, named) -> None:
    """Requests without a model, and with one that nobody knows; with its preset."""
    body = json.dumps({**named, "messages": MESSAGES, "stream": False}).encode()
    got, answer = await received(router, stage, request("POST", "/api/chat", body))
    assert (got["model"], got["reasoning_effort"]) == ("org/a", "high")
    assert answer.json()["model"] == named.get("model", "x:high")


async def test_a_large_request(router, stage) -> None:
    """It is taken apart elsewhere, and gets the same shape."""
    messages = [{"role": "user", "content": "x" * 2**20}]
    asked = post("/api/chat", "a", messages=messages, stream=False, options={"seed": 1})
    got, _ = await received(router, stage, asked)
    assert got["messages"] == messages
    assert (got["top_k"], "seed" in got) == (1, False)


async def test_the_default_model_is_not_described_as_another(router) -> None:
    """Who asks about a model that is not here is told so; the default stands in for requests."""
    answer = await router.ask(post("/api/show", "llama3.2"))
    assert answer.status == 404
