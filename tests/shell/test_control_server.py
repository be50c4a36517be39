"""One handed-over request, its answer, and the end of the connection; with a mock clock."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
from trio.testing import MockClock

from llama_router.control.web import server as hypercorn
from llama_router.control.web.server import ControlServer, without_deadline
from llama_router.core.requests.control_request import ControlRequest
from llama_router.http1 import LengthBody
from tests.events import capture_logs

App = Callable[[Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
OK = {"type": "http.response.body", "body": b"ok"}


@asynccontextmanager
async def served(app: App, length: int = 0) -> AsyncIterator[trio.SocketStream]:
    """Serve one request with *app*; yield its client, and check that the end is soon after."""
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
    request = ControlRequest(
        method=b"GET",
        target=b"/x",
        version="1.1",
        fields=[(b"host", b"a")],
        expects_continue=False,
        body=LengthBody(length),
        received=b"",
    )
    server = ControlServer(app)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    client = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, stream, request, lambda: None)
        async with client:
            yield client
    assert ours.fileno() == -1


async def everything(client: trio.SocketStream) -> bytes:
    """Return what *client* gets."""
    return b"".join([bytes(data) async for data in client])


async def test_a_crash_is_logged(autojump_clock: MockClock) -> None:
    """The client gets 500, the log the exception."""

    async def crash(_scope: object, _receive: object, _send: object) -> None:
        raise ValueError("a bug")

    with capture_logs() as logs:
        async with served(crash) as client:
            assert (await everything(client)).startswith(b"HTTP/1.1 500")
    assert [line["event"] for line in logs] == ["control.crashed"]


async def test_a_client_that_half_closed_gets_a_quick_answer(autojump_clock: MockClock) -> None:
    """It may wait for that."""

    async def answer(_scope: object, _receive: object, send: Any) -> None:
        await trio.sleep(hypercorn.HALF_CLOSED_S / 2)
        await send(START)
        await send(OK)

    async with served(answer) as client:
        await client.send_eof()
        assert (await everything(client)).endswith(b"\r\n\r\nok")


async def test_a_client_that_half_closed_is_gone_soon(autojump_clock: MockClock) -> None:
    """The application is told as if it had left."""
    seen: list[object] = []

    async def wait(_scope: object, receive: Any, _send: object) -> None:
        while (message := await receive())["type"] != "http.disconnect":
            seen.append(message)
        seen.append(trio.current_time())

    async with served(wait) as client:
        begun_s = trio.current_time()
        await client.send_eof()
        assert await everything(client) == b""
    assert seen[0] == {"type": "http.request", "body": b"", "more_body": False}
    assert math.isclose(float(str(seen[1])) - begun_s, hypercorn.HALF_CLOSED_S)


async def test_what_follows_is_not_the_applications(autojump_clock: MockClock) -> None:
    """It gets the body and its end; the rest is read by nothing that could take it for more."""
    bodies: list[bytes] = []

    async def collect(_scope: object, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            bodies.append(message["body"])
            more = message["more_body"]
        await send(START)
        await send(OK)

    async with served(collect, length=4) as client:
        await client.send_all(b"bo")
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b"dyGET / HTTP/1.1\r\n\r\n")
        assert (await everything(client)).endswith(b"ok")
    assert bodies == [b"bo", b"dy", b""]


async def test_a_client_that_takes_nothing_is_given_up(autojump_clock: MockClock) -> None:
    """After a while that counts from its last byte; the application is told."""
    told = trio.Event()

    async def pour(_scope: object, receive: Any, send: Any) -> None:
        without_deadline()
        await receive()
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await receive()
                told.set()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await send({**START, "headers": []})
            while True:
                await send({**OK, "body": bytes(65536), "more_body": True})

    async with served(pour):
        await told.wait()
        assert trio.current_time() >= hypercorn.WRITE_TIMEOUT_S


async def test_a_request_has_a_deadline(autojump_clock: MockClock) -> None:
    """Whatever its client does meanwhile."""

    async def hang(_scope: object, _receive: object, _send: object) -> None:
        await trio.sleep_forever()

    async with served(hang) as client:
        begun_s = trio.current_time()
        assert await everything(client) == b""
        assert math.isclose(trio.current_time() - begun_s, hypercorn.REQUEST_TIMEOUT_S)


async def test_a_client_that_does_not_close_is_left(autojump_clock: MockClock) -> None:
    """Its answer was sent, and it had time to read that."""

    async def answer(_scope: object, _receive: object, send: Any) -> None:
        await send(START)
        await send(OK)

    async with served(answer) as client:
        assert (await everything(client)).endswith(b"ok")
        begun_s = trio.current_time()
        while True:
            try:
                await client.send_all(b"x")
            except trio.BrokenResourceError:
                break
            await trio.sleep(0.1)
        assert trio.current_time() - begun_s <= hypercorn.LINGER_S + 0.2
