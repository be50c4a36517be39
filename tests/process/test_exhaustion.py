"""As many connections as this process may have, and one more."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from tests.limits import LIMIT_S
from tests.process.harness import post, request
from tests.process.lane import Lane, running

pytestmark = pytest.mark.process

ASK = post("/v1/chat/completions", "a")
BODY = ASK.partition(b"\r\n\r\n")[2]
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
async def lane() -> AsyncIterator[Lane]:
    """A gateway with room for eight connections, whose backend the test plays."""
    with trio.fail_after(LIMIT_S):
        async with running() as lane:
            lane.gateway.loop._most_channels = 8
            yield lane


async def test_clients_leave_room_for_backends(lane) -> None:
    """Three quarters are clients'; the next one waits until one of them has left."""
    clients = [await lane.connect() for _ in range(6)]
    late = await lane.connect()  # by the kernel only
    await late.send(ASK)
    await lane.events.wait("connection.delayed")
    await clients.pop().stream.aclose()
    peer = await lane.peer()
    await peer.until(BODY)
    await peer.send(ANSWER)
    assert (await late.answer()).body == b"ok"


async def test_clients_of_the_control_plane_count_as_others(lane) -> None:
    """Its answers may be streams without end."""

    async def follow(stream: trio.SocketStream, _request: object, _moving: object) -> None:
        await stream.send_all(b"follows\n")
        assert await stream.receive_some() == b""

    lane.gateway.handover = follow
    clients = [await lane.connect() for _ in range(6)]
    for client in clients:
        await client.send(request("GET", "/models/sse"))
        await client.until(b"\n")
    late = await lane.connect()
    await late.send(request("GET", "/models/sse"))
    await lane.events.wait("connection.delayed")
    assert late._buffer == b""
    await clients.pop().stream.aclose()
    await late.until(b"\n")
    assert lane.gateway.handed_over == 6


async def test_no_room_for_a_backend(lane) -> None:
    """That request is refused; those that have a connection to the backend go on."""
    clients = [await lane.connect() for _ in range(6)]
    peers = []
    for client in clients[:2]:
        await client.send(ASK)
        peers.append(await lane.peer())
    await clients[2].send(ASK)
    answer = await clients[2].answer()
    assert answer.status == 503
    assert b"router_exhausted" in answer.body
    for client, peer in zip(clients, peers, strict=False):
        await peer.until(BODY)
        await peer.send(ANSWER)
        assert (await client.answer()).body == b"ok"
