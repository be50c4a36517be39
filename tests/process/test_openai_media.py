"""The official OpenAI client works with sounds, pictures and tools: forms up, bytes down."""

from __future__ import annotations

import base64
import hashlib
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
import trio

from tests.process.media_backend import SOUND
from tests.process.real import LIMIT_S, Shared, endless_table, shared

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

T = TypeVar("T")

#: Larger than what one read takes, and with all kinds of line ends.
UPLOAD = random.Random(1).randbytes(3 * 1024 * 1024) + b"\r\n--\r\n"
SAID = f"a.wav, {len(UPLOAD)} bytes, {hashlib.sha256(UPLOAD).hexdigest()}"

MEDIA = """
[models."org/media"]
aliases = ["whisper-1"]
spawn.command = ["{python}", "-I", "{program}", "$port"]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Shared]:
    """A router with a backend for media and another model."""
    program = Path(__file__).with_name("media_backend.py")
    media = MEDIA.format(python=sys.executable, program=program)
    other = endless_table(tmp_path_factory.mktemp("other"), "other")
    with shared(tmp_path_factory, media, other, router=["drain_s = 0.5"]) as served:
        yield served


async def with_client(served: Shared, use: Callable[[openai.OpenAI], T]) -> T:
    """Return what *use* makes of a client that never retries, in a thread.

    The model that it uses is not loaded yet.
    """

    def work(url: str) -> T:
        with openai.OpenAI(
            base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=LIMIT_S
        ) as client:
            return use(client)

    await served.unload()
    result = await trio.to_thread.run_sync(work, served.url)
    assert await served.loaded() == ["org/media"]
    return result


async def test_a_transcription(served) -> None:
    """The file arrives as it was, wherever the client puts the field ``model``."""
    heard = await with_client(
        served,
        lambda client: client.audio.transcriptions.create(
            model="org/media", file=("a.wav", UPLOAD), language="en"
        ),
    )
    assert heard.text == SAID


async def test_a_transcription_as_text(served) -> None:
    """An answer that is no JSON passes as it is; an alias will do."""
    heard: Any = await with_client(
        served,
        lambda client: client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", UPLOAD), response_format="text"
        ),
    )
    assert heard == SAID


async def test_a_streamed_transcription(served) -> None:
    """The events come one by one."""

    def use(client: openai.OpenAI) -> list[Any]:
        return list(
            client.audio.transcriptions.create(
                model="whisper-1", file=("a.wav", UPLOAD), stream=True
            )
        )

    *deltas, done = await with_client(served, use)
    assert "".join(event.delta for event in deltas) == done.text == SAID


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # by OpenAI, not by backends
async def test_a_translation(served) -> None:
    """It is another path, and the same form."""
    heard = await with_client(
        served,
        lambda client: client.audio.translations.create(model="whisper-1", file=("a.wav", UPLOAD)),
    )
    assert heard.text == SAID


async def test_speech(served) -> None:
    """A binary answer without a length arrives byte for byte, whole or piece by piece."""

    def use(client: openai.OpenAI) -> tuple[bytes, bytes, str]:
        asked: Any = {"model": "org/media", "voice": "alloy", "input": "hello"}
        whole = client.audio.speech.create(**asked)
        with client.audio.speech.with_streaming_response.create(**asked) as streamed:
            pieces = list(streamed.iter_bytes())
        return whole.content, b"".join(pieces), whole.response.headers["content-type"]

    assert await with_client(served, use) == (SOUND, SOUND, "audio/mpeg")


async def test_images(served) -> None:
    """Generated from JSON; edited by a form with several files of one name."""

    def use(client: openai.OpenAI) -> list[Any]:
        made = client.images.generate(model="org/media", prompt="a llama", n=2)
        edited = client.images.edit(
            model="org/media",
            prompt="a hat",
            image=[("1.png", UPLOAD), ("2.png", b"\x89PNG\r\n\x1a\n")],
        )
        return [*(made.data or ()), *(edited.data or ())]

    pictures = [base64.b64decode(p.b64_json) for p in await with_client(served, use)]
    assert pictures == [b"a llama 0", b"a llama 1", UPLOAD, b"\x89PNG\r\n\x1a\n"]


async def test_tools(served) -> None:
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

    completion = await with_client(served, use)
    (choice,) = completion.choices
    (call,) = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "look")
    assert call.function.arguments == '{"at": "sea"}'


async def test_a_form_without_a_model(served) -> None:
    """The client raises BadRequestError; nothing is loaded."""

    def use(url: str) -> openai.BadRequestError:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
            with pytest.raises(openai.BadRequestError) as caught:
                client.audio.transcriptions.create(model="", file=("a.wav", UPLOAD))
            return caught.value

    await served.unload()
    error = await trio.to_thread.run_sync(use, served.url)
    assert await served.loaded() == []
    assert error.param == "model"
