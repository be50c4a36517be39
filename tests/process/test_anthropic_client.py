"""The official Anthropic client works against the router, its error classes included."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import anthropic
import pytest
import trio
from anthropic.types import MessageParam

from tests.process.real import (
    LIMIT_S,
    Served,
    make_models,
    model_table,
    serving,
    shared,
    write_config,
)

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded, pytest.mark.usefixtures("in_time")]

T = TypeVar("T")

KEY = "sk-ant-0123456789"
HELLO: list[MessageParam] = [{"role": "user", "content": "what do you see"}]
TOOL: Any = {
    "name": "look",
    "description": "Looks at a place.",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}

BROKEN = """
[models.broken]
spawn.command = ["{python}", "-c", "print('no such device: gpu7'); raise SystemExit(3)", "$port"]
"""

KEYS = """
[api_keys.some]
sha256 = "{digest}"
models = ["a"]
"""


ROUTER = ["max_restarts = 0", "max_body_mib = 1", "cooldown_s = 0"]


def tables(factory: pytest.TempPathFactory) -> list[str]:
    """Return two chat models and a broken one."""
    models = make_models(factory)
    return [
        model_table(models, "a", 'aliases = ["claude-here"]', "notify_model_swap = true"),
        model_table(models, "b"),
        BROKEN.format(python=sys.executable),
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    """A router that all tests share which only ask it."""
    with shared(tmp_path_factory, *tables(tmp_path_factory), router=ROUTER) as served:
        yield served


async def with_client(
    router: Served, use: Callable[[anthropic.Anthropic], T], *, key: str = "any"
) -> T:
    """Return what *use* makes of a client that never retries, in a thread."""

    def work() -> T:
        with anthropic.Anthropic(
            base_url=router.url, api_key=key, max_retries=0, timeout=LIMIT_S
        ) as client:
            return use(client)

    return await trio.to_thread.run_sync(work)


async def refused(router: Served, *, key: str = "any", **changes: Any) -> anthropic.APIStatusError:
    """Return the error that the client raises for a message with these *changes*."""
    asked: dict[str, Any] = {"model": "a", "max_tokens": 4, "messages": HELLO} | changes

    def use(client: anthropic.Anthropic) -> anthropic.APIStatusError:
        with pytest.raises(anthropic.APIStatusError) as caught:
            client.messages.create(**asked)
        return caught.value

    return await with_client(router, use, key=key)


def type_of(error: anthropic.APIStatusError) -> str:
    """Return Anthropic's name for *error*; its body must have Anthropic's form."""
    body = error.body
    assert isinstance(body, dict)
    assert body["type"] == "error"
    assert error.request_id == body["request_id"]
    assert body["error"]["message"]
    kind = body["error"]["type"]
    assert isinstance(kind, str)
    return kind


async def test_a_message(served) -> None:
    """A message parses, and names role, text and tokens; an alias will do."""
    answer = await with_client(
        served,
        lambda client: client.messages.create(
            model="claude-here", max_tokens=6, messages=HELLO, system="Be short."
        ),
    )
    assert (answer.type, answer.role, answer.stop_reason) == ("message", "assistant", "max_tokens")
    assert answer.content[0].type == "text"
    assert answer.content[0].text
    assert answer.usage.output_tokens == 6


async def test_a_streamed_message(served) -> None:
    """Pings while the model loads do not disturb it; the pieces make up the message."""

    def use(client: anthropic.Anthropic) -> tuple[list[str], anthropic.types.Message]:
        with client.messages.stream(model="a", max_tokens=20, messages=HELLO) as stream:
            return list(stream.text_stream), stream.get_final_message()

    pieces, message = await with_client(served, use)
    assert len(pieces) > 10
    assert message.content[0].type == "text"
    assert "".join(pieces) == message.content[0].text
    assert message.usage.output_tokens == 20


async def test_counting_tokens(served) -> None:
    """The count is that of the message itself."""
    count = await with_client(
        served, lambda client: client.messages.count_tokens(model="a", messages=HELLO)
    )
    answer = await with_client(
        served,
        lambda client: client.messages.create(model="a", max_tokens=1, messages=HELLO),
    )
    usage = answer.usage
    assert count.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0) > 0


async def test_the_log_has_the_whole_prompt(tmp_path, tmp_path_factory) -> None:
    """Streamed or not, cached or not, it has the same number of tokens."""
    config = write_config(tmp_path, *tables(tmp_path_factory), router=ROUTER)

    def use(client: anthropic.Anthropic) -> int:
        for _ in range(2):
            client.messages.create(model="b", max_tokens=40, messages=HELLO)
            with client.messages.stream(model="b", max_tokens=40, messages=HELLO) as stream:
                stream.get_final_message()
        return client.messages.count_tokens(model="b", messages=HELLO).input_tokens

    async with serving(config) as router:
        count = await with_client(router, use)
        await router.event("request.completed", path="/v1/messages/count_tokens")
        done = [e for e in router.named("request.completed") if e["path"] == "/v1/messages"]
    assert [event["prompt_tokens"] for event in done] == [count] * 4
    assert [event["completion_tokens"] for event in done] == [40] * 4


async def test_the_list_of_models_has_its_form(served) -> None:
    """Every entry has the fields of the official client's class."""
    models = await with_client(served, lambda client: client.models.list().data)
    shown = await with_client(served, lambda client: client.models.retrieve("claude-here"))
    assert [(model.type, model.id, model.display_name) for model in models] == [
        ("model", name, name) for name in ("a", "b", "broken")
    ]
    assert (shown.id, shown.created_at.year >= 2000) == ("a", True)


async def test_tools(served) -> None:
    """What is said of tools reaches the model: the same message has more tokens."""

    def use(client: anthropic.Anthropic) -> tuple[int, int]:
        with_tools = client.messages.count_tokens(model="a", messages=HELLO, tools=[TOOL])
        without = client.messages.count_tokens(model="a", messages=HELLO)
        return with_tools.input_tokens, without.input_tokens

    more, fewer = await with_client(served, use)
    assert more > fewer + 10


async def test_listing_models(served) -> None:
    """The client's list has all models, with what it calls them."""

    def use(client: anthropic.Anthropic) -> list[str]:
        assert client.models.retrieve("b").id == "b"
        return [model.id for model in client.models.list()]

    assert await with_client(served, use) == ["a", "b", "broken"]


async def test_an_unknown_model(served) -> None:
    """The client raises NotFoundError, and the sentence names the model."""
    error = await refused(served, model="nobody")
    assert isinstance(error, anthropic.NotFoundError)
    assert type_of(error) == "not_found_error"
    assert "nobody" in error.message


async def test_a_bad_request(served) -> None:
    """The client raises BadRequestError."""
    error = await refused(served, model=7)
    assert isinstance(error, anthropic.BadRequestError)
    assert type_of(error) == "invalid_request_error"


async def test_a_request_that_is_too_large(served) -> None:
    """The client raises RequestTooLargeError."""
    large: list[MessageParam] = [{"role": "user", "content": "x" * (2 * 1024 * 1024)}]
    error = await refused(served, messages=large)
    assert isinstance(error, anthropic.RequestTooLargeError)
    assert type_of(error) == "request_too_large"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_backend_that_cannot_start(served, stream) -> None:
    """The client raises a server error; the sentence has exit code and last words."""
    error = await refused(served, model="broken", stream=stream)
    assert isinstance(error, anthropic.InternalServerError)
    assert error.status_code == 503
    assert type_of(error) == "overloaded_error"
    assert "exited with code 3" in error.message
    assert "no such device: gpu7" in error.message


async def test_keys(tmp_path, tmp_path_factory) -> None:
    """A wrong key is AuthenticationError; of models that it is not good for it knows nothing."""
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    config = write_config(tmp_path, *tables(tmp_path_factory), KEYS.format(digest=digest))
    async with serving(config) as running:
        wrong = await refused(running, key="sk-ant-wrong-0123")
        other = await refused(running, key=KEY, model="b")
        answer = await with_client(
            running,
            lambda client: client.messages.create(model="a", max_tokens=2, messages=HELLO),
            key=KEY,
        )
    assert isinstance(wrong, anthropic.AuthenticationError)
    assert type_of(wrong) == "authentication_error"
    assert isinstance(other, anthropic.NotFoundError)
    assert type_of(other) == "not_found_error"
    assert answer.content


async def test_a_stream_that_breaks_off(served) -> None:
    """An error event in a stream is raised as an error of the API."""

    def use(client: anthropic.Anthropic) -> anthropic.APIStatusError:
        with client.messages.stream(
            model="broken",
            max_tokens=4,
            messages=HELLO,
            extra_headers={"X-Notify-Model-Swap": "true"},
        ) as stream:
            with pytest.raises(anthropic.APIStatusError) as caught:
                list(stream.text_stream)
            return caught.value

    error = await with_client(served, use)
    assert "exited with code 3" in str(error.body)
