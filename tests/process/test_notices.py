"""What streaming clients get while they wait, with scripted backends."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk

from llama_router.core.apis import notices
from tests.process.harness import (
    Answer,
    RawClient,
    Router,
    Scripted,
    Stage,
    leaves_nothing,
    post,
    request,
)

pytestmark = pytest.mark.process

CHAT = "/v1/chat/completions?script"
MESSAGES = "/v1/messages?script"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
TEXT = b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\ndata: [DONE]\n\n'


def ask(model: str, target: str = CHAT, *, stream: bool = True, **fields: Any) -> bytes:
    """Return the bytes of a request for a stream."""
    body = json.dumps({"model": model, "stream": stream}).encode()
    return request("POST", target, body, content_type="application/json", **fields)


def strict(events: bytes) -> list[str]:
    """Return what the notices in *events* say; each event must be one that strict clients take."""
    said = []
    *events_, rest = events.split(b"\n\n")
    assert rest == b""
    for event in events_:
        assert event.startswith(b"data: ")
        document = json.loads(event[6:])
        ChatCompletionChunk.model_validate(document, strict=True)
        (choice,) = document["choices"]
        assert (choice["index"], choice["finish_reason"]) == (0, None)
        assert choice["delta"].keys() == {"content", "reasoning_content"}
        assert choice["delta"]["content"] is None
        said += choice["delta"]["reasoning_content"].replace(notices.MARK, "").splitlines()
    return said


def error_in(event: bytes) -> Any:
    """Return the error that *event*, the last one of a stream, holds."""
    *_, last = event.removesuffix(b"\n\n").split(b"\n\n")
    (data,) = [line for line in last.split(b"\n") if line.startswith(b"data: ")]
    return json.loads(data[6:])["error"]


async def notice(client: RawClient) -> str:
    """Return what the next chunk says."""
    (said,) = strict(await client.chunk())
    return said


@pytest.fixture
async def router(start, stage) -> Router:
    """A router that gives notices; ``b`` and ``c`` are ready when they are told."""
    return await start(
        {
            "a": stage.model("a"),
            "b": stage.model("b", "--health", "told"),
            "c": stage.model("c", "--health", "told", notify_model_swap=False),
        },
        notify_model_swap=True,
        max_restarts=0,
    )


async def waiting_for(
    router: Router, model: str = "b", target: str = CHAT, **fields: Any
) -> RawClient:
    """Send a request that has to wait; return its client."""
    client = await router.connect()
    await client.send(ask(model, target, **fields))
    return client


async def told_of_the_load(router: Router, model: str = "b", **fields: str) -> RawClient:
    """The same, and take the head and the first notice."""
    client = await waiting_for(router, model, **fields)
    await begun(client)
    assert await notice(client) == f"Loading model '{model}'..."
    return client


async def begun(client: RawClient) -> Answer:
    """Return the head of a stream, after a look at it."""
    head = await client.head()
    assert head.status == 200
    assert head.fields["content-type"] == "text/event-stream"
    assert head.fields["transfer-encoding"] == "chunked"
    return head


async def granted(client: RawClient, stage: Stage, model: str = "b") -> Scripted:
    """Let *model* be ready; return the request that its backend gets."""
    backend = await stage.backend(model)
    await backend.do("ready")
    assert await notice(client) == f"Model '{model}' is ready."
    return await backend.request()


async def rest_of_body(client: RawClient) -> bytes:
    """Return what is left of a chunked body."""
    body = b""
    while data := await client.chunk():
        body += data
    return body


class TestSwap:
    """A swap is told, and then the answer comes."""

    async def test_each_step_is_told_when_it_happens(self, router, stage) -> None:
        """Waiting, unloading, loading, ready; then the backend's own events, unchanged."""
        client = await router.connect()
        await client.send(ask("a"))
        await begun(client)
        assert await notice(client) == "Loading model 'a'..."
        assert await notice(client) == "Model 'a' is ready."
        busy = await (await stage.backend("a")).request()

        other = await waiting_for(router)
        await begun(other)
        assert await notice(other) == "Waiting for model 'a' to finish its requests."
        await busy.begin_stream()
        await busy.chunk(TEXT)
        await busy.chunk(b"")
        assert await rest_of_body(client) == TEXT
        assert await notice(other) == "Unloading model 'a'..."
        assert await notice(other) == "Loading model 'b'..."
        script = await granted(other, stage)
        await script.begin_stream()
        await script.chunk(TEXT[:20])
        await script.chunk(TEXT[20:])
        await script.chunk(b"")
        assert await rest_of_body(other) == TEXT
        done = await router.events.wait("request.completed", model="b")
        assert (done["status"], done["outcome"]) == (200, "ok")

    @pytest.mark.parametrize(
        "framing",
        [b"content-length: %d\r\n\r\n%b" % (len(TEXT), TEXT), b"\r\n" + TEXT],
        ids=["length", "close"],
    )
    async def test_other_framings_become_chunks(self, router, stage, framing) -> None:
        """A body that ends by its length or by the connection ends as a chunked one."""
        client = await told_of_the_load(router)
        script = await granted(client, stage)
        await script.send(STREAM_HEAD + framing)
        await script.close()
        assert await rest_of_body(client) == TEXT
        await client.send(post("/v1/echo", "b"))
        assert (await client.answer()).status == 200

    async def test_the_connection_can_be_used_again(self, router, stage) -> None:
        """A second request on it, which does not wait, gets the backend's own head."""
        client = await told_of_the_load(router)
        script = await granted(client, stage)
        await script.begin_stream()
        await script.chunk(b"")
        assert await rest_of_body(client) == b""
        await client.send(ask("b"))
        script = await script.backend.request()
        await script.send(STREAM_HEAD + b"x-own: yes\r\ncontent-length: 0\r\n\r\n")
        answer = await client.answer()
        assert (answer.fields["x-own"], answer.body) == ("yes", b"")

    async def test_the_backend_must_not_compress(self, router, stage) -> None:
        """The head that is out says nothing of an encoding, so none is asked for."""
        client = await told_of_the_load(router, accept_encoding="gzip")
        backend = await stage.backend("b")
        await backend.do("ready")
        fields = (await backend.said("request"))["fields"]
        assert "accept-encoding" not in dict(fields)
        await client.stream.aclose()

    async def test_a_place_in_the_queue(self, router) -> None:
        """Who is second is told so."""
        await told_of_the_load(router)
        second = await waiting_for(router)
        await begun(second)
        assert strict(await second.chunk()) == [
            "Loading model 'b'...",
            "Requests ahead in the queue: 1",
        ]

    async def test_nobody_waits_behind_a_load(self, router) -> None:
        """Who asked for a load, as llama.cpp's UI does first, is no request ahead."""
        body = b'{"model": "b"}'
        load = request("POST", "/models/load", body, content_type="application/json")
        assert (await router.ask(load)).status == 200
        await router.events.wait("backend.spawned", model="b")
        await told_of_the_load(router)
        second = await waiting_for(router)
        await begun(second)
        assert strict(await second.chunk())[1:] == ["Requests ahead in the queue: 1"]

    async def test_names_that_a_key_is_not_good_for_are_not_told(self, start, stage) -> None:
        """The model in the way is "another model" for who may not use it."""
        digest = hashlib.sha256(b"sk-0123456789").hexdigest()
        router = await start(
            {"a": stage.model("a"), "b": stage.model("b", "--health", "told")},
            notify_model_swap=True,
            api_keys={"all": {"key": "sk-9876543210"}, "b": {"sha256": digest, "models": ["b"]}},
        )
        first = await router.connect()
        await first.send(ask("a", x_api_key="sk-9876543210"))
        await stage.backend("a")
        await begun(first)
        while await notice(first) != "Model 'a' is ready.":
            pass
        client = await waiting_for(router, x_api_key="sk-0123456789")
        await begun(client)
        assert await notice(client) == "Waiting for another model to finish its requests."


#: Length of what follows `STREAM_HEAD`: request id, length, blank line, body.


class TestWhoGetsThem:
    """Only who asked for a stream, waits, and wants them."""

    async def test_nothing_is_added_without_a_wait(self, router, stage) -> None:
        """A granted request gets the backend's bytes; its head gets an id, and a word for nginx."""
        await router.ask(post("/v1/echo", "a"))
        client = await router.connect()
        await client.send(ask("a", x_notify_model_swap="true"))
        script = await (await stage.backend("a")).request()
        await script.send(STREAM_HEAD + b"content-length: 2\r\n\r\n\n\n")
        got = await client.until(b"\r\n\r\n\n\n")
        id_ = b"x-request-id: req_[0-9a-f]{24}\r\nx-accel-buffering: no\r\n"
        wanted = re.escape(STREAM_HEAD) + id_ + b"Content-Length: 2\r\n\r\n\n\n"
        assert re.fullmatch(wanted, got)

    async def test_the_header_turns_them_off(self, router, stage) -> None:
        """The next thing that the client gets is the backend's own answer."""
        client = await waiting_for(router, x_notify_model_swap="False")
        await self._plain(client, stage, "b")

    async def test_the_header_turns_them_on(self, router, stage) -> None:
        """Also for a model that is not set to give any."""
        client = await told_of_the_load(router, "c", x_notify_model_swap="true")
        await granted(client, stage, "c")

    async def test_a_model_can_have_them_off(self, router, stage) -> None:
        """Its own setting counts before that of the router."""
        await self._plain(await waiting_for(router, "c"), stage, "c")

    async def test_not_without_a_stream(self, router, stage) -> None:
        """A failure then has its own status."""
        client = await router.connect()
        await client.send(ask("b", stream=False))
        await (await stage.backend("b")).exit(3)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (503, "backend_exited")

    @staticmethod
    async def _plain(client: RawClient, stage: Stage, model: str) -> None:
        backend = await stage.backend(model)
        await backend.do("ready")
        script = await backend.request()
        await script.send(b"HTTP/1.1 200 OK\r\nx-own: yes\r\ncontent-length: 2\r\n\r\n{}")
        answer = await client.answer()
        assert (answer.fields["x-own"], answer.body) == ("yes", b"{}")


class TestOtherDialects:
    """The same wait, for clients of other APIs."""

    async def test_completions(self, router, stage) -> None:
        """Comments, then the backend's events."""
        client = await waiting_for(router, target="/v1/completions?script")
        await begun(client)
        assert await client.chunk() == b": Loading model 'b'...\n\n"
        backend = await stage.backend("b")
        await backend.do("ready")
        assert await client.chunk() == b": Model 'b' is ready.\n\n"
        script = await backend.request()
        await script.begin_stream()
        await script.chunk(TEXT)
        await script.chunk(b"")
        assert await rest_of_body(client) == TEXT

    async def test_messages(self, router, stage) -> None:
        """Pings; and a failure is an error event as Anthropic has it."""
        client = await waiting_for(router, target=MESSAGES)
        await begun(client)
        ping = b'event: ping\ndata: {"type": "ping"}\n\n'
        assert await client.chunk() == b": Loading model 'b'...\n" + ping
        await (await stage.backend("b")).exit(3)
        event = await rest_of_body(client)
        assert event.startswith(b"event: error\ndata: ")
        assert error_in(event)["type"] == "overloaded_error"
        assert "exited with code 3" in error_in(event)["message"]

    async def test_a_dying_backend_in_messages(self, router, stage) -> None:
        """Without any notice, too, the error event is one that this API knows."""
        client = await waiting_for(router, target=MESSAGES, x_notify_model_swap="0")
        backend = await stage.backend("b")
        await backend.do("ready")
        script = await backend.request()
        await script.begin_stream()
        await script.chunk(b"event: ping\n")
        await begun(client)
        await script.backend.exit(1)
        body = await rest_of_body(client)
        assert b"\n\nevent: error\ndata: " in body
        assert error_in(body)["type"] == "overloaded_error"


class TestFailures:
    """After a notice an error can only be an event; the connection goes on."""

    async def _goes_on(self, client: RawClient) -> None:
        await client.send(post("/v1/echo", "a"))
        assert (await client.answer()).status == 200

    async def test_of_a_load(self, router, stage) -> None:
        """The event says why, and the body ends properly, without [DONE]."""
        client = await told_of_the_load(router)
        await (await stage.backend("b")).exit(3)
        event = await rest_of_body(client)
        assert error_in(event)["code"] == "backend_exited"
        assert b"[DONE]" not in event
        refused = await router.events.wait("request.refused", model="b")
        assert refused["code"] == "backend_exited"
        await self._goes_on(client)

    async def test_a_refusal(self, start, stage) -> None:
        """Who waited too long is told so."""
        router = await start(
            {"b": stage.model("b", "--health", "told", notify_model_swap=True)},
            max_queue_wait_s=0.3,
        )
        client = await told_of_the_load(router)
        assert error_in(await rest_of_body(client))["code"] == "queue_timeout"

    async def test_a_cancelled_request(self, router) -> None:
        """The operator's word reaches the client."""
        client = await told_of_the_load(router)
        (request_id,) = router.of("b").waiting_since_s
        assert router.running.dispatcher.cancel(request_id)
        assert error_in(await rest_of_body(client))["code"] == "request_cancelled"
        await self._goes_on(client)

    async def test_a_shutdown(self, router) -> None:
        """Who waits is refused, and the connection closed."""
        client = await told_of_the_load(router)
        router.requests.stop.set()
        assert error_in(await rest_of_body(client))["code"] == "shutting_down"
        assert await client.rest() == b""

    async def test_a_backend_that_refuses(self, router, stage) -> None:
        """Its error object becomes the event."""
        client = await told_of_the_load(router)
        script = await granted(client, stage)
        body = b'{"error": {"message": "no such template", "type": "x", "code": 400}}'
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
        await script.send(head + b"transfer-encoding: chunked\r\n\r\n")
        await script.chunk(body[:10])
        await script.chunk(body[10:])
        await script.chunk(b"")
        assert error_in(await rest_of_body(client))["message"] == "no such template"
        done = await router.events.wait("request.completed", model="b")
        assert done["status"] == 400
        await client.send(post("/v1/echo", "b"))
        assert (await client.answer()).status == 200

    async def test_a_backend_that_does_not_stream(self, router, stage) -> None:
        """A whole answer has no place in the stream; the event says what it was."""
        client = await told_of_the_load(router)
        script = await granted(client, stage)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n"
        await script.send(head + b"{}")
        error = error_in(await rest_of_body(client))
        assert error["code"] == "upstream_failed"
        assert "application/json" in error["message"]

    @pytest.mark.parametrize("begins", [False, True])
    async def test_a_backend_that_dies(self, router, stage, begins) -> None:
        """Before its answer or in it: an error event, and the end."""
        client = await told_of_the_load(router)
        script = await granted(client, stage)
        if begins:
            await script.begin_stream()
            await script.chunk(b"data: {}\n\n")
            assert await client.chunk() == b"data: {}\n\n"
        await script.backend.exit(5)
        error = error_in(await rest_of_body(client))
        assert error["code"] == "backend_exited"
        assert "code 5" in error["message"]

    async def test_a_client_that_leaves(self, router, stage) -> None:
        """Its place in the queue is free at once, and nobody is asked to generate."""
        client = await told_of_the_load(router)
        await leaves_nothing(client, router, stage, "b")


class TestSignsOfLife:
    """A stream that waits for long is kept open, with or without notices."""

    async def test_comments_without_notices(self, router, stage, monkeypatch) -> None:
        """The stream begins with a comment when it is due, and goes on with them."""
        monkeypatch.setattr(notices, "KEEPALIVE_S", 0.2)
        client = await waiting_for(router, x_notify_model_swap="false")
        await begun(client)
        for _ in range(3):
            assert await client.chunk() == b": waiting\n\n"
        backend = await stage.backend("b")
        await backend.do("ready")
        script = await backend.request()
        await script.begin_stream()
        await script.chunk(TEXT)
        await script.chunk(b"")
        assert (await rest_of_body(client)).endswith(TEXT)

    async def test_comments_between_notices(self, router, monkeypatch) -> None:
        """After the last notice the silence is broken, too."""
        monkeypatch.setattr(notices, "KEEPALIVE_S", 0.2)
        client = await told_of_the_load(router)
        assert await client.chunk() == b": waiting\n\n"
