"""A resumable stream whose request still waits: it can be stopped, and its client may come back."""

from __future__ import annotations

import json

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.process.harness import Backend, RawClient, Router, request

pytestmark = pytest.mark.process

CHAT = "/v1/chat/completions?script"
STREAM = "/v1/stream?conv_id=c"
REPLAY = f"{STREAM}&from=0"
EVENT = b'data: {"choices": []}\n\n'


@pytest.fixture
async def router(start, stage) -> Router:
    """A router with notices; ``a`` is ready when it is told, and replays what the test says."""
    model = stage.model("a", "--health", "told", "--script", REPLAY, spawn={"proxy_endpoints": []})
    started: Router = await start({"a": model}, notify_model_swap=True, max_restarts=0)
    return started


async def talk(router: Router, **fields: str) -> RawClient:
    """Begin the conversation ``c`` with the model, which has to be loaded."""
    client = await router.connect()
    body = json.dumps({"model": "a", "stream": True}).encode()
    fields = {"content_type": "application/json", "x_conversation_id": "c", **fields}
    await client.send(request("POST", CHAT, body, **fields))
    return client


async def left(router: Router) -> bytes:
    """Begin the conversation, leave during the load; return what was said by then."""
    client = await talk(router)
    await client.head()
    said = await client.chunk()
    await client.stream.aclose()
    await router.events.wait("request.completed", outcome="client_gone")
    return said


async def come_back(router: Router, at: int = 0) -> RawClient:
    """Return a client that reads the stream from that byte on."""
    client = await router.connect()
    await client.send(request("GET", f"{STREAM}&from={at}"))
    head = await client.head()
    assert (head.status, head.fields["content-type"]) == (200, "text/event-stream")
    return client


async def stop(router: Router) -> None:
    """Stop the conversation."""
    answer = await router.ask(request("DELETE", STREAM))
    assert (answer.status, answer.body) == (204, b"")


async def sends_nothing(router: Router, backend: Backend) -> None:
    """Let the backend get ready; check that it is asked nothing."""
    assert (router.of("a").queued, router.of("a").in_flight) == (0, 0)
    await backend.do("ready")
    await router.events.wait("backend.ready", model="a")
    await wait_all_tasks_blocked()
    with pytest.raises(trio.WouldBlock):
        backend.request_nowait()


class TestStop:
    """``DELETE /v1/stream`` before there is a backend."""

    async def test_before_the_stream_began(self, router, stage) -> None:
        """The waiting client gets 400, and nothing is generated."""
        client = await talk(router, x_notify_model_swap="false")
        backend = await stage.backend("a")
        await stop(router)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (400, "request_cancelled")
        assert "cancelled" in answer.error["message"]
        await sends_nothing(router, backend)

    async def test_in_a_stream_that_has_begun(self, router, stage) -> None:
        """It ends with an error event, complete."""
        client = await talk(router)
        await client.head()
        assert b"Loading model 'a'" in await client.chunk()
        backend = await stage.backend("a")
        await stop(router)
        assert b'"request_cancelled"' in await client.chunk()
        assert await client.chunk() == b""
        await sends_nothing(router, backend)

    async def test_after_the_client_left(self, router, stage) -> None:
        """Nobody reads it, and nothing is generated."""
        await left(router)
        backend = await stage.backend("a")
        await stop(router)
        await router.events.wait("request.refused", code="request_cancelled")
        await sends_nothing(router, backend)

    async def test_the_place_in_the_stream_is_gone(self, router, stage) -> None:
        """Who comes back then finds nothing; the page has what was said."""
        await left(router)
        await stage.backend("a")
        await stop(router)
        await router.events.wait("request.refused", code="request_cancelled")
        answer = await router.ask(request("GET", STREAM))
        assert (answer.status, answer.error["code"]) == (404, "stream_not_found")


class TestResume:
    """``GET /v1/stream`` before there is a backend: a page was loaded anew during the load."""

    async def test_notices_then_the_answer(self, router, stage) -> None:
        """From its first byte, and as it goes on; the request reaches the backend once."""
        said = await left(router)
        client = await come_back(router)
        assert await client.chunk() == said
        backend = await stage.backend("a")
        await backend.do("ready")
        assert b"is ready" in await client.chunk()
        generation = await backend.request()
        assert json.loads(generation.body) == {"model": "a", "stream": True}
        await generation.begin_stream()
        replay = await backend.request()
        await replay.begin_stream()
        await replay.chunk(EVENT)
        assert await client.chunk() == EVENT
        await replay.chunk(b"")
        assert await client.chunk() == b""
        await generation.chunk(b"")
        await router.events.wait("request.completed", outcome="ok", method="POST")
        await trio.testing.wait_all_tasks_blocked()  # the replay ends by itself, too
        assert router.of("a").in_flight == 0

    async def test_from_the_last_byte_that_it_has(self, router, stage) -> None:
        """Nothing is said twice."""
        said = await left(router)
        client = await come_back(router, len(said))
        await (await stage.backend("a")).do("ready")
        assert b"is ready" in await client.chunk()

    async def test_several_may_read_along(self, router, stage) -> None:
        """Also while the first client is still there; all of them get the same."""
        first = await talk(router)
        await first.head()
        said = await first.chunk()
        others = [await come_back(router) for _ in range(2)]
        for client in others:
            assert await client.chunk() == said
        await (await stage.backend("a")).do("ready")
        ready = await first.chunk()
        assert [await client.chunk() for client in others] == [ready, ready]

    async def test_a_failed_load_is_the_last_event(self, router, stage) -> None:
        """As it would be for a client that had stayed."""
        said = await left(router)
        client = await come_back(router)
        assert await client.chunk() == said
        await (await stage.backend("a")).exit(3)
        assert b'"backend_exited"' in await client.chunk()
        assert await client.chunk() == b""

    async def test_an_error_of_the_backend_is_the_last_event(self, router, stage) -> None:
        """There is no stream that it could replay."""
        await left(router)
        client = await come_back(router)
        backend = await stage.backend("a")
        await backend.do("ready")
        generation = await backend.request()
        await generation.send(b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\nno")
        assert b'"error"' in await client.until(b"\r\n0\r\n\r\n")

    async def test_it_is_in_the_list_of_streams(self, router, stage) -> None:
        """With what was said so far; a page asks there first."""
        said = await left(router)
        body = json.dumps({"conversation_ids": ["c", "d"]}).encode()
        asked = request("POST", "/v1/streams/lookup", body, content_type="application/json")
        (entry,) = (await router.ask(asked)).json()
        assert (entry["conversation_id"], entry["is_done"]) == ("c", False)
        assert entry["total_bytes"] == len(said)
        await stage.backend("a")

    async def test_nobody_needs_to_come_back(self, router, stage) -> None:
        """The answer is generated, and its model held to its end."""
        await left(router)
        backend = await stage.backend("a")
        await backend.do("ready")
        generation = await backend.request()
        await generation.begin_stream()
        await generation.chunk(EVENT)
        assert router.of("a").in_flight == 1
        await generation.chunk(b"")
        done = await router.events.wait("request.completed", outcome="ok")
        assert (done["model"], done["status"]) == ("a", 200)
        assert router.of("a").in_flight == 0

    async def test_another_request_of_the_conversation_takes_its_place(self, router, stage) -> None:
        """A conversation has one stream; the older request is ended."""
        await left(router)
        client = await talk(router)
        await router.events.wait("request.refused", code="request_cancelled")
        await client.head()
        backend = await stage.backend("a")
        await backend.do("ready")
        await backend.request()
        assert router.of("a").in_flight == 1
        await wait_all_tasks_blocked()
        with pytest.raises(trio.WouldBlock):
            backend.request_nowait()

    async def test_the_end_of_the_router_ends_it(self, router, stage) -> None:
        """It waits for nothing then."""
        await left(router)
        await stage.backend("a")
        router.requests.stop.set()
        await router.ended.wait()
