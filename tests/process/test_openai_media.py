"""The official OpenAI client works with sounds, pictures and tools: forms up, bytes down."""

from __future__ import annotations

import base64
import hashlib
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
import trio

from tests.process.media_backend import SOUND
from tests.process.real import LIMIT_S, RealRouter, endless_table, serving, write_config

pytestmark = pytest.mark.process

T = TypeVar("T")

#: Larger than what one read takes, and with all kinds of line ends.
UPLOAD = random.Random(1).randbytes(3 * 1024 * 1024) + b"\r\n--\r\n"
SAID = f"a.wav, {len(UPLOAD)} bytes, {hashlib.sha256(UPLOAD).hexdigest()}"

MEDIA = """
[models."org/media"]
aliases = ["whisper-1"]
spawn.command = ["{python}", "-I", "{program}", "$port"]
"""


@asynccontextmanager
async def router(folder: Path) -> AsyncIterator[RealRouter]:
    """Run a router with a backend for media, not loaded yet, and another model."""
    program = Path(__file__).with_name("media_backend.py")
    table = MEDIA.format(python=sys.executable, program=program)
    config = write_config(folder, table, endless_table(folder, "other"), router=["drain_s = 0.5"])
    with trio.fail_after(LIMIT_S):
        async with serving(config) as running:
            yield running


async def with_client(folder: Path, use: Callable[[openai.OpenAI], T]) -> T:
    """Return what *use* makes of a client that never retries, in a thread."""

    def work(url: str) -> T:
        with openai.OpenAI(
            base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=LIMIT_S
        ) as client:
            return use(client)

    async with router(folder) as running:
        result = await trio.to_thread.run_sync(work, running.url)
        assert await running.loaded() == ["org/media"]
        return result


async def test_a_transcription(tmp_path) -> None:
    """The file arrives as it was, wherever the client puts the field ``model``."""
    heard = await with_client(
        tmp_path,
        lambda client: client.audio.transcriptions.create(
            model="org/media", file=("a.wav", UPLOAD), language="en"
        ),
    )
    assert heard.text == SAID


async def test_a_transcription_as_text(tmp_path) -> None:
    """An answer that is no JSON passes as it is; an alias will do."""
    heard: Any = await with_client(
        tmp_path,
        lambda client: client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", UPLOAD), response_format="text"
        ),
    )
    assert heard == SAID


async def test_a_streamed_transcription(tmp_path) -> None:
    """The events come one by one."""

    def use(client: openai.OpenAI) -> list[Any]:
        return list(
            client.audio.transcriptions.create(
                model="whisper-1", file=("a.wav", UPLOAD), stream=True
            )
        )

    *deltas, done = await with_client(tmp_path, use)
    assert "".join(event.delta for event in deltas) == done.text == SAID


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # by OpenAI, not by backends
async def test_a_translation(tmp_path) -> None:
    """It is another path, and the same form."""
    heard = await with_client(
        tmp_path,
        lambda client: client.audio.translations.create(model="whisper-1", file=("a.wav", UPLOAD)),
    )
    assert heard.text == SAID


async def test_speech(tmp_path) -> None:
    """A binary answer without a length arrives byte for byte, whole or piece by piece."""

    def use(client: openai.OpenAI) -> tuple[bytes, bytes, str]:
        asked: Any = {"model": "org/media", "voice": "alloy", "input": "hello"}
        whole = client.audio.speech.create(**asked)
        with client.audio.speech.with_streaming_response.create(**asked) as streamed:
            pieces = list(streamed.iter_bytes())
        return whole.content, b"".join(pieces), whole.response.headers["content-type"]

    assert await with_client(tmp_path, use) == (SOUND, SOUND, "audio/mpeg")


async def test_images(tmp_path) -> None:
    """Generated from JSON; edited by a form with several files of one name."""

    def use(client: openai.OpenAI) -> list[Any]:
        made = client.images.generate(model="org/media", prompt="a llama", n=2)
        edited = client.images.edit(
            model="org/media",
            prompt="a hat",
            image=[("1.png", UPLOAD), ("2.png", b"\x89PNG\r\n\x1a\n")],
        )
        return [*(made.data or ()), *(edited.data or ())]

    pictures = [base64.b64decode(p.b64_json) for p in await with_client(tmp_path, use)]
    assert pictures == [b"a llama 0", b"a llama 1", UPLOAD, b"\x89PNG\r\n\x1a\n"]


async def test_tools(tmp_path) -> None:
    """Calls of tools in a stream are put together by the client as they should be."""
    tool: Any = {"type": "function", "function": {"name": "look", "parameters": {}}}

    def use(client: openai.OpenAI) -> Any:
        with client.chat.completions.stream(
            model="org/media",
            messages=[{"role": "user", "content": "look"}],
            tools=[tool],
            extra_headers={"X-Notify-Model-Swap": "true"},
        ) as stream:
            return stream.get_final_completion()

    completion = await with_client(tmp_path, use)
    (choice,) = completion.choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "look")
    assert call.function.arguments == '{"at": "sea"}'


async def test_a_form_without_a_model(tmp_path) -> None:
    """The client raises BadRequestError; nothing is loaded."""

    def use(url: str) -> openai.BadRequestError:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            with pytest.raises(openai.BadRequestError) as caught:
                client.audio.transcriptions.create(model="", file=("a.wav", UPLOAD))
            return caught.value

    async with router(tmp_path) as running:
        error = await trio.to_thread.run_sync(use, running.url)
        assert await running.loaded() == []
    assert error.param == "model"
