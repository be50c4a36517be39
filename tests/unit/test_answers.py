"""Error envelopes, usage figures and the child protocol: small pure pieces."""

import json

import pytest

from llama_router.backends.child_protocol import ChildState, parse_state
from llama_router.core.apis.errors import error_headers
from llama_router.core.apis.openai import OPENAI
from llama_router.core.apis.usage import Usage, usage_of
from llama_router.errors.admission import QueueFullError, UnknownModelError
from llama_router.errors.backends import BackendExitedError, SpawnError
from llama_router.errors.requests import RequestError


def test_error_body_has_the_shape_of_openai() -> None:
    """Message, type, code and param, under "error"."""
    document = json.loads(OPENAI.error_body(UnknownModelError("no model 'x'"), "req_1"))
    assert document == {
        "error": {
            "message": "no model 'x'",
            "type": "invalid_request_error",
            "code": "model_not_found",
            "param": "model",
        }
    }


def test_error_body_says_why_a_backend_ended() -> None:
    """The cause is one more field, and only there where it is known that a process ended."""
    exited = BackendExitedError("m", 1, cause="port_in_use", reason="taken", evidence=("bind",))
    assert json.loads(OPENAI.error_body(exited, "req_1"))["error"] == {
        "message": "the backend of model 'm' exited with code 1: taken; its output says: bind",
        "type": "server_error",
        "code": "backend_exited",
        "param": None,
        "cause": "port_in_use",
    }
    assert "cause" not in json.loads(OPENAI.error_body(SpawnError("no"), "req_1"))["error"]


def test_retry_after_is_whole_seconds() -> None:
    """Rounded up, never zero."""
    error = QueueFullError("full", retry_after_s=0.2)
    assert (b"retry-after", b"1") in error_headers(error)
    assert b"retry-after" not in dict(error_headers(RequestError("no")))


@pytest.mark.parametrize(
    ("tail", "usage"),
    [
        (b'..."usage":{"completion_tokens":6,"prompt_tokens":28}}', Usage(28, 6)),
        (b'"usage":{"input_tokens": 3, "output_tokens": 4}', Usage(3, 4)),
        (b'"timings":{"cache_n":27,"prompt_n":1,"predicted_n":6}', Usage(28, 6)),
        (
            b'"usage":{"prompt_tokens":9,"completion_tokens":5},"timings":{"prompt_n":1}',
            Usage(9, 5),
        ),
        (b"data: [DONE]\n\n", Usage(None, None)),
    ],
)
def test_usage(tail: bytes, usage: Usage) -> None:
    """usage counts before timings, whose prompt is cached plus new tokens."""
    assert usage_of(tail) == usage


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ('cmd_child_to_router:state:{"state":"ready","payload":{}}', ChildState("ready")),
        (
            'cmd_child_to_router:state:{"state":"loading",'  # noqa: ISC004 -- one long line
            '"payload":{"stages":["text","mmproj"],"current":"mmproj","value":0.5}}',
            ChildState("loading", 0.75),
        ),
        (
            'cmd_child_to_router:state:{"state":"loading","payload":{"value":7}}',
            ChildState("loading", 1.0),
        ),
        ('cmd_child_to_router:state:{"state":"loading","payload":[1]}', ChildState("loading")),
        ("cmd_child_to_router:state:{broken", None),
        ("cmd_child_to_router:state:[]", None),
        ("cmd_child_to_router:other:{}", None),
        ("main: server is listening", None),
    ],
)
def test_child_protocol(line: str, state: ChildState | None) -> None:
    """State lines are understood, anything else is somebody's output."""
    assert parse_state(line) == state
