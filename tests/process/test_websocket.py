"""WebSocket through the router: a handshake is relayed, then bytes go both ways."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    RejectConnection,
    TextMessage,
)

from tests.process.websocket_client import connect

pytestmark = pytest.mark.process

BACKEND = Path(__file__).with_name("websocket_backend.py")
MIB = 1024 * 1024


@pytest.fixture
async def router(start):
    """A router with one WebSocket backend, ``ws``, which nobody asked for yet."""
    command = [sys.executable, str(BACKEND), "$port"]
    return await start({"ws": {"spawn": {"command": command, "proxy_endpoints": []}}})


async def test_a_handshake_loads_the_model_and_messages_go_both_ways(router) -> None:
    """The model of ``?model=`` is started, and what it is told comes back."""
    socket = await connect(router, "/v1/echo?model=ws")
    assert isinstance(await socket.event(), AcceptConnection)
    for text in ("one", "two", "\N{SNOWMAN}" * 100):
        await socket.send(TextMessage(text))
        event = await socket.event()
        assert isinstance(event, TextMessage)
        assert event.data == text
    assert router.of("ws").in_flight == 1
    await socket.send(CloseConnection(1000))
    assert isinstance(await socket.event(), CloseConnection)
    assert await socket.stream.receive_some() == b""
    done = await router.events.wait("request.completed")
    assert (done["status"], done["outcome"]) == (101, "ok")
    assert router.of("ws").in_flight == 0


async def test_both_sides_may_send_much_at_once(router) -> None:
    """Neither way waits for the other, though both sides first write and then read."""
    socket = await connect(router, "/v1/echo?model=ws")
    assert isinstance(await socket.event(), AcceptConnection)
    data = bytes(range(256)) * (8 * MIB // 256)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(socket.send, BytesMessage(data)))
        assert await socket.message(len(data)) == data


async def test_a_refused_handshake_is_an_ordinary_answer(router) -> None:
    """A backend that does not switch answers like any other."""
    socket = await connect(router, "/v1/nothing?model=ws")
    event = await socket.event()
    assert isinstance(event, RejectConnection)
    assert event.status_code == 404


async def test_a_handshake_has_a_connection_to_the_backend_for_itself(router) -> None:
    """A refused one leaves nothing behind that another request, or handshake, could hang on."""
    client = await router.connect()
    for before in (b"1", b"2", b"3"):
        await client.send(b"GET /v1/shy?model=ws HTTP/1.1\r\nhost: router\r\n\r\n")
        answer = await client.answer()
        assert answer.body == before, "usual requests share a connection"
        socket = await connect(router, "/v1/shy?model=ws")
        event = await socket.event()
        assert isinstance(event, RejectConnection)
        assert (event.status_code, dict(event.headers)[b"x-before"]) == (404, b"0")


async def test_a_client_that_leaves_ends_the_backends_side(router) -> None:
    """The backend's connection is closed, and the model is free."""
    socket = await connect(router, "/v1/echo?model=ws")
    assert isinstance(await socket.event(), AcceptConnection)
    await socket.stream.aclose()
    await router.events.wait("request.completed")
    assert router.of("ws").in_flight == 0


async def test_a_backend_that_dies_ends_the_clients_side(router) -> None:
    """The client is told in a close frame; it sees no hang."""
    socket = await connect(router, "/v1/die?model=ws")
    assert isinstance(await socket.event(), AcceptConnection)
    await socket.send(TextMessage("now"))
    close = await socket.event()
    assert isinstance(close, CloseConnection)
    assert (close.code, close.reason) == (1011, "backend_exited")
    done = await router.events.wait("request.completed")
    assert (done["outcome"], done["code"]) == ("cut", "backend_exited")


async def test_the_drain_deadline_cuts_a_tunnel(router) -> None:
    """A WebSocket without end does not keep the router alive."""
    socket = await connect(router, "/v1/echo?model=ws")
    assert isinstance(await socket.event(), AcceptConnection)
    router.requests.stop.set()
    router.requests.force_stop.set()
    await socket.until_closed()
