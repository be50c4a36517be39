"""What is known of endpoints: methods, and whose errors they have."""

from __future__ import annotations

import json

import pytest

from llama_router.core.apis.dialects import error_answer, request_id_field
from llama_router.core.apis.endpoints import Api, api_of, methods_of
from llama_router.errors.admission import QueueTimeoutError, UnknownModelError


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/chat/completions", Api.OPENAI),
        ("/v1/threads/1/messages", Api.OPENAI),
        ("/anything", Api.OPENAI),
        ("/v1/messages", Api.ANTHROPIC),
        ("/v1/messages/count_tokens", Api.ANTHROPIC),
        ("/upstream/a/b/v1/messages", Api.ANTHROPIC),
        ("/completion", Api.LLAMA_CPP),
        ("/slots/0", Api.LLAMA_CPP),
        ("/slots", Api.OPENAI),
        ("/upstream/a/b/completion", Api.LLAMA_CPP),
        ("/upstream/a/completions", Api.LLAMA_CPP),
        ("/upstream/a/v1/completions", Api.OPENAI),
        ("/upstream/a/v1/chat/completions", Api.OPENAI),
        ("/upstream/a/chat/completions", Api.OPENAI),
        ("/upstream/a/", Api.OPENAI),
    ],
)
def test_whose_api(path: str, api: Api) -> None:
    """By what a path ends in, below /upstream/ as elsewhere."""
    assert api_of(path) is api


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/responses", {"POST"}),
        ("/health", {"GET", "HEAD"}),
        ("/lora-adapters", {"GET", "HEAD", "POST"}),
        ("/v1/responses/1", None),
        ("/upstream/a/v1/responses", None),
    ],
)
def test_methods(path: str, methods: set[str] | None) -> None:
    """Only of endpoints that are known."""
    assert methods_of(path) == methods


@pytest.mark.parametrize(
    ("path", "document"),
    [
        (
            "/v1/messages",
            {
                "type": "error",
                "error": {"type": "not_found_error", "message": "no such model"},
                "request_id": "req_1",
            },
        ),
        (
            "/completion",
            {"error": {"code": 404, "message": "no such model", "type": "not_found_error"}},
        ),
    ],
)
def test_forms_of_an_error(path: str, document: object) -> None:
    """The same error as each API has it."""
    assert json.loads(error_answer(path, UnknownModelError("no such model"), "req_1")) == document


def test_where_the_name_of_a_request_is_looked_for() -> None:
    """By Anthropic's clients, and by all others."""
    for path in ("/v1/messages", "/upstream/a/v1/messages/count_tokens"):
        assert request_id_field(path, "req_1") == (b"request-id", b"req_1")
    for path in ("/v1/chat/completions", "/completion", "/v1/models", ""):
        assert request_id_field(path, "req_1") == (b"x-request-id", b"req_1")


def test_an_error_of_a_service() -> None:
    """What is not the client's fault is called otherwise."""
    error = QueueTimeoutError("too long")
    anthropic = json.loads(error_answer("/v1/messages", error, "req_1"))["error"]["type"]
    assert anthropic == "overloaded_error"
    assert (
        json.loads(error_answer("/infill", error, "req_1"))["error"]["type"] == "unavailable_error"
    )
