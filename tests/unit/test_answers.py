"""Error envelopes, usage figures and the child protocol: small pure pieces."""

import itertools
import json

import pytest

from llama_router.backends.child_protocol import ChildState, parse_state
from llama_router.core.apis.errors import error_headers
from llama_router.core.apis.openai import OPENAI
from llama_router.core.apis.usage import Usage, usage_of
from llama_router.errors.access import AdminTokenError, ApiKeyError
from llama_router.errors.admission import QueueFullError, UnknownModelError
from llama_router.errors.backends import BackendExitedError, SpawnError
from llama_router.errors.base import RouterError
from llama_router.errors.causes import PERMANENT_CAUSES
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


CHAT_PATH, MESSAGES_PATH, RESPONSES_PATH = "/v1/chat/completions", "/v1/messages", "/v1/responses"


@pytest.mark.parametrize(
    ("path", "tail", "usage"),
    [
        (CHAT_PATH, b'..."usage":{"completion_tokens":6,"prompt_tokens":28}}', Usage(28, 6)),
        (CHAT_PATH, b'"timings":{"cache_n":27,"prompt_n":1,"predicted_n":6}', Usage(28, 6)),
        (
            CHAT_PATH,
            b'"usage":{"prompt_tokens":9,"completion_tokens":5},"timings":{"prompt_n":1}',
            Usage(9, 5),
        ),
        (CHAT_PATH, b"data: [DONE]\n\n", Usage(None, None)),
        (
            CHAT_PATH,
            (
                b'"usage":{"prompt_tokens":9,"completion_tokens":5,'
                b'"prompt_tokens_details":{"cached_tokens":7}}'
            ),
            Usage(9, 5),
        ),
        (
            RESPONSES_PATH,
            (
                b'"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":7},'
                b'"output_tokens":4}}'
            ),
            Usage(9, 4),
        ),
        (
            MESSAGES_PATH,
            b'"usage":{"cache_read_input_tokens":25,"input_tokens":1,"output_tokens":6}}',
            Usage(26, 6),
        ),
        (
            "/upstream/org/name/v1/messages",
            (
                b'"usage":{"input_tokens":1,"cache_creation_input_tokens":20,'
                b'"cache_read_input_tokens":5,"output_tokens":6}}'
            ),
            Usage(26, 6),
        ),
        ("/completion", b'"timings":{"cache_n":27,"prompt_n":1,"predicted_n":6}}', Usage(28, 6)),
        ("/embeddings", b'"usage":{"prompt_tokens":9,"total_tokens":9}}', Usage(9, None)),
        (
            "/v1/audio/transcriptions",
            b'"usage":{"type":"tokens","input_tokens":14,"output_tokens":45}}',
            Usage(14, 45),
        ),
    ],
)
def test_usage_of_each_api(path: str, tail: bytes, usage: Usage) -> None:
    """Cached tokens of the prompt count in every API, whether its figure includes them or not."""
    assert usage_of(path, tail) == usage


@pytest.mark.parametrize(
    "fields",
    [
        *itertools.permutations(["prompt_tokens", "completion_tokens", "total_tokens"]),
        *itertools.permutations(["prompt_tokens", "completion_tokens", "input_tokens"]),
        *itertools.permutations(["a", "b", "prompt_tokens", "completion_tokens"]),
    ],
)
def test_the_order_of_the_figures_does_not_matter(fields: tuple[str, ...]) -> None:
    """Whatever stands before, between and behind the two figures, both are found."""
    figures = {name: number for number, name in enumerate(fields, 11)}
    tail = b'text", "usage" : ' + json.dumps(figures).encode() + b"}"
    usage = usage_of(CHAT_PATH, tail)
    assert usage.completion_tokens == figures["completion_tokens"]
    assert usage.prompt_tokens in {figures["prompt_tokens"], figures.get("input_tokens")}


def test_the_prompt_of_a_stream_of_messages_is_in_its_first_event() -> None:
    """The completion is in the last one; that of the first event is provisional."""
    head = (
        b'1f4\r\nevent: message_start\ndata: {"type":"message_start","message":{"usage":'
        b'{"input_tokens":1,"cache_read_input_tokens":25,"output_tokens":1}}}\n\n'
    )
    tail = b'data: {"type":"message_delta","usage":{"output_tokens":90}}\n\n'
    assert usage_of(MESSAGES_PATH, tail, head) == Usage(26, 90)
    assert usage_of(MESSAGES_PATH, b"data: cut", head) == Usage(26, None)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/rerank", "/x/y"])
def test_long_lists_have_their_usage_in_front(path: str) -> None:
    """A number that the end of the kept part cuts does not count."""
    head = b'{"model":"a","object":"list","usage":{"prompt_tokens":512,"total_tokens":51'
    assert usage_of(path, b"0.1,0.2]}]}", head + b'2},"data":[') == Usage(512, None)
    assert usage_of(path, b"0.1,0.2]}]}", head[: head.index(b"512") + 2]) == Usage(None, None)


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
        (
            'cmd_child_to_router:state:{"state":"ready","payload":{"meta":{"n_ctx":512}}}',
            ChildState("ready", n_ctx=512),
        ),
        (
            'cmd_child_to_router:state:{"state":"ready","payload":{"meta":{"n_ctx":true}}}',
            ChildState("ready"),
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


@pytest.mark.parametrize("cause", sorted(PERMANENT_CAUSES))
def test_an_error_that_cannot_pass_asks_for_no_retry(cause: str) -> None:
    """Clients stop at once, for every cause that only a person can mend."""
    error = BackendExitedError("m", 1, cause=cause)
    error.retry_after_s = 30.0
    fields = dict(error_headers(error))
    assert fields[b"x-should-retry"] == b"false"
    assert b"retry-after" not in fields


@pytest.mark.parametrize("error", [ApiKeyError("no key"), AdminTokenError("no token")])
def test_a_missing_key_asks_for_no_retry(error: RouterError) -> None:
    """A repetition has the same key."""
    assert dict(error_headers(error))[b"x-should-retry"] == b"false"


def test_an_error_that_may_pass_leaves_the_retry_to_the_client() -> None:
    """A full queue and a backend that was killed are worth another try."""
    for error in (QueueFullError("full"), BackendExitedError("m", -9, cause="oom_killed")):
        assert b"x-should-retry" not in dict(error_headers(error))
