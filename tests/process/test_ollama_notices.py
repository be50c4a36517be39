"""What Ollama's clients get while their streams wait, with scripted backends."""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar

import ollama
import pytest

from llama_router.core.apis import notices
from tests.process.harness import RawClient, Router, Scripted, Stage, leaves_nothing, post, request

pytestmark = pytest.mark.process

CHAT_PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello"}]
STREAM = (
    b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n'
    b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)


def ask(model: str, target: str = "/api/chat", **more: Any) -> bytes:
    """Return the bytes of a request for a stream."""
    headers = {name: more.pop(name) for name in list(more) if name.startswith("x_")}
    asked = {"messages": MESSAGES} if target == "/api/chat" else {"prompt": "hello"}
    body = json.dumps({"model": model, **asked, **more}).encode()
    return request("POST", target, body, **headers)


def pieces(lines: bytes) -> list[dict[str, Any]]:
    """Return what *lines* say; each must be a piece of an answer for the official client."""
    assert lines.endswith(b"\n")
    found = [json.loads(line) for line in lines.splitlines()]
    for piece in found:
        shape = ollama.ChatResponse if "message" in piece else ollama.GenerateResponse
        shape.model_validate(piece)
        assert piece["created_at"].endswith("Z")
    return found


@pytest.fixture
async def router(start, stage) -> Router:
    """A router that gives notices; ``b`` and ``c`` are ready when they are told."""
    return await start(
        {
            "a": stage.model("a", "--script", CHAT_PATH),
            "b": stage.model("b", "--health", "told", "--script", CHAT_PATH),
            "c": stage.model("c", "--health", "told", notify_model_swap=False),
        },
        notify_model_swap=True,
        max_restarts=0,
    )


async def begun(router: Router, data: bytes) -> RawClient:
    """Send a request; return its client once the answer has begun."""
    client = await router.connect()
    await client.send(data)
    head = await client.head()
    assert head.status == 200
    assert head.fields["content-type"] == "application/x-ndjson"
    return client


async def thought(client: RawClient) -> str:
    """Return what the next notice of a chat says."""
    (piece,) = pieces(await client.chunk())
    assert piece["done"] is False
    assert piece["message"] == {
        "role": "assistant",
        "content": "",
        "thinking": piece["message"]["thinking"],
    }
    text = piece["message"]["thinking"]
    assert text.startswith(notices.MARK)
    assert text.endswith(f"{notices.MARK}\n")
    return text[1:-2]


async def told_of_the_load(router: Router, **more: Any) -> RawClient:
    """Ask for ``b``, and take the first notice."""
    client = await begun(router, ask("b", **more))
    assert await thought(client) == "Loading model 'b'..."
    return client


async def failure(client: RawClient) -> str:
    """Return the error that ends the stream, which its answer contains, too."""
    piece, last = map(json.loads, (await rest(client)).splitlines())
    assert list(last) == ["error"]
    assert piece["done"] is False
    assert piece["message"] == {"role": "assistant", "content": f"Error: {last['error']}"}
    error = last["error"]
    assert isinstance(error, str)
    return error


async def rest(client: RawClient) -> bytes:
    """Return what is left of the body."""
    body = b""
    while data := await client.chunk():
        body += data
    return body


async def streamed(script: Scripted) -> None:
    """Let a backend send a short answer."""
    await script.begin_stream()
    await script.chunk(STREAM)
    await script.chunk(b"")


class TestSwap:
    """A swap is told, and then the answer comes."""

    async def test_each_step_is_told_when_it_happens(self, router, stage) -> None:
        """Waiting, unloading, loading, ready; then the model's own words."""
        first = await begun(router, ask("a"))
        assert await thought(first) == "Loading model 'a'..."
        assert await thought(first) == "Model 'a' is ready."
        busy = await (await stage.backend("a")).request()

        client = await begun(router, ask("b"))
        assert await thought(client) == "Waiting for model 'a' to finish its requests."
        await streamed(busy)
        assert pieces(await rest(first))[-1]["done"] is True
        assert await thought(client) == "Unloading model 'a'..."
        assert await thought(client) == "Loading model 'b'..."
        backend = await stage.backend("b")
        await backend.do("ready")
        assert await thought(client) == "Model 'b' is ready."
        await streamed(await backend.request())
        said, last = pieces(await rest(client))
        assert said["message"] == {"role": "assistant", "content": "hi"}
        assert (last["done"], last["done_reason"]) == (True, "stop")
        assert last["load_duration"] > 0
        done = await router.events.wait("request.completed", model="b")
        assert (done["status"], done["outcome"]) == (200, "ok")

    async def test_a_generation(self, router, stage) -> None:
        """Its pieces have their words and thoughts elsewhere."""
        client = await begun(router, ask("b", "/api/generate"))
        (piece,) = pieces(await client.chunk())
        assert piece["response"] == ""
        assert piece["thinking"] == notices.marked("Loading model 'b'...")
        backend = await stage.backend("b")
        await backend.do("ready")
        await streamed(await backend.request())
        *_, said, last = pieces(await rest(client))
        assert (said["response"], last["done"]) == ("hi", True)

    async def test_a_request_that_only_loads(self, router, stage) -> None:
        """It is told the same, and that the model is loaded."""
        client = await begun(router, request("POST", "/api/generate", b'{"model": "b"}'))
        (piece,) = pieces(await client.chunk())
        assert piece["thinking"] == notices.marked("Loading model 'b'...")
        await (await stage.backend("b")).do("ready")
        ready, last = pieces(await rest(client))
        assert ready["thinking"] == notices.marked("Model 'b' is ready.")
        assert (last["done"], last["done_reason"]) == (True, "load")

    async def test_who_wants_no_thoughts(self, router) -> None:
        """With ``think: false`` there is life, but nothing is said."""
        client = await begun(router, ask("b", think=False))
        (piece,) = pieces(await client.chunk())
        assert piece["message"] == {"role": "assistant", "content": ""}
        await client.stream.aclose()

    async def test_names_that_a_key_is_not_good_for_are_not_told(self, start, stage) -> None:
        """The model in the way is "another model" for who may not use it."""
        digest = hashlib.sha256(b"sk-0123456789").hexdigest()
        router = await start(
            {
                "a": stage.model("a", "--script", CHAT_PATH),
                "b": stage.model("b", "--health", "told"),
            },
            notify_model_swap=True,
            api_keys={"all": {"key": "sk-9876543210"}, "b": {"sha256": digest, "models": ["b"]}},
        )
        first = await begun(router, ask("a", x_api_key="sk-9876543210"))
        while await thought(first) != "Model 'a' is ready.":
            pass
        client = await begun(router, ask("b", x_api_key="sk-0123456789"))
        assert await thought(client) == "Waiting for another model to finish its requests."


class TestWhoGetsThem:
    """Only who streams, waits, and wants them."""

    async def test_nothing_is_added_without_a_wait(self, router, stage) -> None:
        """A granted request gets what the model says and nothing else."""
        await router.ask(post("/v1/echo", "a"))
        client = await router.connect()
        await client.send(ask("a", x_notify_model_swap="true"))
        await streamed(await (await stage.backend("a")).request())
        assert (await client.head()).status == 200
        said, last = pieces(await rest(client))
        assert (said["message"]["content"], last["done"]) == ("hi", True)

    async def test_the_header_turns_them_off(self, router, stage) -> None:
        """A failure then has its own status."""
        client = await router.connect()
        await client.send(ask("b", x_notify_model_swap="false"))
        await (await stage.backend("b")).exit(3)
        answer = await client.answer()
        assert answer.status == 503
        assert list(answer.json()) == ["error"]

    async def test_the_header_turns_them_on(self, router) -> None:
        """Also for a model that is not set to give any."""
        client = await begun(router, ask("c", x_notify_model_swap="1"))
        assert await thought(client) == "Loading model 'c'..."

    @pytest.mark.parametrize("more", [{"stream": False}, {"target": "/api/embed", "input": "x"}])
    async def test_not_without_a_stream(self, router, stage, more) -> None:
        """There is no place for them."""
        client = await router.connect()
        await client.send(ask("b", **more))
        await (await stage.backend("b")).exit(3)
        answer = await client.answer()
        assert answer.status == 503
        assert "exited with code 3" in answer.json()["error"]


class TestFailures:
    """After a notice an error can only be a line."""

    async def test_of_a_load(self, router, stage) -> None:
        """It says why, and is the last one."""
        client = await told_of_the_load(router)
        await (await stage.backend("b")).exit(3)
        assert "exited with code 3" in await failure(client)
        refused = await router.events.wait("request.refused", model="b")
        assert refused["code"] == "backend_exited"

    async def test_a_cancelled_request(self, router) -> None:
        """The operator's word reaches the client."""
        client = await told_of_the_load(router)
        (request_id,) = router.of("b").waiting_since_s
        assert router.running.dispatcher.cancel(request_id)
        assert await failure(client)

    async def test_a_shutdown(self, router) -> None:
        """Who waits is refused."""
        client = await told_of_the_load(router)
        router.requests.stop.set()
        assert "shutting down" in await failure(client)

    async def test_a_backend_that_refuses(self, router, stage) -> None:
        """Its sentence is the line."""
        client = await told_of_the_load(router)
        backend = await stage.backend("b")
        await backend.do("ready")
        assert await thought(client) == "Model 'b' is ready."
        body = b'{"error": {"message": "no such template", "code": 400}}'
        script = await backend.request()
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n"
        await script.send(head % len(body) + body)
        assert await failure(client) == "no such template"

    @pytest.mark.parametrize(
        ("head", "body", "sentence"),
        [
            (
                b"content-type: text/html; charset=utf-8\r\ncontent-length: 15\r\n\r\n",
                b"<html>no</html>",
                "answered with text/html instead of a stream: <html>no</html>",
            ),
            (
                b"content-type: application/json\r\ncontent-length: 33\r\n\r\n",
                b'{"error": {"message": "no room"}}',
                "no room",
            ),
            (b"content-type: text/event", b"", "failed: it closed the connection mid-answer"),
            (None, b"", "failed: it closed the connection without an answer"),
        ],
        ids=["page", "error", "half", "nothing"],
    )
    async def test_a_backend_that_does_not_stream(
        self, router, stage, head, body, sentence
    ) -> None:
        """What it did instead is said, in words, and with a status that fits."""
        client = await router.connect()
        await client.send(ask("a", x_notify_model_swap="false"))
        script = await (await stage.backend("a")).request()
        if head is not None:
            await script.send(b"HTTP/1.1 200 OK\r\n" + head + body)
        await script.close()
        answer = await client.answer()
        assert answer.status == 502
        assert json.loads(answer.body)["error"].endswith(sentence)

    async def test_a_client_that_leaves(self, router, stage) -> None:
        """Its place in the queue is free at once, and nobody is asked to generate."""
        client = await told_of_the_load(router)
        await leaves_nothing(client, router, stage, "b")


class TestSignsOfLife:
    """A stream that waits for long is kept open, with or without notices."""

    async def test_pieces_without_notices(self, router, stage: Stage, monkeypatch) -> None:
        """The stream begins with an empty piece when it is due, and goes on with them."""
        monkeypatch.setattr(notices, "KEEPALIVE_S", 0.2)
        client = await begun(router, ask("b", x_notify_model_swap="false"))
        for _ in range(3):
            (piece,) = pieces(await client.chunk())
            assert piece["message"] == {"role": "assistant", "content": ""}
        backend = await stage.backend("b")
        await backend.do("ready")
        await streamed(await backend.request())
        *_, said, last = pieces(await rest(client))
        assert (said["message"]["content"], last["done"]) == ("hi", True)


class TestSilentBackend:
    """``stream_keepalive_s``: a backend reads a long prompt, or thinks."""

    EMPTY: ClassVar = {"role": "assistant", "content": ""}

    @pytest.fixture
    async def router(self, start, stage) -> Router:
        """A router that bears a second of silence, and fills every tenth of it."""
        models = {"a": stage.model("a", "--script", CHAT_PATH)}
        return await start(models, stream_keepalive_s=0.1, read_timeout_s=1.0)

    async def waiting(self, router: Router, stage: Stage) -> tuple[RawClient, Scripted]:
        """Return a client whose stream has begun before the backend's, and the latter."""
        await router.ask(post("/v1/echo", "a"))
        client = await router.connect()
        await client.send(ask("a"))
        script = await (await stage.backend("a")).request()
        assert (await client.head()).status == 200
        assert pieces(await client.chunk())[0]["message"] == self.EMPTY
        return client, script

    async def test_before_its_head(self, router, stage) -> None:
        """The stream begins with an empty piece, and the answer follows in it."""
        client, script = await self.waiting(router, stage)
        assert pieces(await client.chunk())[0]["message"] == self.EMPTY
        await streamed(script)
        *empty, said, last = pieces(await rest(client))
        assert all(piece["message"] == self.EMPTY for piece in empty)
        assert (said["message"]["content"], last["done"]) == ("hi", True)

    async def test_between_its_events(self, router, stage) -> None:
        """Nothing of an event is lost that comes in two halves, a keepalive between them."""
        client, script = await self.waiting(router, stage)
        await script.begin_stream()
        await script.chunk(STREAM[:20])
        for _ in range(2):
            assert pieces(await client.chunk())[0]["message"] == self.EMPTY
        await script.chunk(STREAM[20:])
        *_, said, last = pieces(await rest(client))
        assert (said["message"]["content"], last["done"]) == ("hi", True)

    async def test_a_silence_still_has_an_end(self, router, stage) -> None:
        """``read_timeout_s`` counts what the backend sends, not what the router adds."""
        client, script = await self.waiting(router, stage)
        await script.begin_stream()
        *empty, failed, last = map(json.loads, (await rest(client)).splitlines())
        assert 3 < len(empty) < 20
        assert failed["message"]["content"].startswith("Error: ")
        assert last["error"].endswith("was silent for 1 s")

    async def test_an_error_after_the_first_keepalive_is_a_line(self, router, stage) -> None:
        """The head is sent by then."""
        client, script = await self.waiting(router, stage)
        await script.send(b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\nno")
        *_, last = map(json.loads, (await rest(client)).splitlines())
        assert last["error"] == "the backend of model 'a' answered with status 400"

    async def test_a_whole_answer_has_none(self, router, stage) -> None:
        """A request without a stream gets nothing before its answer."""
        client = await router.connect()
        await client.send(ask("a", stream=False))
        script = await (await stage.backend("a")).request()
        await router.ask(post("/v1/echo", "a"))
        body = b'{"choices": [{"message": {"role": "assistant", "content": "hi"}}]}'
        head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"
        await script.send(head % len(body) + body)
        assert (await client.answer()).json()["message"]["content"] == "hi"
