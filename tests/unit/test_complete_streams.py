"""The last event of a stream, after which a client may leave."""

from __future__ import annotations

import json

import pytest

from llama_router.core.apis.event_stream import is_complete
from llama_router.core.apis.usage import TAIL_BYTES

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


def named(name: str, **fields: object) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


def completed(text: str) -> bytes:
    response = {"output": [{"text": text}], "usage": {"input_tokens": 3, "output_tokens": 9}}
    return named("response.completed", response=response)


@pytest.mark.parametrize(
    ("path", "end"),
    [
        (CHAT, b'data: {"choices":[]}\n\ndata: [DONE]\n\n'),
        (CHAT, b"e\r\ndata: [DONE]\n\n\r\n"),
        (RESPONSES, completed("hello")),
        (RESPONSES, completed("hello") + b"\r\n"),
        (RESPONSES, completed("a long answer " * 1000)),
        (RESPONSES, named("response.incomplete")),
        (MESSAGES, named("message_stop")),
    ],
)
def test_a_stream_with_its_last_event_is_complete(path: str, end: bytes) -> None:
    """Whether the bytes that end its body came or not."""
    assert is_complete(end[-TAIL_BYTES:], path)


@pytest.mark.parametrize(
    ("path", "end"),
    [
        (CHAT, b""),
        (CHAT, b'data: {"choices":[{"delta":{"content":"\\ndata: [DONE]"}}]}\n\n'),
        (RESPONSES, named("response.output_text.delta", delta="event: response.completed")),
        (RESPONSES, named("response.created", response={"usage": None})),
        (RESPONSES, completed("hello")[:-8]),
        (MESSAGES, named("message_delta", usage={"output_tokens": 9})),
    ],
)
def test_a_stream_without_its_last_event_is_not(path: str, end: bytes) -> None:
    """Text of a model that looks like it counts for nothing."""
    assert not is_complete(end[-TAIL_BYTES:], path)
