"""API dialects: lookup by path, and what holds for every registered one."""

from __future__ import annotations

import json

import pytest

from llama_router.core.apis.anthropic import ANTHROPIC
from llama_router.core.apis.dialect import ApiDialect, StreamDialect, StreamInfo
from llama_router.core.apis.llama_cpp import LLAMA_CPP
from llama_router.core.apis.ollama import OLLAMA
from llama_router.core.apis.openai import CHAT, OPENAI, RESPONSES
from llama_router.core.apis.registry import APIS
from llama_router.errors.admission import QueueTimeoutError, UnknownModelError
from llama_router.errors.backends import BackendExitedError
from llama_router.errors.base import RouterError


def body(path: str, error: RouterError) -> bytes:
    """Return the body of a response with *error* to a request for *path*."""
    return APIS.api_of(path).error_body(error, "req_1")


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/threads/1/messages", OPENAI),
        ("/anything", OPENAI),
        ("/v1/messages", ANTHROPIC),
        ("/v1/messages/count_tokens", ANTHROPIC),
        ("/upstream/a/b/v1/messages", ANTHROPIC),
        ("/completion", LLAMA_CPP),
        ("/slots/0", LLAMA_CPP),
        ("/v1/systemone", LLAMA_CPP),
        ("/v1/chat/completions/control", LLAMA_CPP),
        ("/upstream/a/v1/chat/completions/input_tokens", LLAMA_CPP),
        ("/responses", RESPONSES),
        ("/v2/rerank", OPENAI),
        ("/slots", OPENAI),
        ("/upstream/a/b/completion", LLAMA_CPP),
        ("/upstream/a/completions", LLAMA_CPP),
        ("/upstream/a/v1/completions", OPENAI),
        ("/upstream/a/v1/chat/completions", CHAT),
        ("/upstream/a/chat/completions", CHAT),
        ("/upstream/a/", OPENAI),
        ("/upstream/a/v1/completion", OPENAI),
        ("/behind/a/proxy/v1/messages", ANTHROPIC),
        ("/behind/a/proxy/completion", OPENAI),
        ("/v1/responses", RESPONSES),
        ("/api/chat", OLLAMA),
        ("/api/blobs/sha256:1", OLLAMA),
        ("/api/other", OPENAI),
        ("/upstream/a/api/chat", OPENAI),
    ],
)
def test_the_api_of_a_path(path: str, api: ApiDialect) -> None:
    """It is found by the whole path, or behind the name of a model."""
    assert APIS.api_of(path) is api


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/responses", {"POST"}),
        ("/health", {"GET", "HEAD"}),
        ("/lora-adapters", {"GET", "HEAD", "POST"}),
        ("/metrics", {"GET", "HEAD"}),
        ("/v1/responses/1", None),
        ("/upstream/a/v1/responses", None),
        ("/api/chat", None),
    ],
)
def test_methods(path: str, methods: set[str] | None) -> None:
    """They are known for the paths of APIs that backends serve."""
    assert APIS.methods_of(path) == methods


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
        ("/api/chat", {"error": "no such model"}),
        (
            "/completion",
            {"error": {"code": 404, "message": "no such model", "type": "not_found_error"}},
        ),
    ],
)
def test_forms_of_an_error(path: str, document: object) -> None:
    """The same error has the form of the API of the path."""
    assert json.loads(body(path, UnknownModelError("no such model"))) == document


def test_the_header_field_with_the_request_id() -> None:
    """Anthropic's clients read another field than all others."""
    for path in ("/v1/messages", "/upstream/a/v1/messages/count_tokens"):
        assert APIS.api_of(path).request_id_fields("req_1") == [(b"request-id", b"req_1")]
    for path in ("/v1/chat/completions", "/completion", "/v1/models", ""):
        assert APIS.api_of(path).request_id_fields("req_1") == [(b"x-request-id", b"req_1")]


def test_an_error_of_a_service() -> None:
    """A failure of the service has another type than a mistake of the client."""
    error = QueueTimeoutError("too long")
    anthropic = json.loads(body("/v1/messages", error))["error"]["type"]
    assert anthropic == "overloaded_error"
    assert json.loads(body("/infill", error))["error"]["type"] == "unavailable_error"


def test_a_failure_that_cannot_pass_is_no_overload() -> None:
    """Anthropic's clients repeat a request to an overloaded service, in a stream, too."""
    error = BackendExitedError("m", 1, cause="broken_model")
    assert json.loads(body("/v1/messages", error))["error"]["type"] == "api_error"
    event = APIS.api_of("/v1/messages").last_event(error)
    assert b'"type":"api_error"' in event


@pytest.mark.parametrize("api", APIS.dialects, ids=lambda api: api.name)
class TestEveryApi:
    """What holds for every registered API, also for one that is added."""

    def test_its_paths_lead_to_it(self, api: ApiDialect) -> None:
        """No other API has one of its paths, prefixes or endings of streams."""
        assert api.paths
        assert {APIS.api_of(path) for path in api.paths} == {api}
        assert all(APIS.api_of(f"{prefix}x") is api for prefix in api.path_prefixes)
        assert all(APIS.api_of_stream(f"/x{ending}") is api for ending in api.stream_endings)

    def test_its_paths_are_found_behind_the_name_of_a_model(self, api: ApiDialect) -> None:
        """Those that the router itself serves are not: there the backend is asked."""
        found = {APIS.api_of(f"/upstream/a/b{path}") for path in api.paths}
        assert api not in found if api.served_by_router else found == {api}

    def test_errors_have_the_message(self, api: ApiDialect) -> None:
        """In a body, which is JSON, and as the last event of a stream."""
        error = QueueTimeoutError("too long")
        assert b"too long" in api.error_body(error, "req_1")
        json.loads(api.error_body(error, "req_1"))
        assert b"too long" in api.last_event(error)

    def test_events_are_complete(self, api: ApiDialect) -> None:
        """Each is encoded with its end, so that the backend's bytes can follow."""
        end = b"\n" if api.served_by_router else b"\n\n"  # Ollama's streams are lines
        info = StreamInfo(id="1", created_s=0.0, model="m", path=next(iter(api.paths)))
        stream = StreamDialect(api, info)
        assert b"Loading" in stream.notice("Loading")
        assert b"Loading" not in stream.keepalive()
        events = (stream.notice("Loading"), stream.keepalive(), stream.error(QueueTimeoutError("")))
        assert all(event.endswith(end) for event in events)
