"""A stream in its usual course, and each way out of it, on real sockets."""

from __future__ import annotations

import os
import socket
import struct
from collections import deque

import pytest
import trio
import trio.lowlevel
import trio.testing

from llama_router.gateway import pump
from llama_router.gateway.body import LAST_CHUNK, chunk
from llama_router.gateway.sockets import ClientSocket
from tests.limits import LIMIT_S
from tests.process.harness import RawClient
from tests.process.lane import Lane, Peer, running

pytestmark = pytest.mark.process

BODY = b'{"model":"a","stream":true}'
ASK = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
async def lane():
    """A gateway whose backend the test plays."""
    with trio.fail_after(LIMIT_S):
        async with running() as lane:
            yield lane


async def streaming(lane: Lane) -> tuple[RawClient, Peer]:
    """Return both ends of a stream that has come to its third chunk."""
    client = await lane.connect()
    await client.send(ASK)
    peer = await lane.peer()
    await peer.until(BODY)
    await peer.send(HEAD)
    await client.head()
    for number in range(3):
        await peer.send(chunk(b"data: %d\n\n" % number))
        assert await client.chunk() == b"data: %d\n\n" % number
    return client, peer


def pieces_of(number: int) -> list[bytes]:
    """Return what a backend writes at a time: whole chunks, and of some only a part."""
    pieces: list[bytes] = []
    for at in range(300):
        whole = chunk(b"%d:%d " % (number, at) * (at % 50 + 1))
        if at % 30 == 7:
            whole = chunk(b"x" * (1024 - len(chunk(b"x" * 999)) + 999))  # a full read
        if at % 30 == 17:
            whole = chunk(b"x" * 20_000)
        cut = at % len(whole) if at % 10 == 3 else len(whole)
        pieces += [whole[:cut], whole[cut:]]
    return [*filter(None, pieces), LAST_CHUNK]


def write_some(peer: Peer, pieces: deque[bytes]) -> None:
    """Let *peer* write the first of its *pieces*, as far as that is possible now."""
    if not pieces:
        return
    try:
        sent = os.write(peer.stream.socket.fileno(), pieces[0])
    except (BlockingIOError, ConnectionError):
        return
    piece = pieces.popleft()
    if sent < len(piece):
        pieces.appendleft(piece[sent:])


class TestPump:
    """`gateway.pump`."""

    async def test_the_end_of_a_stream_leaves_both_connections_usable(self, lane) -> None:
        """The next request is served on the same two."""
        client, peer = await streaming(lane)
        await peer.send(LAST_CHUNK)
        assert await client.chunk() == b""
        await client.send(ASK)
        await peer.until(BODY)
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        assert (await client.answer()).body == b"ok"
        assert lane.peers == [peer]

    async def test_several_chunks_at_once(self, lane) -> None:
        """They are passed on as they came."""
        client, peer = await streaming(lane)
        await peer.send(chunk(b"data: a\n\n") + chunk(b"data: b\n\n"))
        assert [await client.chunk(), await client.chunk()] == [b"data: a\n\n", b"data: b\n\n"]

    @pytest.mark.interpreted
    async def test_what_a_full_read_leaves_is_read_too(self, lane, monkeypatch) -> None:
        """The kernel tells only once that there is something."""
        monkeypatch.setattr(pump, "RECEIVE_BYTES", 1024)
        client, peer = await streaming(lane)
        whole = chunk(b"x" * (1024 - len(chunk(b"x" * 1000)) + 1000))
        assert len(whole) == 1024
        await peer.send(3 * whole)
        for _ in range(3):
            assert chunk(await client.chunk()) == whole

    async def test_a_chunk_in_pieces(self, lane) -> None:
        """It is held back until it is whole; then the stream goes on as usual."""
        client, peer = await streaming(lane)
        whole = chunk(b"data: abcdef\n\n")
        for at in range(len(whole)):
            await peer.send(whole[at : at + 1])
        assert await client.chunk() == b"data: abcdef\n\n"
        await peer.send(chunk(b"data: x\n\n"))
        assert await client.chunk() == b"data: x\n\n"

    async def test_a_client_that_does_not_keep_up_gets_all(self, lane) -> None:
        """What its socket does not take at once is not lost, and not out of order."""
        client, peer = await streaming(lane)
        events = [b"data: " + bytes([65 + number % 26]) * 20_000 + b"\n\n" for number in range(600)]

        async def send() -> None:
            for event in events:
                await peer.send(chunk(event))
            await peer.send(LAST_CHUNK)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()  # nobody takes any more
            for event in events:
                assert await client.chunk() == event
            assert await client.chunk() == b""

    async def test_the_rest_of_a_chunk_that_the_client_took_in_part(self, lane) -> None:
        """It follows as soon as the client takes more; what comes after it follows that."""
        client, peer = await streaming(lane)
        (router_side,) = (
            c for c in lane.gateway.loop._channels.values() if type(c) is ClientSocket
        )
        sent = b""
        while not router_side.mid_send:
            event = chunk(b"%d " % len(sent) * 3000)
            await peer.send(event)
            await trio.testing.wait_all_tasks_blocked()  # it was alone in its round
            sent += event
        await peer.send(chunk(b"data: x\n\n") + LAST_CHUNK)
        sent += chunk(b"data: x\n\n") + LAST_CHUNK
        assert await client.exactly(len(sent)) == sent

    @pytest.mark.interpreted
    async def test_each_of_many_streams_gets_its_own_bytes(self, lane, monkeypatch) -> None:
        """In their order and once, although much comes in one round, and some are slow or leave."""
        monkeypatch.setattr(pump, "RECEIVE_BYTES", 1024)
        slow, leaving = range(0, 24, 4), range(1, 24, 4)
        streams = [await streaming(lane) for _ in range(24)]
        pieces = [deque(pieces_of(number)) for number in range(24)]
        rest = trio.Event()

        async def read(number: int, expected: bytes) -> None:
            if number in slow:
                await rest.wait()
            assert await streams[number][0].exactly(len(expected)) == expected

        async with trio.open_nursery() as nursery:
            for number in {*range(24)}.difference(leaving):
                nursery.start_soon(read, number, b"".join(pieces[number]))
            for turn in range(2000):
                for number, (client, peer) in enumerate(streams):  # without a wait in between
                    if turn == number in leaving:
                        client.stream.socket.close()
                    write_some(peer, pieces[number])
                await trio.lowlevel.checkpoint()
            rest.set()
            while any(pieces[number] for number in slow):
                for number in slow:
                    write_some(streams[number][1], pieces[number])
                await trio.lowlevel.checkpoint()

    async def test_a_client_that_leaves_frees_the_backend(self, lane) -> None:
        """Its connection is closed at once, although the backend is silent."""
        client, peer = await streaming(lane)
        await client.stream.aclose()
        assert await peer.rest() == b""

    async def test_a_client_that_leaves_while_a_chunk_comes(self, lane) -> None:
        """What came for it in that moment goes nowhere; other streams go on."""
        client, peer = await streaming(lane)
        other, its_peer = await streaming(lane)
        for each in (peer, its_peer):  # without a wait in between: it is one round of events
            os.write(each.stream.socket.fileno(), chunk(b"data: x\n\n"))
        client.stream.socket.close()
        assert await other.chunk() == b"data: x\n\n"
        assert await peer.rest() == b""

    @pytest.mark.interpreted
    async def test_a_bug_costs_one_stream(self, lane, monkeypatch) -> None:
        """Whatever goes wrong with a chunk, what came in the same round is sent."""

        def fail(_tail: object, _data: bytes) -> None:
            raise ValueError("a bug")

        client, peer = await streaming(lane)
        other, its_peer = await streaming(lane)
        monkeypatch.setattr(pump.Tail, "add", fail)
        usual = b"x" * pump.LEAST_PIECE_BYTES  # is kept without `Tail.add`
        os.write(peer.stream.socket.fileno(), chunk(b"x"))
        os.write(its_peer.stream.socket.fileno(), chunk(usual))
        assert await other.chunk() == usual
        assert await peer.rest() == b""
        assert await client.rest() == b""
        [crash] = [each for each in lane.events.entries if each["event"] == "connection.crashed"]
        lane.events.entries.remove(crash)  # the bug that was looked for

    @pytest.mark.parametrize("reset", [False, True])
    async def test_a_backend_that_breaks_off(self, lane, *, reset) -> None:
        """The client gets an error event and a proper end."""
        client, peer = await streaming(lane)
        if reset:
            linger = struct.pack("ii", 1, 0)
            peer.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await peer.close()
        assert b"it closed the connection mid-answer" in await client.chunk()
        assert await client.chunk() == b""

    async def test_a_last_chunk_before_the_backend_breaks_off(self, lane) -> None:
        """Bytes that come together with the end of the connection are passed on first."""
        client, peer = await streaming(lane)
        await peer.send(chunk(b"data: last\n\n"))
        await peer.close()
        assert await client.chunk() == b"data: last\n\n"
        assert b"mid-answer" in await client.chunk()

    async def test_a_malformed_chunk(self, lane) -> None:
        """It ends the stream with an error event."""
        client, peer = await streaming(lane)
        await peer.send(b"5\r\nhelloXX")
        assert b"chunked response is invalid" in await client.chunk()
        assert await client.chunk() == b""
        assert await peer.rest() == b""
