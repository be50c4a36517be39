"""Bodies below /upstream/ are passed on while they arrive, both ways at the same time."""

from __future__ import annotations

import pytest
import trio

from llama_router.gateway import upload as passage
from tests.limits import LIMIT_S
from tests.process.harness import RawClient, request
from tests.process.lane import Lane, Peer, running

pytestmark = pytest.mark.process

MIB = 1024 * 1024
CHUNKED = {"transfer_encoding": "chunked"}
ANSWER = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
async def lane():
    """A gateway that holds no body of more than a mebibyte."""
    with trio.fail_after(LIMIT_S):
        async with running(max_body_mib=1, read_timeout_s=5) as lane:
            yield lane


def upload(**fields: str) -> bytes:
    """Return the head of an upload."""
    return request("POST", "/upstream/a/v1/up?x=1", **fields)


async def begun(lane: Lane, data: bytes) -> tuple[RawClient, Peer]:
    """Send the beginning of an upload; return both ends, once the backend has the head."""
    client = await lane.connect()
    await client.send(data)
    peer = await lane.peer()
    head = await peer.until(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/up?x=1 HTTP/1.1\r\nHost: 127.0.0.1")
    return client, peer


async def answered(peer: Peer, client: RawClient) -> None:
    """Let the backend answer, and end both connections."""
    await peer.send(ANSWER + b"2\r\nok\r\n0\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.fields["connection"] == "close"
    assert await client.rest() == b""
    assert await peer.rest() == b""


class TestUp:
    """The backend gets each piece when it comes."""

    async def test_by_length(self, lane) -> None:
        """The length is announced as the client announced it."""
        client, peer = await begun(lane, upload(content_length="6") + b"ab")
        assert b"Content-Length: 6\r\n" in peer.received
        assert await peer.exactly(2) == b"ab"
        await client.send(b"cd")
        assert await peer.exactly(2) == b"cd"
        await client.send(b"efGET /admin/ HTTP/1.1\r\n\r\n")  # what follows is nobody's
        assert await peer.exactly(2) == b"ef"
        await answered(peer, client)

    async def test_by_chunks(self, lane) -> None:
        """They are framed anew; extensions and trailers end here."""
        client, peer = await begun(lane, upload(**CHUNKED) + b"3;x=y\r\nab")
        assert b"Transfer-Encoding: chunked\r\n" in peer.received
        assert b"Content-Length" not in peer.received
        assert await peer.exactly(7) == b"2\r\nab\r\n"
        await client.send(b"c\r\n1\r\nd\r\n")
        assert await peer.chunk() == b"cd"
        await client.send(b"0\r\nx-trailer: y\r\n\r\n")
        assert await peer.chunk() == b""
        await answered(peer, client)

    async def test_a_body_of_any_size(self, lane) -> None:
        """No limit counts, because nothing is kept; the backend sets the pace."""
        data = bytes(range(256)) * (MIB // 256)
        client, peer = await begun(lane, upload(content_length=str(8 * MIB)))
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                for _ in range(8):
                    await client.send(data)

            for _ in range(8):
                assert await peer.exactly(MIB) == data
        await answered(peer, client)

    async def test_expectations(self, lane) -> None:
        """Who waits for a 100 gets it when the backend is there."""
        client = await lane.connect()
        await client.send(upload(content_length="2", expect="100-continue"))
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"ab")
        peer = await lane.peer()
        await peer.until(b"\r\n\r\nab")
        assert b"expect" not in peer.received
        await answered(peer, client)


class TestBothWays:
    """The answer does not wait for the end of the request."""

    async def test_an_echo(self, lane) -> None:
        """Each piece comes back before the next one is sent."""
        client, peer = await begun(lane, upload(**CHUNKED))
        await peer.send(ANSWER)
        assert (await client.head()).status == 200
        for piece in (b"one", b"two", b"three"):
            await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            assert await peer.chunk() == piece
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            assert await client.chunk() == piece
        await client.send(b"0\r\n\r\n")
        assert await peer.chunk() == b""
        await peer.send(b"0\r\n\r\n")
        assert await client.chunk() == b""
        assert await client.rest() == b""

    async def test_much_at_once(self, lane) -> None:
        """Neither way waits for the other."""
        data = bytes(range(256)) * (4 * MIB // 256)
        client, peer = await begun(lane, upload(content_length=str(len(data))))
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(data))
        assert (await client.head()).status == 200
        got: list[bytes] = []

        async def echo() -> None:
            left = len(data)
            while left:
                piece = await peer.exactly(min(left, MIB))
                left -= len(piece)
                await peer.send(piece)

        async def read() -> None:
            got.append(await client.exactly(len(data)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo)
            nursery.start_soon(read)
            await client.send(data)
        assert got == [data]
        assert await client.rest() == b""

    async def test_an_early_refusal(self, lane) -> None:
        """It reaches the client, although that has not sent everything."""
        client, peer = await begun(lane, upload(content_length="100") + b"x" * 10)
        await peer.exactly(10)
        await peer.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await peer.close()
        answer = await client.answer()
        assert (answer.status, answer.body) == (413, b"no")
        assert await client.rest() == b""

    async def test_interim_answers(self, lane) -> None:
        """They pass, except for the one that is for this hop."""
        client, peer = await begun(lane, upload(content_length="2") + b"a")
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        assert (await client.head()).status == 103
        await client.send(b"b")
        assert await peer.exactly(2) == b"ab"
        await answered(peer, client)


class TestWhenItGoesWrong:
    """Both sides hear of it, and nothing is left."""

    async def test_the_client_leaves(self, lane) -> None:
        """The backend sees that its request breaks off."""
        client, peer = await begun(lane, upload(content_length="10") + b"ab")
        assert await peer.exactly(2) == b"ab"
        await client.stream.aclose()
        assert await peer.rest() == b""
        await lane.events.wait("request.completed", outcome="client_gone")

    async def test_a_broken_chunk(self, lane) -> None:
        """400, and the backend gets no more of it."""
        client, peer = await begun(lane, upload(**CHUNKED) + b"2\r\nab\r\n")
        assert await peer.chunk() == b"ab"
        await client.send(b"zz\r\n")
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")
        assert await peer.rest() == b""

    async def test_a_broken_chunk_in_the_answer_already(self, lane) -> None:
        """An event stream ends with an error event."""
        client, peer = await begun(lane, upload(**CHUNKED))
        await peer.send(ANSWER.replace(b"\r\n\r\n", b"\r\ncontent-type: text/event-stream\r\n\r\n"))
        await client.head()
        await client.send(b"zz\r\n")
        assert b'"code":"invalid_request"' in await client.chunk()
        assert await client.chunk() == b""
        assert await client.rest() == b""
        done = await lane.events.wait("request.completed")
        assert (done["outcome"], done["code"]) == ("cut", "invalid_request")

    async def test_the_client_falls_silent(self, lane, monkeypatch) -> None:
        """408 before anything was answered."""
        monkeypatch.setattr(passage, "UPLOAD_TIMEOUT_S", 0.2)
        client, peer = await begun(lane, upload(content_length="10") + b"ab")
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (408, "request_timeout")
        assert await peer.exactly(3) == b"ab"

    async def test_the_backend_falls_silent(self) -> None:
        """504 once it has everything."""
        with trio.fail_after(LIMIT_S):
            async with running(read_timeout_s=0.3) as lane:
                client, peer = await begun(lane, upload(content_length="4") + b"ab")
                await client.send(b"cd")
                assert await peer.exactly(4) == b"abcd"
                answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")

    async def test_the_backend_closes(self, lane) -> None:
        """502 without an answer."""
        client, peer = await begun(lane, upload(content_length="4") + b"ab")
        await peer.exactly(2)
        await peer.close()
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (502, "upstream_failed")

    async def test_the_backend_closes_in_its_answer(self, lane) -> None:
        """The client sees that something is missing."""
        client, peer = await begun(lane, upload(content_length="4") + b"ab")
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        head = await client.head()
        assert head.fields["content-length"] == "10"
        await peer.close()
        assert await client.rest() == b"half"

    async def test_a_model_that_is_not_there(self, lane) -> None:
        """404 at once; the connection ends, because the body is still on its way."""
        client = await lane.connect()
        await client.send(request("POST", "/upstream/b/x", content_length="100") + b"ab")
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (404, "close")
        assert await client.rest() == b""

    async def test_no_slash_behind_the_name(self, lane) -> None:
        """The client is sent elsewhere; what it is still sending is nobody's."""
        client = await lane.connect()
        await client.send(request("POST", "/upstream/a", content_length="100") + b"ab")
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (307, "close")
        assert await client.rest() == b""
