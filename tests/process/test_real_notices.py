"""Swap notices with llama.cpp's own server and the official clients."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
import trio

from llama_router.core.apis.notices import MARK, marked
from tests.process.harness import base_port
from tests.process.real import (
    LIMIT_S,
    RealRouter,
    chat,
    make_models,
    model_table,
    serving,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]

MESSAGE: Any = {"role": "user", "content": "what do you see"}


@pytest.fixture
def config(tmp_path, tmp_path_factory) -> Path:
    """Two chat models that take turns, one that cannot be loaded, and notices."""
    models = make_models(tmp_path_factory)
    (tmp_path / "broken.gguf").write_bytes(b"GGUF, but not really")
    return write_config(
        tmp_path,
        model_table(models, "a"),
        model_table(models, "b"),
        model_table(tmp_path, "broken"),
        "[scheduler]\nswap_patience = 0\n",  # else a slow load lets the idle model wait
        router=["notify_model_swap = true", f"base_port = {base_port()}"],
    )


def client_of(router: RealRouter) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{router.url}/v1", api_key="any", max_retries=0)


def read_chat(router: RealRouter, model: str, **headers: str) -> tuple[str, str]:
    """Return reasoning and content of a streamed answer. In a thread."""
    asked = chat(model, temperature=0)
    with (
        client_of(router) as client,
        client.chat.completions.create(stream=True, extra_headers=headers, **asked) as stream,
    ):
        deltas = [chunk.choices[0].delta for chunk in stream]
    thoughts = [getattr(delta, "reasoning_content", None) or "" for delta in deltas]
    return "".join(thoughts).replace(MARK, ""), "".join(delta.content or "" for delta in deltas)


def without_estimates(told: str) -> list[str]:
    """Return the notices without how long a load should still take: a slow machine says that."""
    lines = [re.sub(r"[,:] about \d+ (?:s|min) left", "", line) for line in told.splitlines()]
    return [line for line in lines if line.endswith((".", "%"))]


async def test_openai_client_sees_the_swap(config) -> None:
    """The reasoning tells the swap, step by step; the content is that of a whole answer."""

    def read(router: RealRouter) -> None:
        with client_of(router) as client:
            whole = client.chat.completions.create(**chat("b", temperature=0))
        first, _ = read_chat(router, "a")
        assert first.splitlines()[0] == "Unloading model 'b'..."
        told, content = read_chat(router, "b")
        assert without_estimates(told) == [
            "Unloading model 'a'...",
            "Loading model 'b'...",
            "Loading model 'b': 100%",
            "Model 'b' is ready.",
        ]
        assert content == whole.choices[0].message.content
        assert read_chat(router, "b") == ("", content)  # it did not wait
        told, _ = read_chat(router, "a", **{"X-Notify-Model-Swap": "false"})
        assert told == ""

    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await trio.to_thread.run_sync(read, router)


async def test_openai_clients_stream_helper(config) -> None:
    """The helper that adds up all chunks gets one role, all text, and the end's reason."""

    def read(router: RealRouter) -> None:
        with (
            client_of(router) as client,
            client.chat.completions.stream(**chat("a", temperature=0)) as stream,
        ):
            for _ in stream:
                pass
            choice = stream.current_completion_snapshot.choices[0]
            whole = client.chat.completions.create(**chat("a", temperature=0))
        assert choice.message.role == "assistant"
        assert choice.message.content == whole.choices[0].message.content
        assert "Loading model 'a'..." in str(getattr(choice.message, "reasoning_content", ""))
        assert choice.finish_reason == "length"

    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await trio.to_thread.run_sync(read, router)


async def test_openai_completions_and_responses(config) -> None:
    """Comments are no events for the client; the text is complete."""

    def read(router: RealRouter) -> None:
        with client_of(router) as client:
            pieces = client.completions.create(model="a", prompt="x", max_tokens=3, stream=True)
            assert len([piece for piece in pieces if piece.choices[0].text]) == 3
            events = list(client.responses.create(model="b", input="x", stream=True))
        assert events[0].type == "response.created"
        assert events[-1].type == "response.completed"

    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await trio.to_thread.run_sync(read, router)
            assert len(router.named("backend.ready")) == 2


async def test_openai_client_and_a_load_that_fails(config) -> None:
    """After the notices the client raises its error, with the router's sentence."""

    def read(router: RealRouter) -> None:
        with pytest.raises(openai.APIError) as caught:
            read_chat(router, "broken")
        assert "the backend of model 'broken' exited" in caught.value.message
        assert caught.value.code == "backend_exited"

    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await trio.to_thread.run_sync(read, router)


async def test_openai_client_and_a_request_that_the_backend_refuses(config) -> None:
    """What is wrong with it is said although the stream had begun."""

    def read(router: RealRouter) -> None:
        with client_of(router) as client, pytest.raises(openai.APIError) as caught:
            list(client.chat.completions.create(model="a", messages=5, stream=True))  # type: ignore[call-overload]  # wrong on purpose
        assert "messages" in caught.value.message

    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await trio.to_thread.run_sync(read, router)


async def test_anthropic_client(config) -> None:
    """Its stream helper skips the pings; text and end are there, with and without a swap."""

    def read(router: RealRouter) -> None:
        with anthropic.Anthropic(base_url=router.url, api_key="any", max_retries=0) as client:
            texts = []
            for model in "aab":
                with client.messages.stream(
                    model=model, max_tokens=4, messages=[MESSAGE], extra_body={"temperature": 0}
                ) as stream:
                    message = stream.get_final_message()
                assert message.stop_reason == "max_tokens"
                texts.append(message.content)
            assert texts[0] == texts[1] != texts[2]
            with pytest.raises(anthropic.APIStatusError) as caught:
                client.messages.create(
                    model="broken", max_tokens=4, messages=[MESSAGE], stream=True
                ).__next__()
            assert "the backend of model 'broken' exited" in str(caught.value)

    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await trio.to_thread.run_sync(read, router)
            assert len(router.named("backend.ready")) == 2


async def test_ollama_client(config) -> None:
    """Chats and generations think aloud about the swap; a failed load raises its error."""

    def read(router: RealRouter) -> None:
        asked: dict[str, Any] = {"options": {"temperature": 0, "num_predict": 4}}
        with ollama.Client(router.url) as client:
            whole = client.chat("b", [MESSAGE], **asked)
            assert client.chat("a", [MESSAGE], **asked).message.thinking is None
            told = list(client.chat("b", [MESSAGE], stream=True, **asked))
            thoughts = "".join(piece.message.thinking or "" for piece in told)
            assert without_estimates(thoughts.replace(MARK, "")) == [
                "Unloading model 'a'...",
                "Loading model 'b'...",
                "Loading model 'b': 100%",
                "Model 'b' is ready.",
            ]
            assert "".join(p.message.content for p in told) == whole.message.content
            again = list(client.chat("b", [MESSAGE], stream=True, **asked))
            assert not any(piece.message.thinking for piece in again)  # it did not wait
            told_too = list(client.generate("a", "x", stream=True, **asked))
            assert told_too[0].thinking == marked("Unloading model 'b'...")
            assert told_too[0].response == ""
            assert told_too[-1].done
            with pytest.raises(ollama.ResponseError, match="the backend of model 'broken' exited"):
                list(client.chat("broken", [MESSAGE], stream=True))

    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            await trio.to_thread.run_sync(read, router)
