"""What a client is told while it waits, and in which form."""

import json

import pytest
from openai.types.chat import ChatCompletionChunk

from llama_router.core.access.caller import UNRESTRICTED, Caller
from llama_router.core.apis.anthropic import ANTHROPIC
from llama_router.core.apis.dialect import ApiDialect, StreamDialect, StreamInfo
from llama_router.core.apis.llama_cpp import LLAMA_CPP
from llama_router.core.apis.notices import MARK, Notices, redact_wait
from llama_router.core.apis.ollama import failure_lines
from llama_router.core.apis.openai import CHAT, OPENAI, RESPONSES
from llama_router.core.apis.registry import APIS
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.scheduling.events import Arrived, Changed, Finished
from llama_router.core.scheduling.lifecycle import Phase, Signal
from llama_router.core.scheduling.scheduler import Scheduler
from llama_router.core.scheduling.waits import Blocker, Step, Wait
from llama_router.errors.admission import QueueTimeoutError
from llama_router.errors.backends import BackendExitedError

A, B = ModelId("a"), ModelId("b")


EVENT_STREAMS = (CHAT, RESPONSES, OPENAI, ANTHROPIC, LLAMA_CPP)


def stream_of(api: ApiDialect) -> StreamDialect:
    info = StreamInfo(id="chatcmpl-1", created_s=1795636813.7, model="b", path="/v1/x")
    return StreamDialect(api, info)


def documents(events: bytes) -> list[dict]:
    """Return what the data lines of *events* say; every event must be complete."""
    assert events.endswith(b"\n\n")
    lines = [line for line in events.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line[6:]) for line in lines]


def about(notices: Notices, phase: Phase, now_s: float = 0.0, **more) -> list[str]:
    return notices.about(Wait(model=B, phase=phase, **more), now_s=now_s)


class TestNotices:
    """Each thing is said once."""

    def test_a_swap(self) -> None:
        """Unloading, loading, percent, ready."""
        notices = Notices()
        leaving = (Blocker(model=A, phase=Phase.STOPPING),)
        assert about(notices, Phase.STOPPED, blockers=leaving) == ["Unloading model 'a'..."]
        assert about(notices, Phase.STOPPED, blockers=leaving) == []
        assert about(notices, Phase.STARTING) == ["Loading model 'b'..."]
        assert about(notices, Phase.STARTING, progress=0.42) == ["Loading model 'b': 42%"]
        assert notices.granted("b") == ["Model 'b' is ready."]

    def test_a_prompt_cache(self) -> None:
        """It is saved before the stop, and restored after the load."""
        notices = Notices()
        leaving = (Blocker(model=A, phase=Phase.STOPPING, step=Step.SAVING),)
        assert about(notices, Phase.STOPPED, blockers=leaving) == [
            "Saving the prompt cache of model 'a', then unloading it..."
        ]
        assert about(notices, Phase.STARTING) == ["Loading model 'b'..."]
        assert about(notices, Phase.STARTING, step=Step.RESTORING) == [
            "Loading model 'b': its prompt cache is being restored..."
        ]

    def test_a_model_that_is_replaced_saves_its_cache(self) -> None:
        """A reload changed its settings."""
        assert about(Notices(), Phase.STOPPING, step=Step.SAVING) == [
            "Saving the prompt cache of model 'b', then unloading it, to start it anew..."
        ]

    def test_the_time_left(self) -> None:
        """It is said with the load, or as soon as it is known, and with each percent."""
        notices = Notices()
        assert about(notices, Phase.STARTING) == ["Loading model 'b'..."]
        assert about(notices, Phase.STARTING, left_s=1.9) == []
        assert about(notices, Phase.STARTING, left_s=12.4) == ["Loading model 'b': about 12 s left"]
        assert about(notices, Phase.STARTING, left_s=9.0) == []
        assert about(notices, Phase.STARTING, left_s=6.0, progress=0.5) == [
            "Loading model 'b': 50%, about 6 s left"
        ]
        assert about(Notices(), Phase.STARTING, left_s=150.0) == [
            "Loading model 'b', about 2 min left..."
        ]

    def test_percent_comes_in_steps(self) -> None:
        """A model of many tensors does not fill the answer with figures; its end is said."""
        notices = Notices()
        about(notices, Phase.STARTING)
        figures = [i / 1000 for i in range(1001)]
        said = [text for f in figures for text in about(notices, Phase.STARTING, progress=f)]
        assert said[0] == "Loading model 'b': 10%"
        assert said[-1] == "Loading model 'b': 100%"
        assert len(said) <= 11

    def test_percent_begins_anew_with_the_next_attempt(self) -> None:
        """After a failure the load is told from its beginning."""
        notices = Notices()
        about(notices, Phase.STARTING)
        about(notices, Phase.STARTING, progress=0.9)
        assert about(notices, Phase.BACKOFF) == [
            "The backend of model 'b' failed; it is started again."
        ]
        assert about(notices, Phase.STARTING) == ["Loading model 'b'..."]
        assert about(notices, Phase.STARTING, progress=0.3) == ["Loading model 'b': 30%"]

    def test_a_place_in_the_queue_is_said_once_a_second(self) -> None:
        """It is said at once with something else, and not with every step of a quick queue."""
        notices = Notices()
        assert about(notices, Phase.READY, 0.0, ahead=9) == [
            "Waiting for a turn at model 'b'.",
            "Requests ahead in the queue: 9",
        ]
        assert about(notices, Phase.READY, 0.5, ahead=8) == []
        assert about(notices, Phase.READY, 1.0, ahead=7) == ["Requests ahead in the queue: 7"]
        assert about(notices, Phase.READY, 2.0, ahead=0) == []

    def test_who_must_not_know_gets_no_name(self) -> None:
        """The name of a model that a key is not good for is left out."""
        busy = (Blocker(model=None, phase=Phase.READY),)
        assert about(Notices(), Phase.STOPPED, blockers=busy) == [
            "Waiting for another model to finish its requests."
        ]

    def test_a_reason_is_said_before_the_models_in_the_way(self) -> None:
        """Once: then only what is waited for has changed."""
        notices = Notices()
        reason = "model 'b' needs memory."
        busy = (Blocker(model=A, phase=Phase.READY),)
        assert about(notices, Phase.STOPPED, blockers=busy, reason=reason) == [
            "Model 'b' needs memory. Waiting for model 'a' to finish its requests."
        ]
        leaving = (Blocker(model=A, phase=Phase.STOPPING),)
        assert about(notices, Phase.STOPPED, 1.0, blockers=leaving, reason=reason) == [
            "Unloading model 'a'..."
        ]

    def test_an_amount_that_changes_is_no_news(self) -> None:
        """The devices are read once per second, and what programs hold is never quite the same."""
        notices = Notices()
        for at_s, amount, said in ((0.0, "2.0 GiB", 1), (1.0, "900 MiB", 0)):
            reason = f"gpu0 is held by game ({amount})."
            assert len(about(notices, Phase.STOPPED, at_s, reason=reason)) == said

    def test_a_key_that_may_not_use_every_model_hears_no_reason(self) -> None:
        """The sentence may name models that it must not learn of."""
        wait = Wait(model=B, phase=Phase.STOPPED, reason="Model 'a' has the memory.")
        restricted = Caller(name="app", models=("b",))
        assert redact_wait(wait, restricted, {}) == Wait(model=B, phase=Phase.STOPPED)
        assert redact_wait(wait, UNRESTRICTED, {}) == wait

    def test_nothing_said_before_means_nothing_at_the_end(self) -> None:
        """A request that heard nothing does not hear that the model is ready."""
        assert Notices().granted("b") == []

    @pytest.mark.parametrize("phase", Phase)
    def test_every_phase_has_words(self, phase) -> None:
        """Of the model itself, and of one in its way."""
        assert about(Notices(), phase)
        assert about(Notices(), Phase.STOPPED, blockers=(Blocker(model=A, phase=phase),))


class TestStreamDialect:
    """The same thing in every dialect."""

    def test_chat_chunks_are_complete(self) -> None:
        """Every field is there that a strict client indexes, and nothing is content."""
        (document,) = documents(stream_of(CHAT).notice("Loading"))
        ChatCompletionChunk.model_validate(document, strict=True)
        assert document == {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1795636813,
            "model": "b",
            "choices": [
                {
                    "index": 0,
                    "delta": {"content": None, "reasoning_content": f"{MARK}Loading{MARK}\n"},
                    "finish_reason": None,
                }
            ],
        }

    @pytest.mark.parametrize("api", [OPENAI, RESPONSES])
    def test_completions_get_comments(self, api) -> None:
        """A comment is no event; line breaks in it do not end it."""
        assert stream_of(api).notice("one\ndata: two") == b": one\n: data: two\n\n"

    def test_messages_get_pings(self) -> None:
        """Anthropic's clients skip them; the comment is for people."""
        said = stream_of(ANTHROPIC).notice("Loading")
        assert said == b': Loading\nevent: ping\ndata: {"type": "ping"}\n\n'

    @pytest.mark.parametrize("api", EVENT_STREAMS)
    def test_a_keepalive_is_no_chunk(self, api) -> None:
        """It is a comment, or a ping where the dialect has pings."""
        keepalive = stream_of(api).keepalive()
        assert keepalive.startswith(b"event: ping\n" if api is ANTHROPIC else b": ")
        assert keepalive.endswith(b"\n\n")

    @pytest.mark.parametrize("api", [CHAT, OPENAI])
    def test_openai_errors(self, api) -> None:
        """The same object as in an answer of its own, its cause included."""
        error = BackendExitedError("b", 1, cause="port_in_use", reason="taken")
        (document,) = documents(api.last_event(error))
        assert document["error"]["code"] == "backend_exited"
        assert document["error"]["cause"] == "port_in_use"

    def test_anthropic_errors(self) -> None:
        """The event is named, and its type is one of Anthropic's."""
        event = ANTHROPIC.last_event(QueueTimeoutError("too long"))
        assert event.startswith(b"event: error\n")
        assert documents(event) == [
            {"type": "error", "error": {"type": "overloaded_error", "message": "too long"}}
        ]

    def test_responses_errors(self) -> None:
        """An event of the type "error", which also holds what a chat's would."""
        event = RESPONSES.last_event(QueueTimeoutError("too long"))
        (document,) = documents(event)
        assert (document["type"], document["code"]) == ("error", "queue_timeout")
        assert document["error"]["message"] == "too long"

    def test_a_backends_error_keeps_its_words(self) -> None:
        """The object that the backend answered with is the event."""
        error = {"message": "no", "type": "invalid_request_error", "code": 400}
        body = json.dumps({"error": error}).encode()
        event = stream_of(CHAT).answer_as_error(400, "application/json", body)
        assert documents(event) == [{"error": error}]
        event = stream_of(ANTHROPIC).answer_as_error(400, "application/json", body)
        assert documents(event)[0]["error"] == {"type": "invalid_request_error", "message": "no"}

    @pytest.mark.parametrize(
        ("status", "media_type", "body", "said"),
        [
            (500, "text/html", b"<h1>Oops</h1>", "with status 500 instead of a stream: <h1>Oops"),
            (200, "application/json", b'{"x": 1}', "with application/json instead of a stream"),
            (200, "application/json", b'{"error": null}', "with application/json"),
            (502, "nothing", b"", "with status 502 instead of a stream"),
            (200, "image/png", b"\xff\x00" * 4000, "with image/png"),
            (200, "application/json", b"[" * 100_000, "with application/json"),
        ],
    )
    def test_anything_else_is_described(self, status, media_type, body, said) -> None:
        """The sentence names status or type, and quotes the beginning."""
        event = stream_of(CHAT).answer_as_error(status, media_type, body)
        (document,) = documents(event)
        assert said in document["error"]["message"]
        assert document["error"]["code"] == "upstream_failed"
        assert len(event) < 4096


@pytest.mark.parametrize(("begun", "gap"), [(False, ""), (True, "\n\n")])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_failure_of_an_ollama_stream_is_content_too(path: str, begun, gap: str) -> None:
    """Chat pages that ignore lines with an error show the piece before it."""
    info = StreamInfo(id="", created_s=0.0, model="b", path=path, hides_thinking=True)
    lines = failure_lines(info, QueueTimeoutError("too long"), begun=begun)
    piece, last = map(json.loads, lines.splitlines())
    said = piece["message"]["content"] if path == "/api/chat" else piece["response"]
    assert said == f"{gap}Error: too long"
    assert piece["done"] is False
    assert last == {"error": "too long"}


@pytest.mark.parametrize(
    ("path", "stream", "accept", "api"),
    [
        ("/v1/chat/completions", True, b"", CHAT),
        ("/v1/chat/completions", False, b"text/event-stream", None),
        ("/v1/completions", True, b"application/json", OPENAI),
        ("/v1/messages", True, b"", ANTHROPIC),
        ("/v1/messages/count_tokens", True, b"", None),
        ("/v1/responses", True, b"", RESPONSES),
        ("/v1/embeddings", True, b"", None),
        ("/v1/sse", False, b"text/event-stream; q=1", OPENAI),
        ("/v1/mcp", False, b"application/json, text/event-stream", None),
    ],
)
def test_the_stream_that_a_request_asks_for(path, stream, accept, api) -> None:
    """The body says so on known paths; elsewhere only who accepts nothing else."""
    assert APIS.api_of_requested_stream(path, stream=stream, accept=accept) is api


def scheduler(**models: dict) -> Scheduler:
    tables = {name: {"path": "/m", **table} for name, table in models.items()}
    return Scheduler(parse_config({"router": {"min_residency_s": 0.0}, "models": tables}))


def test_the_scheduler_says_what_a_request_waits_for() -> None:
    """First for another to leave, then for its own load; when granted, for nothing."""
    s = scheduler(a={}, b={})
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    assert s.wait_of(1) == Wait(model=A, phase=Phase.STARTING)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=1)
    assert s.wait_of(1) is None
    s.handle(Arrived(2, ModelId("b")), now_s=2)
    s.handle(Arrived(3, ModelId("b")), now_s=2)
    busy = (Blocker(model=A, phase=Phase.READY),)
    assert s.wait_of(3) == Wait(model=B, phase=Phase.STOPPED, ahead=1, blockers=busy)
    s.handle(Finished(1), now_s=3)
    leaving = (Blocker(model=A, phase=Phase.STOPPING),)
    assert s.wait_of(2) == Wait(model=B, phase=Phase.STOPPED, blockers=leaving)
    s.handle(Changed(A, Signal.EXITED), now_s=4)
    assert s.wait_of(2) == Wait(model=B, phase=Phase.STARTING)


def test_neighbours_of_a_group_are_in_nobodys_way() -> None:
    """Only who must leave is named."""
    s = scheduler(a={"group": "g"}, b={"group": "g"}, c={"keep_loaded": True})
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    s.handle(Arrived(2, ModelId("b")), now_s=0)
    assert s.wait_of(2) == Wait(model=B, phase=Phase.STARTING)


def test_a_request_that_is_not_known_waits_for_nothing() -> None:
    """Neither one that was never there, nor one that is over."""
    s = scheduler(a={})
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    s.handle(Finished(1), now_s=0)
    assert s.wait_of(1) is None
    assert s.wait_of(7) is None
