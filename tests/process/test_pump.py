"""A stream in its usual course, and each way out of it, on real sockets."""

from __future__ import annotations

import itertools
import os
import socket
import struct

import pytest
import trio
import trio.testing

from llama_router.gateway import pump
from llama_router.gateway.shaper import LAST_CHUNK, chunk
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
    with trio.fail_after(20):
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

    async def test_each_of_many_streams_gets_its_own_bytes(self, lane, monkeypatch) -> None:
        """In their order and once, however the pieces come, and whoever is slow or has left."""
        monkeypatch.setattr(pump, "RECEIVE_BYTES", 1024)
        streams = [await streaming(lane) for _ in range(24)]
        wholes = [
            b"".join(chunk(b"%d:%d " % (number, at) * (at % 90 + 1)) for at in range(400))
            for number in range(len(streams))
        ]
        sizes = itertools.cycle((1, 300, 1024, 7, 5000, 40, 2048, 1023))
        full = trio.Event()
        ends = 0

        async def play(peer: Peer, whole: bytes) -> None:
            at = 0
            while at < len(whole):
                size = next(sizes)
                await peer.send(whole[at : at + size])
                at += size
            await peer.send(LAST_CHUNK)

        async def read(number: int, client: RawClient) -> None:
            nonlocal ends
            if number % 4 == 1:
                await full.wait()  # it takes nothing until all others have all
            whole = wholes[number] + LAST_CHUNK
            assert await client.exactly(len(whole)) == whole
            ends += 1
            if ends == 12:
                full.set()

        async with trio.open_nursery() as nursery:
            for number, (client, peer) in enumerate(streams):
                if number % 4 == 3:
                    nursery.start_soon(peer.send, chunk(b"data: x\n\n"))
                    await client.stream.aclose()
                    continue
                nursery.start_soon(play, peer, wholes[number])
                nursery.start_soon(read, number, client)

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
