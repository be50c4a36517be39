"""The official OpenAI client works against the router, its error classes included."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
import trio
from openai.types.chat import ChatCompletionChunk

from tests.process.real import (
    LIMIT_S,
    RealRouter,
    Served,
    chat,
    make_models,
    model_table,
    serving,
    shared,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded, pytest.mark.usefixtures("in_time")]

#: A model whose program exists and fails, whatever it is asked.
BROKEN = """
[models.broken]
aliases = ["cracked"]
spawn.command = ["{python}", "-c", "print('no such device: gpu7'); raise SystemExit(3)", "$port"]
"""


ROUTER = ["max_restarts = 0"]


def tables(factory: pytest.TempPathFactory) -> list[str]:
    """Return two chat models, an embedding model and a broken one."""
    models = make_models(factory)
    return [
        model_table(models, "a", 'aliases = ["gpt-4o"]'),
        model_table(models, "b"),
        model_table(models, "embedder", args=["--embeddings"]),
        BROKEN.format(python=sys.executable),
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    """A router that all tests share which only ask it."""
    with shared(tmp_path_factory, *tables(tmp_path_factory), router=ROUTER) as served:
        yield served


@pytest.fixture
def config(tmp_path, tmp_path_factory) -> Path:
    """A configuration of a test's own."""
    return write_config(tmp_path, *tables(tmp_path_factory), router=ROUTER)


@pytest.fixture
async def client(served) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of the shared router that never retries."""
    async with client_of(served) as client:
        yield client


def client_of(router: Served) -> openai.AsyncOpenAI:
    """Return a client that never retries."""
    return openai.AsyncOpenAI(
        base_url=f"{router.url}/v1", api_key="any", max_retries=0, timeout=LIMIT_S
    )


@asynccontextmanager
async def connected(config: Path) -> AsyncIterator[tuple[openai.AsyncOpenAI, RealRouter]]:
    """Run a router and yield a client that never retries."""
    async with serving(config) as router, client_of(router) as client:
        yield client, router


async def test_chat(client) -> None:
    """A chat completion parses, and names model, text and tokens."""
    answer = await client.chat.completions.create(**chat("a", max_tokens=6))
    assert answer.object == "chat.completion"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


async def test_two_models_answer_differently(client, served) -> None:
    """Each request reaches the model that it names, by its id or by an alias."""
    texts: dict[str, str | None] = {}
    for name in ("a", "b", "gpt-4o"):
        answer = await client.chat.completions.create(**chat(name, temperature=0))
        texts[name] = answer.choices[0].message.content
    assert await served.loaded() == ["a"]
    assert texts["a"] == texts["gpt-4o"]
    assert texts["a"] != texts["b"]


async def streamed(
    router: Served, asked: dict[str, Any], *, at_first: Callable[[], None] | None = None
) -> list[ChatCompletionChunk]:
    """Return the chunks of a streamed answer; *at_first* is called when there is the first.

    In a thread, because the asynchronous client does not close its generators in Trio.
    """

    def read() -> list[ChatCompletionChunk]:
        with (
            openai.OpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0) as client,
            client.chat.completions.create(stream=True, **asked) as stream,
        ):
            chunks = [next(stream)]
            if at_first is not None:
                trio.from_thread.run_sync(at_first)
            return chunks + list(stream)

    return await trio.to_thread.run_sync(read)


def pieces(chunks: list[ChatCompletionChunk]) -> list[str]:
    """Return the text of *chunks*, piece by piece."""
    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices]
    return [text for text in texts if text]


async def test_streamed_chat(client, served) -> None:
    """A streamed answer has the same text as the whole one, and comes token by token."""
    asked = chat("a", max_tokens=40, temperature=0, seed=1)
    whole = await client.chat.completions.create(**asked)
    chunks = await streamed(served, asked)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len(pieces(chunks)) == 40
    assert "".join(pieces(chunks)) == whole.choices[0].message.content


async def test_a_stream_begins_before_it_ends(config) -> None:
    """The first chunk is in the client's hands while the backend still generates."""
    asked = chat("a", max_tokens=1500, temperature=0)
    completed_at_first: list[object] = []
    async with connected(config) as (_, router):

        def look() -> None:
            completed_at_first.append(router.named("request.completed"))

        chunks = await streamed(router, asked, at_first=look)
        await router.event("request.completed", completion_tokens=1500)
    assert completed_at_first == [[]]
    assert len(pieces(chunks)) == 1500


async def test_the_stream_ends_with_usage_if_asked_for(served) -> None:
    """``include_usage`` adds a last chunk without choices that counts the tokens."""
    asked = chat("a", max_tokens=9, stream_options={"include_usage": True})
    *chunks, last = await streamed(served, asked)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 9
    assert all(chunk.usage is None for chunk in chunks)


async def test_structured_output(client) -> None:
    """A schema binds even a model that babbles."""
    schema = {
        "type": "object",
        "properties": {"seen": {"type": "boolean"}},
        "required": ["seen"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    answer = await client.chat.completions.create(
        **chat("a", max_tokens=200, temperature=0, response_format=wanted)
    )
    assert answer.choices[0].finish_reason == "stop"
    assert json.loads(answer.choices[0].message.content or "").keys() == {"seen"}


async def test_completions(client, served) -> None:
    """The older API, whole and streamed, gives the same text."""
    asked: dict[str, Any] = {"model": "a", "prompt": "once", "max_tokens": 12, "temperature": 0}

    def read(url: str) -> list[str]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as other:
            stream = other.completions.create(stream=True, **asked)
            return [chunk.choices[0].text for chunk in stream if chunk.choices]

    whole = await client.completions.create(**asked)
    parts = await trio.to_thread.run_sync(read, served.url)
    assert len(parts) >= 12
    assert "".join(parts) == whole.choices[0].text


async def test_responses(client, served) -> None:
    """The newer API, whole and streamed, while a model is swapped in."""
    asked: dict[str, Any] = {"input": "what do you see", "max_output_tokens": 12}

    def read(url: str) -> list[Any]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as other:
            headers = {"X-Notify-Model-Swap": "true"}
            return list(
                other.responses.create(model="b", stream=True, extra_headers=headers, **asked)
            )

    whole = await client.responses.create(model="a", **asked)
    events = await trio.to_thread.run_sync(read, served.url)
    assert whole.output_text
    assert events[0].type == "response.created"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) >= 12
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "".join(deltas)


async def test_embeddings(client, served) -> None:
    """An embedding model gives vectors: the same for the same text, others for others."""
    answer = await client.embeddings.create(
        model="embedder", input=["water", "water", "the long way"]
    )
    assert await served.loaded() == ["embedder"]
    same, again, other = (item.embedding for item in answer.data)
    assert len(same) == 64
    assert same == pytest.approx(again)
    assert same != pytest.approx(other)


async def test_models_list(client) -> None:
    """All configured models are listed, loaded or not."""
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == ["a", "b", "embedder", "broken"]
    assert {model.object for model in listed} == {"model"}


async def test_models_retrieve(client) -> None:
    """A model is found by its id and by its alias, and says its id."""
    assert (await client.models.retrieve("b")).id == "b"
    assert (await client.models.retrieve("gpt-4o")).id == "a"
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


async def test_an_unknown_model_is_not_found(client) -> None:
    """The client raises its NotFoundError, and the sentence names the model."""
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(**chat("nobody"))
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.type == "invalid_request_error"
    assert "nobody" in caught.value.message


async def test_a_request_without_a_model_is_bad(client) -> None:
    """Leaving out the model is the client's mistake, and the error names the field."""
    asked: dict[str, Any] = chat("") | {"model": openai.omit}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**asked)
    assert caught.value.param == "model"
    assert caught.value.type == "invalid_request_error"


async def test_a_backend_that_cannot_start_is_a_server_error(client) -> None:
    """The client raises InternalServerError 503; the sentence has exit code and last words."""
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(**chat("broken"))
    answer = await client.chat.completions.create(**chat("a"))  # the others still work
    assert caught.value.status_code == 503
    assert "exited with code 3" in caught.value.message
    assert "no such device: gpu7" in caught.value.message
    assert answer.choices


async def test_keys(config) -> None:
    """A wrong key is AuthenticationError; of models that it is not good for it knows nothing."""
    digest = hashlib.sha256(b"sk-0123456789").hexdigest()
    table = f'\n[api_keys.some]\nsha256 = "{digest}"\nmodels = ["a"]\n'
    config.write_text(config.read_text() + table)
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            with_key = partial(openai.AsyncOpenAI, base_url=f"{router.url}/v1", max_retries=0)
            async with with_key(api_key="sk-wrong-0123456") as client:
                with pytest.raises(openai.AuthenticationError) as wrong:
                    await client.chat.completions.create(**chat("a"))
            async with with_key(api_key="sk-0123456789") as client:
                with pytest.raises(openai.NotFoundError) as other:
                    await client.chat.completions.create(**chat("b"))
                assert (await client.chat.completions.create(**chat("a"))).choices
    assert wrong.value.code == "invalid_api_key"
    assert other.value.code == "model_not_found"


async def test_a_full_queue_is_a_rate_limit(tmp_path) -> None:
    """The client raises RateLimitError, which it retries unless it is told not to."""
    command = [sys.executable, "-c", "import time; time.sleep(1000)", "$port"]
    table = f"\n[models.slow]\nspawn.command = {json.dumps(command)}\n"
    async with (
        connected(write_config(tmp_path, table, router=["max_queued = 1", "drain_s = 0.5"])) as (
            client,
            router,
        ),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(partial(client.chat.completions.create, **chat("slow")))
        await router.event("backend.spawned", model="slow")
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(**chat("slow"))
        nursery.cancel_scope.cancel()
    assert caught.value.code == "queue_full"
    assert await router.event("request.refused", request_id=caught.value.request_id)
    assert int(caught.value.response.headers["retry-after"]) > 0


async def test_a_body_that_is_too_large(config) -> None:
    """The client raises APIStatusError 413."""
    config.write_text(config.read_text().replace("[router]\n", "[router]\nmax_body_mib = 1\n"))
    async with connected(config) as (client, _):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.embeddings.create(model="embedder", input="x" * (2 * 1024 * 1024))
    assert (caught.value.status_code, caught.value.type) == (413, "invalid_request_error")


async def test_a_backends_own_refusal_passes_through(client) -> None:
    """What the backend itself finds wrong reaches the client with the backend's sentence."""
    with pytest.raises(openai.APIStatusError) as caught:
        await client.embeddings.create(model="a", input="water")
    assert caught.value.status_code in {400, 501}
    assert "embeddings" in caught.value.message


async def test_closing_a_stream_early_leaves_a_usable_router(config) -> None:
    """After a reader lost interest the next request is served, by another model too."""

    def lose_interest(url: str) -> list[str | None]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            asked = chat("a", max_tokens=100_000)
            with client.chat.completions.create(stream=True, **asked) as stream:
                next(stream)
            answers = [client.chat.completions.create(**chat(name)) for name in "ab"]
            return [answer.choices[0].message.content for answer in answers]

    async with connected(config) as (_, router):
        texts = await trio.to_thread.run_sync(lose_interest, router.url)
        left = await router.event("request.completed")
    assert all(texts)
    assert left["outcome"] == "client_gone"
