"""Streams for proxies: HTTP/1.0, the field against buffering, keepalives of a silent backend."""

from __future__ import annotations

import json

import pytest
from trio.testing import wait_all_tasks_blocked

from llama_router.core.apis import notices
from tests.process.harness import RawClient, Router, Stage, post, request

pytestmark = pytest.mark.process

CHAT = "/v1/chat/completions?script"
EVENT = b'data: {"choices": []}\n\n'
KEEPALIVE = b": keepalive\n\n"
WAITING = b": waiting\n\n"
NOT_BUFFERED = "x-accel-buffering"


def ask(target: str = CHAT, *, version: str = "1.1", model: str = "a", **fields: str) -> bytes:
    """Return the bytes of a request for a stream."""
    body = json.dumps({"model": model, "stream": True}).encode()
    fields = {"content_type": "application/json", **fields}
    return request("POST", target, body, version=version, **fields)


async def waiting(start, stage: Stage, **router: object) -> Router:
    """Return a router whose model ``a`` is ready when it is told."""
    models = {"a": stage.model("a", "--health", "told")}
    started: Router = await start(models, notify_model_swap=True, **router)
    return started


async def begun(client: RawClient) -> None:
    """Take the head of a stream that began before its backend was there."""
    head = await client.head()
    assert (head.status, head.fields["content-type"]) == (200, "text/event-stream")
    assert "transfer-encoding" not in head.fields
    assert head.fields["connection"] == "close"
    assert head.fields[NOT_BUFFERED] == "no"


class TestHttp10:
    """nginx asks its upstream in HTTP/1.0 unless it is told otherwise."""

    @pytest.mark.parametrize("framing", ["chunked", "length", "close"])
    async def test_a_stream_begins_while_the_model_loads(self, start, stage, framing) -> None:
        """With notices, and without chunks; the answer follows, however it is framed."""
        router = await waiting(start, stage)
        client = await router.connect()
        await client.send(ask(version="1.0", connection="keep-alive"))
        await begun(client)
        assert b"Loading model 'a'" in await client.until(b"\n\n")
        backend = await stage.backend("a")
        await backend.do("ready")
        scripted = await backend.request()
        fields = {
            "chunked": b"transfer-encoding: chunked\r\n",
            "length": b"content-length: %d\r\n" % (2 * len(EVENT)),
            "close": b"",
        }
        await scripted.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%b\r\n" % fields[framing]
        )
        for _ in range(2):
            await (scripted.chunk if framing == "chunked" else scripted.send)(EVENT)
        if framing == "chunked":
            await scripted.chunk(b"")
        if framing == "close":
            await scripted.close()
        assert b"is ready" in await client.until(b"\n\n")
        assert await client.rest() == 2 * EVENT

    async def test_it_is_kept_alive(self, start, stage, monkeypatch) -> None:
        """By comments, as for HTTP/1.1."""
        monkeypatch.setattr(notices, "KEEPALIVE_S", 0.05)
        router = await waiting(start, stage)
        client = await router.connect()
        await client.send(ask(version="1.0"))
        await begun(client)
        await client.until(b"\n\n")
        assert await client.until(b"\n\n") == WAITING
        assert await client.until(b"\n\n") == WAITING

    async def test_a_failed_load_is_the_last_event(self, start, stage) -> None:
        """The body ends with the connection, so nothing else can say it."""
        router = await waiting(start, stage, max_restarts=0)
        client = await router.connect()
        await client.send(ask(version="1.0", connection="keep-alive"))
        await begun(client)
        backend = await stage.backend("a")
        await backend.exit(3)
        *_, last, end = (await client.rest()).split(b"\n\n")
        assert end == b""
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "backend_exited"

    async def test_an_error_of_the_backend_is_the_last_event(self, start, stage) -> None:
        """Its status cannot be sent any more."""
        router = await waiting(start, stage)
        client = await router.connect()
        await client.send(ask(version="1.0"))
        await begun(client)
        backend = await stage.backend("a")
        await backend.do("ready")
        scripted = await backend.request()
        await scripted.send(b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\nno")
        last = (await client.rest()).split(b"\n\n")[-2]
        assert "no" in json.loads(last.removeprefix(b"data: "))["error"]["message"]


class TestNotBuffered:
    """``X-Accel-Buffering: no``, without which nginx sends a stream in one piece."""

    @pytest.mark.parametrize("own", [b"", b"X-Accel-Buffering: yes\r\n"])
    @pytest.mark.parametrize("target", [CHAT, "/upstream/a/v1/script"])
    async def test_streams_of_backends_have_it(self, start, stage, target, own) -> None:
        """One that the backend sent itself stays."""
        router = await start({"a": stage.model("a")})
        client = await router.connect()
        await client.send(ask(target))
        scripted = await (await stage.backend("a")).request()
        await scripted.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n%b\r\n" % own
        )
        assert (await client.head()).fields[NOT_BUFFERED] == ("yes" if own else "no")

    async def test_other_answers_do_not(self, start, stage) -> None:
        """Buffering is good for them."""
        router = await start({"a": stage.model("a")})
        answer = await router.ask(post("/v1/chat/completions", "a"))
        assert NOT_BUFFERED not in answer.fields

    @pytest.mark.parametrize(
        "target",
        [
            "/admin/events",
            "/models/sse",
            "/admin/logs/a?follow=1",
            "/admin/logs/a?follow=1&format=text",
        ],
    )
    async def test_streams_of_the_router_have_it(self, start, stage, target) -> None:
        """Lines of logs, too."""
        router = await start({"a": stage.model("a")}, admin_token="t" * 16)
        client = await router.connect()
        await client.send(request("GET", target, authorization="Bearer " + "t" * 16))
        head = await client.head()
        assert (head.status, head.fields[NOT_BUFFERED]) == (200, "no")


class TestSilentBackend:
    """``stream_keepalive_s``: a backend reads a long prompt, or thinks."""

    async def asked(self, start, stage, target: str = CHAT, **fields: str):
        """Return a client, and its request at the backend."""
        self.router = await start({"a": stage.model("a")}, stream_keepalive_s=0.1)
        client = await self.router.connect()
        await client.send(ask(target, **fields))
        self.backend = await stage.backend("a")
        return client, await self.backend.request()

    async def time_passes(self) -> None:
        """Return when another silent stream got some keepalives."""
        other = await self.router.connect()
        await other.send(ask())
        await self.backend.request()
        await other.head()
        for _ in range(3):
            assert await other.chunk() == WAITING

    async def test_before_its_head(self, start, stage) -> None:
        """The stream begins without it; the answer follows in it."""
        client, scripted = await self.asked(start, stage)
        head = await client.head()
        assert (head.status, head.fields["transfer-encoding"]) == (200, "chunked")
        for _ in range(3):
            assert await client.chunk() == WAITING
        await scripted.begin_stream()
        await scripted.chunk(EVENT)
        while (data := await client.chunk()) == WAITING:
            pass
        assert data == EVENT

    @pytest.mark.parametrize("target", [CHAT, "/upstream/a/v1/chat/completions?script"])
    async def test_between_its_events(self, start, stage, target) -> None:
        """As often as is set, until the next event; then again."""
        client, scripted = await self.asked(start, stage, target)
        await scripted.begin_stream()
        await client.head()
        for _ in range(3):
            await scripted.chunk(EVENT)
            while (data := await client.chunk()) != EVENT:
                assert data in (KEEPALIVE, WAITING)
            for _ in range(2):
                assert await client.chunk() == KEEPALIVE
        await scripted.chunk(b"")
        while data := await client.chunk():
            assert data == KEEPALIVE

    async def test_never_inside_an_event(self, start, stage) -> None:
        """Its rest comes first, although that takes longer."""
        client, scripted = await self.asked(start, stage)
        await scripted.begin_stream()
        await scripted.chunk(b"data: ha")
        await client.head()
        while (data := await client.chunk()) == WAITING:
            pass
        assert data == b"data: ha"
        await self.time_passes()
        await scripted.chunk(b"lf\n\n")
        assert await client.chunk() == b"lf\n\n"
        assert await client.chunk() == KEEPALIVE

    async def test_never_inside_a_chunk(self, start, stage) -> None:
        """The chunk is not complete before its last byte."""
        client, scripted = await self.asked(start, stage)
        await scripted.begin_stream()
        await scripted.send(b"%x\r\n%b" % (len(EVENT), EVENT))
        await client.head()
        await self.time_passes()
        await scripted.send(b"\r\n")
        while (data := await client.chunk()) == WAITING:
            pass
        assert data == EVENT
        assert await client.chunk() == KEEPALIVE

    async def test_a_silence_still_has_an_end(self, start, stage) -> None:
        """``read_timeout_s`` counts what the backend sends, not what the router adds."""
        router = await start({"a": stage.model("a")}, stream_keepalive_s=0.1, read_timeout_s=0.5)
        client = await router.connect()
        await client.send(ask())
        scripted = await (await stage.backend("a")).request()
        await scripted.begin_stream()
        await scripted.chunk(EVENT)
        await client.head()
        pieces = []
        while data := await client.chunk():
            pieces.append(data)
        assert KEEPALIVE in pieces
        assert b"upstream_timeout" in pieces[-1]

    async def test_an_error_after_the_first_keepalive_is_an_event(self, start, stage) -> None:
        """The head is sent by then."""
        client, scripted = await self.asked(start, stage)
        await client.head()
        assert await client.chunk() == WAITING
        await scripted.send(b"HTTP/1.1 400 Bad\r\ncontent-length: 2\r\n\r\nno")
        while (data := await client.chunk()) == WAITING:
            pass
        assert b'"error"' in data
        assert await client.chunk() == b""

    async def test_a_resumable_stream_has_none(self, start, stage) -> None:
        """Its client counts its bytes, and the backend counts only its own."""
        client, scripted = await self.asked(start, stage, x_conversation_id="c")
        await scripted.begin_stream()
        await scripted.chunk(EVENT)
        await client.head()
        assert await client.chunk() == EVENT
        await self.time_passes()
        await scripted.chunk(EVENT)
        assert await client.chunk() == EVENT

    async def test_by_default_there_is_none(self, start, stage) -> None:
        """A stream stays as the backend makes it."""
        router = await start({"a": stage.model("a")})
        client = await router.connect()
        await client.send(ask())
        scripted = await (await stage.backend("a")).request()
        await wait_all_tasks_blocked(0.3)
        await scripted.begin_stream()
        await scripted.chunk(EVENT)
        await client.head()
        assert await client.chunk() == EVENT
