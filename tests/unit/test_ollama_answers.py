"""A backend's answers, in the words of Ollama."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.control.ollama.answers import RequestTimes, StreamTranslator, translate_answer
from llama_router.control.ollama.requests import AnswerFormat, TranslatedRequest
from llama_router.core.apis.errors import message_in_body
from llama_router.core.apis.ollama import timestamp
from llama_router.errors.backends import UpstreamError

TIMES = RequestTimes(arrived_s=1.0, load_s=0.5, granted_s=2.0, epoch_s=1_000_000_000.0)


def translated(answer_format: AnswerFormat = AnswerFormat.CHAT, **fields: Any) -> TranslatedRequest:
    return TranslatedRequest(
        model="m", answer_format=answer_format, stream=True, keep_s=None, path="/v1/x", **fields
    )


def chunk(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def lines_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


STREAM = b"".join(
    (
        b": a comment\n\n",
        chunk({"role": "assistant", "content": None}),
        chunk({"reasoning_content": "hm"}),
        chunk({"content": "wa"}),
        chunk({"content": "ter"}),
        chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]}),
        chunk({}, "tool_calls"),
        (
            b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5},'
            b' "timings": {"prompt_ms": 250, "predicted_ms": 1500}}\r\n\r\n'
        ),
        b"data: [DONE]\n\n",
    )
)


def test_a_stream() -> None:
    """Text and thoughts piece by piece, calls whole, figures in the last line."""
    stream = StreamTranslator(translated(), TIMES)
    thought, first, second, called, last = lines_of(stream.feed(STREAM, now_s=5.0))
    assert stream.done
    assert stream.error is None
    assert thought["message"] == {"role": "assistant", "content": "", "thinking": "hm"}
    assert [first["message"]["content"], second["message"]["content"]] == ["wa", "ter"]
    (call,) = called["message"]["tool_calls"]
    assert call == {"id": "c", "function": {"index": 0, "name": "f", "arguments": {"x": 1}}}
    assert last == {
        "model": "m",
        "created_at": "2001-09-09T01:46:45Z",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "total_duration": 4_000_000_000,
        "load_duration": 500_000_000,
        "prompt_eval_count": 7,
        "prompt_eval_duration": 250_000_000,
        "eval_count": 5,
        "eval_duration": 1_500_000_000,
    }


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_a_stream_comes_in_any_pieces(cuts: list[int]) -> None:
    """Where the bytes are cut makes no difference."""
    stream = StreamTranslator(translated(), TIMES)
    ends = [*sorted(cuts), len(STREAM)]
    parts = [STREAM[a:b] for a, b in zip([0, *ends], ends, strict=False) if a != b]
    lines = b"".join(stream.feed(part, now_s=5.0) for part in parts)
    assert lines == StreamTranslator(translated(), TIMES).feed(STREAM, now_s=5.0)


def test_without_timings_the_clock_counts() -> None:
    """The time to the first piece is that of the prompt, the rest that of the answer."""
    stream = StreamTranslator(translated(AnswerFormat.GENERATE), TIMES)
    stream.feed(chunk({"content": "a"}), now_s=3.0)
    (last,) = lines_of(stream.feed(chunk({}, "length") + b"data: [DONE]\n\n", now_s=5.0))
    assert last["response"] == ""
    assert last["done_reason"] == "length"
    assert last["prompt_eval_duration"] == 1_000_000_000
    assert last["eval_duration"] == 2_000_000_000


def test_hidden_thoughts() -> None:
    """Who does not want a model to think does not see that it does."""
    stream = StreamTranslator(translated(hide_thinking=True), TIMES)
    assert stream.feed(chunk({"reasoning_content": "hm"}), now_s=3.0) == b""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        (b'data: {"error": "out of memory"}\n\n', "out of memory"),
        (b"data: what?\n\n", "cannot be used"),
        (b'data: {"choices": "none"}\n\n', "cannot be used"),
        (b"", "in the middle"),
    ],
)
def test_a_stream_that_breaks(data: bytes, reason: str) -> None:
    """What came before counts, then it ends with the reason."""
    stream = StreamTranslator(translated(), TIMES)
    lines = stream.feed(chunk({"content": "a"}), now_s=3.0)
    if data:
        stream = StreamTranslator(translated(), TIMES)
        assert stream.feed(chunk({"content": "a"}) + data, now_s=3.0) == lines
    else:
        stream.feed(data, now_s=3.0)
    assert stream.done
    assert isinstance(stream.error, UpstreamError)
    assert reason in str(stream.error)


def test_a_stream_may_end_without_a_word() -> None:
    """If the backend said why it stops, the end of the bytes is a proper end."""
    stream = StreamTranslator(translated(), TIMES)
    stream.feed(chunk({"content": "a"}, "stop"), now_s=3.0)
    (last,) = lines_of(stream.feed(b"", now_s=3.0))
    assert (last["done"], stream.error) == (True, None)


def test_arguments_that_are_no_object_are_an_error() -> None:
    """A client would fail on them, and could not say why."""
    stream = StreamTranslator(translated(), TIMES)
    calls = [{"index": 0, "function": {"name": "f", "arguments": "[1"}}]
    stream.feed(chunk({"tool_calls": calls}, "tool_calls") + b"data: [DONE]\n\n", now_s=3.0)
    assert "'f'" in str(stream.error)


def test_a_whole_answer() -> None:
    """Message, reason and figures in one object."""
    message = {"role": "assistant", "content": "water", "tool_calls": None}
    data = json.dumps(
        {
            "choices": [{"message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 5},
        }
    ).encode()
    answer = translate_answer(translated(), data, now_s=5.0, times=TIMES)
    assert answer["message"] == {"role": "assistant", "content": "water"}
    assert (answer["done"], answer["eval_count"]) == (True, 5)
    text = b'{"choices": [{"text": "water", "finish_reason": "length"}]}'
    answer = translate_answer(translated(AnswerFormat.GENERATE), text, now_s=5.0, times=TIMES)
    assert (answer["response"], answer["done_reason"]) == ("water", "length")


@pytest.mark.parametrize("data", [b"", b"[]", b'{"choices": []}', b"<html>", b'{"choices": [7]}'])
def test_what_is_no_answer(data: bytes) -> None:
    """It is the backend's failure, and said to be."""
    with pytest.raises(UpstreamError):
        translate_answer(translated(), data, now_s=5.0, times=TIMES)


def test_vectors_keep_the_order_of_the_texts() -> None:
    """Whatever order the backend answers in."""
    data = b'{"data": [{"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1]}]}'
    assert translate_answer(translated(AnswerFormat.EMBED), data, now_s=5.0, times=TIMES)[
        "embeddings"
    ] == [
        [1],
        [2],
    ]
    assert translate_answer(translated(AnswerFormat.EMBEDDING), data, now_s=5.0, times=TIMES) == {
        "embedding": [1]
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": "no"}', "no"),
        (b'{"error": {"code": 1}}', None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_a_backends_sentence(data: bytes, said: str | None) -> None:
    """It is found in every shape that backends are known to use."""
    assert message_in_body(data) == said


def test_an_event_has_a_bound() -> None:
    """A backend that never ends its line does not fill the memory."""
    stream = StreamTranslator(translated(), TIMES)
    for _ in range(17):
        stream.feed(b"x" * 2**20, now_s=3.0)
    assert isinstance(stream.error, UpstreamError)


def test_times_are_written_as_ollama_does() -> None:
    """In UTC, with a Z."""
    assert timestamp(0) == "1970-01-01T00:00:00Z"
