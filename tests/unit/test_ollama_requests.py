"""What Ollama's clients ask for, in the words of the OpenAI API."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.control.ollama import bodies, requests
from llama_router.control.ollama.bodies import keep_alive_s
from llama_router.control.ollama.requests import AnswerFormat, TranslatedRequest, insert_error
from llama_router.errors.requests import RequestError

USER = {"role": "user", "content": "hello"}


def chat(**fields: Any) -> tuple[TranslatedRequest, dict[str, Any]]:
    body = {"model": "m", "messages": [USER], **fields}
    translated = requests.chat(bodies.decode(json.dumps(body).encode(), bodies.ChatRequest))
    return translated, json.loads(translated.body())


def generate(**fields: Any) -> tuple[TranslatedRequest, dict[str, Any]]:
    data = json.dumps({"model": "m", **fields}).encode()
    translated = requests.generate(bodies.decode(data, bodies.GenerateRequest))
    return translated, json.loads(translated.body())


def embed(**fields: Any) -> tuple[TranslatedRequest, dict[str, Any]]:
    data = json.dumps({"model": "m", **fields}).encode()
    translated = requests.embed(bodies.decode(data, bodies.EmbedRequest))
    return translated, json.loads(translated.body())


def test_a_chat_streams_unless_told_otherwise() -> None:
    """As with Ollama; a stream ends with the figures that the last line needs."""
    translated, asked = chat()
    assert (translated.path, translated.stream, asked["stream"]) == (
        "/v1/chat/completions",
        True,
        True,
    )
    assert asked["stream_options"] == {"include_usage": True}
    translated, asked = chat(stream=False)
    assert (translated.stream, asked["stream"], "stream_options" in asked) == (False, False, False)
    assert asked["messages"] == [USER]


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ({"num_predict": 5}, {"max_tokens": 5}),
        ({"num_predict": 0}, {"max_tokens": 0}),
        ({"num_predict": -1}, {}),
        ({"num_predict": -2}, {}),
        (
            {"temperature": 0, "top_k": 40.0, "seed": -1},
            {"temperature": 0, "top_k": 40, "seed": -1},
        ),
        ({"stop": ["a"]}, {"stop": ["a"]}),
        ({"num_ctx": 4096, "num_gpu": 99, "what_is_this": [1]}, {}),
    ],
)
def test_options(options: dict[str, Any], fields: dict[str, Any]) -> None:
    """Options about sampling have their counterparts; those about loading are left out."""
    _, asked = chat(options=options)
    kept = {k: v for k, v in asked.items() if k not in {"model", "messages", "stream"}}
    kept.pop("stream_options")
    assert kept == fields


@pytest.mark.parametrize(
    "wrong",
    [
        {"options": {"temperature": "hot"}},
        {"options": {"top_k": 1.5}},
        {"options": {"seed": 1e300 * 10}},
        {"format": "yaml"},
        {"think": "hard"},
        {"keep_alive": "soon"},
        {"messages": [{"content": "no role"}]},
        {"messages": [{**USER, "images": ["%%%"]}]},
        {"model": ""},
        {"model": "x" * 2000},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    """With an error of the client, whatever field it is in."""
    with pytest.raises(RequestError):
        chat(**wrong)


def test_formats() -> None:
    """Plain JSON, a schema, and the empty text that means neither."""
    schema = {"type": "object"}
    assert chat(format="json")[1]["response_format"] == {"type": "json_object"}
    assert chat(format=schema)[1]["response_format"]["json_schema"]["schema"] == schema
    assert "response_format" not in chat(format="")[1]


def test_thinking() -> None:
    """It is switched by the template's variable; an effort is OpenAI's parameter, too."""
    translated, asked = chat(think=False)
    assert asked["chat_template_kwargs"] == {"enable_thinking": False}
    assert translated.hide_thinking
    translated, asked = chat(think="high")
    assert asked["reasoning_effort"] == "high"
    assert asked["chat_template_kwargs"]["enable_thinking"] is True
    assert not translated.hide_thinking
    assert "chat_template_kwargs" not in chat()[1]


@pytest.mark.parametrize(
    ("effort", "openai"), [("low", "low"), ("medium", "medium"), ("high", "high"), ("max", "high")]
)
def test_every_effort_of_ollama_is_understood(effort: str, openai: str) -> None:
    """The template gets the word, and OpenAI's parameter the nearest one that it has."""
    _, asked = chat(think=effort)
    assert asked["chat_template_kwargs"] == {"enable_thinking": True, "reasoning_effort": effort}
    assert asked["reasoning_effort"] == openai


def test_pictures_become_urls() -> None:
    """After the text, with the type that their first bytes have."""
    jpeg = base64.b64encode(b"\xff\xd8\xff\xe0rest").decode()
    _, asked = chat(messages=[{**USER, "images": [jpeg]}])
    text, picture = asked["messages"][0]["content"]
    assert text == {"type": "text", "text": "hello"}
    assert picture["image_url"]["url"] == f"data:image/jpeg;base64,{jpeg}"


@pytest.mark.parametrize("size_bytes", [0, 1, 30, 3070, 3071, 3072, 3073, 5000])
@pytest.mark.parametrize("shift", range(7))
def test_pictures_may_be_spelled_with_escapes(size_bytes, shift) -> None:
    """Some encoders write a slash or a plus so; the picture is the same, wherever it is cut."""
    data = (b"\x89PNG" + bytes(shift) + b"\xfb\xef\xbe\xff" * 2000)[: 4 + size_bytes]
    image = base64.b64encode(data).decode()
    for spelled in (image, image.replace("/", "\\/"), image.replace("+", "\\u002B")):
        body = b'{"model": "m", "messages": [{"role": "user", "images": ["%b"]}]}'
        request = bodies.decode(body % spelled.encode(), bodies.ChatRequest)
        asked = json.loads(requests.chat(request).body())
        (picture,) = asked["messages"][0]["content"]
        assert picture["image_url"]["url"] == f"data:image/png;base64,{image}"


@pytest.mark.parametrize("image", ["./cat.png", "https://x/cat.png", "abc", 5, None, ["x"], {}])
def test_what_is_no_picture_is_refused(image) -> None:
    """The name of a file, an address, half a quadruple, or no text at all."""
    with pytest.raises(RequestError, match="not base64"):
        chat(messages=[{**USER, "images": [image]}])


def test_calls_and_their_results_are_paired() -> None:
    """Ollama has no ids, OpenAI needs them: a result belongs to the call of its name."""
    calls = [{"function": {"name": name, "arguments": {"x": 1}}} for name in ("f", "g")]
    _, asked = chat(
        messages=[
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "tool_name": "g", "content": "of g"},
            {"role": "tool", "content": "of f"},
            {"role": "tool", "content": "of nobody"},
        ]
    )
    said, of_g, of_f, of_nobody = asked["messages"]
    f, g = said["tool_calls"]
    assert json.loads(f["function"]["arguments"]) == {"x": 1}
    assert f["type"] == "function"
    assert (of_g["tool_call_id"], of_f["tool_call_id"]) == (g["id"], f["id"])
    assert of_nobody["tool_call_id"] not in {f["id"], g["id"]}
    assert f["id"] != g["id"]


def test_a_prompt_is_a_chat_of_one_message() -> None:
    """With the system message before it; ``raw`` makes it a plain completion."""
    translated, asked = generate(prompt="hi", system="be kind")
    assert (translated.answer_format, translated.path) == (
        AnswerFormat.GENERATE,
        "/v1/chat/completions",
    )
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    translated, asked = generate(prompt="hi", raw=True)
    assert (translated.path, asked["prompt"]) == ("/v1/completions", "hi")


def test_a_suffix_asks_to_fill_in() -> None:
    """At llama-server's own endpoint, and in its spelling."""
    translated, asked = generate(
        prompt="a", suffix="b", stream=False, format="json", options={"stop": "c", "num_predict": 3}
    )
    assert (translated.answer_format, translated.path) == (AnswerFormat.GENERATE, "/infill")
    assert asked == {
        "model": "m",
        "input_prefix": "a",
        "input_suffix": "b",
        "stop": ["c"],
        "max_tokens": 3,
        "json_schema": {},
        "stream": False,
    }


@pytest.mark.parametrize("field", [{"logprobs": True}, {"images": ["aGk="]}])
def test_what_does_not_go_with_a_suffix_is_refused(field: dict[str, Any]) -> None:
    """Nothing is ignored silently."""
    with pytest.raises(RequestError, match="do not go with"):
        generate(prompt="a", suffix="b", **field)


@pytest.mark.parametrize(
    ("status", "why"), [(501, "no tokens"), (404, "no /infill"), (405, "no /infill"), (400, None)]
)
def test_a_backend_that_cannot_insert(status: int, why: str | None) -> None:
    """It is told as Ollama tells it; any other refusal stays what it is."""
    error = insert_error("m", status, "no tokens")
    if why is None:
        assert error is None
    else:
        assert error is not None
        assert error.status == 400
        assert str(error).startswith("'m' does not support insert: ")
        assert why in str(error)


@pytest.mark.parametrize("fields", [{"template": "x"}, {"context": [1, 2]}])
def test_what_would_be_lost_is_refused(fields: dict[str, Any]) -> None:
    """A template or a history that no backend would see must not be dropped silently."""
    with pytest.raises(RequestError, match="is not supported"):
        generate(prompt="x", **fields)


def test_nothing_to_say_only_loads() -> None:
    """An empty chat, prompt or input asks no backend; with ``keep_alive`` 0 the model goes."""
    for translated in (
        chat(messages=[])[0],
        generate()[0],
        generate(prompt="")[0],
        embed(input=[])[0],
    ):
        assert translated.path is None
        assert not translated.unloads
    assert generate(keep_alive=0)[0].unloads
    assert not generate(prompt="x", keep_alive=0)[0].unloads


def test_texts_to_embed() -> None:
    """One or several, with the dimensions that are translated."""
    translated, asked = embed(input="a", dimensions=8)
    assert (translated.path, asked["input"], asked["dimensions"]) == ("/v1/embeddings", ["a"], 8)
    assert embed(input=["a", "b"])[1]["input"] == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (300, 300),
        (0, 0),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1s", math.inf),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("10", 10),
        ("0", 0),
    ],
)
def test_keep_alive(value: float | str, seconds: float) -> None:
    """Numbers count seconds, texts are Go's durations, what is negative means for ever."""
    assert keep_alive_s(value) == pytest.approx(seconds)


@given(st.text(max_size=12))
def test_any_text_as_keep_alive(text: str) -> None:
    """It is a duration or refused; nothing else can happen."""
    with contextlib.suppress(RequestError):
        assert keep_alive_s(text) >= 0


@given(st.binary(max_size=64))
def test_any_bytes_as_a_body(data: bytes) -> None:
    """They are a request or refused."""
    with contextlib.suppress(RequestError):
        bodies.decode(data, bodies.ChatRequest)
