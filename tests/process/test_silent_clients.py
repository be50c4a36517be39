"""Connections without an end: a client that only listens keeps no other model out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from wsproto.events import AcceptConnection, CloseConnection, TextMessage

from llama_router.dispatch import activity
from tests.process.harness import RawClient, Router, Scripted, Stage, post, request
from tests.process.websocket_client import connect

pytestmark = pytest.mark.process

WEBSOCKET_BACKEND = Path(__file__).with_name("websocket_backend.py")
HANDSHAKE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec_websocket_key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "sec_websocket_version": "13",
}
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
PING, MASKED_PONG = b"\x89\x00", b"\x8a\x80\x00\x00\x00\x00"
MASKED_TEXT = b"\x81\x81\x00\x00\x00\x00x"
UNLOADED = b"\x88\x10\x03\xe9model_unloaded"
EVENT = b'data: {"step": 1}\n\n'


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    """A client counts as silent after a fifth of a second."""
    monkeypatch.setattr(activity, "HOLD_S", 0.2)


@pytest.fixture
async def router(start, stage) -> Router:
    """A router with two models that replace each other; ``a`` answers as the test says."""
    models = {"a": stage.model("a", max_in_flight=1), "b": stage.model("b")}
    return await start(models, drain_s=60.0)


async def listen(router: Router, stage: Stage, **fields: str) -> tuple[RawClient, Scripted]:
    """Return a client whose request below ``/upstream/`` has reached ``a``, and that request."""
    client = await router.connect()
    await client.send(request("GET", "/upstream/a/v1/script", **fields))
    backend = await stage.backend("a")
    return client, await backend.request()


async def open_websocket(router: Router, stage: Stage) -> tuple[RawClient, Scripted]:
    """Return an open WebSocket to ``a``, and its other end."""
    client, scripted = await listen(router, stage, **HANDSHAKE)
    await scripted.send(SWITCHED)
    assert (await client.head()).status == 101
    return client, scripted


async def swap(router: Router) -> None:
    """Ask for ``b``, which is served only when ``a`` has left."""
    assert (await router.ask(post("/v1/chat/completions", "b"))).status == 200


async def test_an_open_websocket_makes_way_and_is_closed_properly(router, stage) -> None:
    """Its client gets a close frame that says why; it sent nothing but its handshake."""
    client, _ = await open_websocket(router, stage)
    await swap(router)
    assert await client.rest() == UNLOADED
    done = await router.events.wait("request.completed", model="a")
    assert (done["outcome"], done["code"], done["status"]) == ("cut", "model_unloaded", 101)


async def test_the_backends_own_chatter_and_pings_keep_nothing_loaded(router, stage) -> None:
    """Nor does the client's answer to a ping: no person is behind it."""
    client, scripted = await open_websocket(router, stage)

    async def chatter() -> None:
        while await client.exactly(2) == PING:
            await client.send(MASKED_PONG)
            await scripted.send(PING)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(chatter)
        await scripted.send(PING)
        await swap(router)
        nursery.cancel_scope.cancel()


async def test_a_frame_is_never_cut_by_the_close_frame(router, stage) -> None:
    """After half a frame of the backend, the connection just ends."""
    client, scripted = await open_websocket(router, stage)
    await scripted.send(b"\x82\x05ab")
    assert await client.exactly(4) == b"\x82\x05ab"
    await swap(router)
    assert await client.rest() == b""


async def test_a_silent_websocket_takes_no_slot(router, stage) -> None:
    """With ``max_in_flight = 1`` the model's other requests are served beside it."""
    await open_websocket(router, stage)
    assert (await router.ask(post("/v1/chat/completions", "a"))).status == 200
    assert router.of("a").in_flight == 0


async def test_a_client_that_sends_again_keeps_its_model(router, stage, monkeypatch) -> None:
    """The other model then waits until it is silent again, or has gone."""
    client, scripted = await open_websocket(router, stage)
    assert (await router.ask(post("/v1/chat/completions", "a"))).status == 200
    monkeypatch.setattr(activity, "HOLD_S", 60.0)
    await client.send(MASKED_TEXT)
    await scripted.send(PING)  # the answer to it, so to speak
    assert await client.exactly(2) == PING
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swap, router)
        await wait_all_tasks_blocked(0.05)
        assert router.of("b").queued == 1
        assert router.of("a").in_flight == 1
        await client.stream.aclose()


async def test_the_idle_time_of_a_model_runs_while_a_client_listens(start, stage) -> None:
    """``ttl_s`` counts from when it last sent something."""
    router = await start({"a": stage.model("a", ttl_s=0.3)})
    client, _ = await open_websocket(router, stage)
    assert await client.rest() == UNLOADED


async def test_unload_does_not_wait_for_a_client_that_listens(router, stage) -> None:
    """It waits for as long as for one that has just sent something, at most."""
    client, _ = await open_websocket(router, stage)
    await router.running.dispatcher.unload("a", force=False)
    assert await client.rest() == UNLOADED


async def test_the_end_of_the_router_does_not_wait_for_a_client_that_listens(router, stage) -> None:
    """The drain time is a minute here."""
    client, _ = await open_websocket(router, stage)
    router.requests.stop.set()
    assert await client.rest() == b"\x88\x0f\x03\xe9shutting_down"
    await client.stream.aclose()
    await router.ended.wait()


async def test_an_endless_event_stream_ends_with_an_error_event(router, stage) -> None:
    """Although its backend goes on sending all the time."""
    client, scripted = await listen(router, stage)
    await scripted.begin_stream()
    await scripted.chunk(EVENT)
    await client.head()
    assert await client.chunk() == EVENT
    await swap(router)
    last = await client.chunk()
    assert b'"code":"model_unloaded"' in last
    assert last.startswith(b"\n\ndata: ")
    assert await client.chunk() == b""


async def test_a_download_without_an_announced_end_is_cut_visibly(router, stage) -> None:
    """It lacks its last chunk."""
    client, scripted = await listen(router, stage)
    await scripted.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    await scripted.chunk(b"some")
    await client.head()
    assert await client.chunk() == b"some"
    await swap(router)
    assert await client.rest() == b""


@pytest.mark.parametrize(
    "field", [b"content-type: audio/wav", b"content-disposition: attachment; filename=x.bin"]
)
async def test_a_file_without_an_announced_end_is_never_cut(
    router, stage, monkeypatch, field
) -> None:
    """Speech that is sent while it is made takes longer than a client may be silent."""
    monkeypatch.setattr(activity, "HOLD_S", 0.01)
    client, scripted = await listen(router, stage)
    await scripted.send(b"HTTP/1.1 200 OK\r\n%b\r\ntransfer-encoding: chunked\r\n\r\n" % field)
    await scripted.chunk(b"some")
    await client.head()
    assert await client.chunk() == b"some"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swap, router)
        await wait_all_tasks_blocked(0.05)
        assert (router.of("a").in_flight, router.of("b").queued) == (1, 1)
        await scripted.chunk(b"more")
        assert await client.chunk() == b"more"
        await scripted.chunk(b"")
        assert await client.chunk() == b""


async def test_a_long_poll_is_answered_when_its_backend_leaves(router, stage) -> None:
    """With an error: there is no response yet that could be continued."""
    client, _ = await listen(router, stage)
    await swap(router)
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (503, "model_unloaded")


async def test_a_client_may_leave_after_its_lease_was_let_go(router, stage) -> None:
    """Nothing of it is left, and the backend sees it leave."""
    client, scripted = await open_websocket(router, stage)
    assert (await router.ask(post("/v1/chat/completions", "a"))).status == 200
    await client.stream.aclose()
    await scripted.gone_s()
    await router.events.wait("request.completed", status=101)
    assert router.running.dispatcher._listening == {}


async def test_messages_pass_as_before_after_a_silence(start) -> None:
    """Of any size, both ways."""
    command = [sys.executable, str(WEBSOCKET_BACKEND), "$port"]
    spawn = {"command": command, "proxy_endpoints": []}
    router = await start({"ws": {"spawn": spawn, "max_in_flight": 1}})
    socket = await connect(router, "/upstream/ws/v1/echo")
    assert isinstance(await socket.event(), AcceptConnection)
    assert (await router.ask(request("GET", "/upstream/ws/v1/shy"))).body == b"1"
    text = "\N{SNOWMAN}" * 30_000
    await socket.send(TextMessage(text))
    got = ""
    while len(got) < len(text):
        event = await socket.event()
        assert isinstance(event, TextMessage)
        got += event.data
    assert got == text
    await socket.send(CloseConnection(1000))
    assert isinstance(await socket.event(), CloseConnection)


async def test_the_operator_ends_a_silent_one(router, stage) -> None:
    """By the number of its request, with a close frame; nothing of it is left."""
    client, scripted = await open_websocket(router, stage)
    assert (await router.ask(post("/v1/chat/completions", "a"))).status == 200
    (number,) = router.running.dispatcher._listening
    assert router.running.dispatcher.cancel(number)
    assert await client.rest() == b"\x88\x13\x03\xf3request_cancelled"
    await client.stream.aclose()
    await scripted.gone_s()
    await router.events.wait("request.completed", code="request_cancelled")
    assert router.running.dispatcher._listening == {}


async def test_a_client_that_reads_nothing_keeps_nobody_out(router, stage) -> None:
    """Also in the middle of a frame that it does not take: the connection just ends."""
    client, scripted = await open_websocket(router, stage)
    size = 16 * 1024 * 1024
    await scripted.send(b"\x82\x7f" + size.to_bytes(8, "big"))
    for _ in range(4):  # more would hold up the backend, and so the test
        await scripted.backend.do("send", number=scripted.number, data="x" * 1024**2)
    await swap(router)
    done = await router.events.wait("request.completed", model="a")
    assert (done["outcome"], done["code"]) == ("cut", "model_unloaded")
    assert len(await client.rest()) < size
    assert router.running.dispatcher._listening == {}
