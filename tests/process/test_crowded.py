"""Many small requests at the same moment: what is sent at the end of an iteration."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio
import trio.testing

from llama_router.gateway.sockets import ClientSocket, UpstreamSocket
from tests.limits import LIMIT_S
from tests.process.lane import Lane, Peer, running

pytestmark = pytest.mark.process

#: Clients that send at the same moment.
CLIENTS = 20


@pytest.fixture
async def lane():
    """A gateway whose backend the test plays."""
    with trio.fail_after(LIMIT_S):
        async with running() as lane:
            yield lane


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """Return the kinds of sockets on which something is sent later, one entry for each send."""
    seen: list[type] = []
    for kind in (ClientSocket, UpstreamSocket):

        def spy(self: Any, data: bytes, *, _send=kind.send_later, **arguments: float) -> None:
            seen.append(type(self))
            _send(self, data, **arguments)

        monkeypatch.setattr(kind, "send_later", spy)
    return seen


def ask(number: int, size_bytes: int = 0) -> bytes:
    """Return a request; its answer has the same body."""
    body = b'{"model":"a","number":%d,"x":"%b"}' % (number, b"x" * size_bytes)
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )


async def echo(peer: Peer) -> None:
    """Answer each request on *peer* with its own body, until it is closed."""
    try:
        while True:
            head = (await peer.until(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await peer.exactly(size)
            await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (size, body))
    except (AssertionError, trio.BrokenResourceError):
        await peer.close()


async def play(lane: Lane, nursery: trio.Nursery) -> None:
    """Play the backend on all its connections."""
    while True:
        nursery.start_soon(echo, await lane.peer())


async def test_each_client_gets_its_own_answers(lane, later) -> None:
    """Also if it sends two requests at once, and on connections that were used before."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, lane, nursery)
        clients = [await lane.connect() for _ in range(CLIENTS)]
        for turn in range(4):
            for number, client in enumerate(clients):
                os.write(client.stream.socket.fileno(), ask(number, turn) + ask(1000 + number))
            for number, client in enumerate(clients):
                assert (await client.answer()).json()["number"] == number
                assert (await client.answer()).json()["number"] == 1000 + number
        nursery.cancel_scope.cancel()
    assert set(later) == {ClientSocket, UpstreamSocket}


async def test_one_client_waits_for_no_other(lane, later) -> None:
    """A single request is sent at once, and so is its answer."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, lane, nursery)
        client = await lane.connect()
        for number in range(5):
            await client.send(ask(number))
            assert (await client.answer()).json()["number"] == number
        nursery.cancel_scope.cancel()
    assert later == []


async def test_all_answers_arrive_at_the_end(lane, later) -> None:
    """Connections that end with an answer, or because the router does, lose nothing of it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, lane, nursery)
        clients = [await lane.connect() for _ in range(CLIENTS)]
        for number, client in enumerate(clients):
            os.write(client.stream.socket.fileno(), ask(number))
        for client in clients:
            await client.answer()
        for number, client in enumerate(clients):
            os.write(client.stream.socket.fileno(), ask(number, 9000))
        await trio.testing.wait_all_tasks_blocked()
        lane.gateway.drain()
        for number, client in enumerate(clients):
            assert (await client.answer()).json()["number"] == number
            assert await client.rest() == b""
        nursery.cancel_scope.cancel()
    assert later


async def test_clients_that_leave_cost_no_other_its_answer(lane, later) -> None:
    """Half of them reset their connections while their requests are on the way."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(play, lane, nursery)
        clients = [await lane.connect() for _ in range(CLIENTS)]
        for turn in range(3):
            for number, client in enumerate(clients):
                os.write(client.stream.socket.fileno(), ask(number))
            for number, client in enumerate(clients):
                if number % 2 == turn % 2:
                    await trio.aclose_forcefully(client.stream)
                    clients[number] = await lane.connect()
                else:
                    assert (await client.answer()).json()["number"] == number
        nursery.cancel_scope.cancel()
    assert later
