"""The table of HTTP/1.1 cases over real sockets; the backend keeps every byte that it gets."""

from __future__ import annotations

import json
import socket
from contextlib import suppress

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from llama_router.gateway import reader
from tests.http_cases import (
    ANSWERED,
    BODY,
    BROKEN,
    CHUNKED_BODY,
    CUT,
    OK,
    PLAIN,
    REFUSED,
    SERVED,
    Cut,
    Request,
    Response,
    chunked,
    get,
    length,
    post,
    up,
    up_post,
)
from tests.limits import LIMIT_S, stretched_s
from tests.process.harness import RawClient
from tests.process.lane import CONTROL, Lane, Peer, running

pytestmark = pytest.mark.process

MIB = 1024 * 1024

#: Longer messages are not sent byte by byte.
SHORT_BYTES = 600

pieces = pytest.mark.parametrize("cut", [False, True], ids=["at-once", "in-pieces"])


@pytest.fixture
async def lane():
    """A gateway with ordinary settings."""
    with trio.fail_after(LIMIT_S):
        async with running(max_body_mib=1) as lane:
            yield lane


async def send(stream: RawClient, data: bytes, *, cut: bool) -> None:
    """Send *data*, if *cut* in pieces that the gateway gets one by one."""
    if not cut:
        await stream.send(data)
        return
    size = 1 if len(data) <= SHORT_BYTES else 1000
    with suppress(trio.BrokenResourceError):  # it may have heard enough
        for at in range(0, len(data), size):
            await stream.send(data[at : at + size])
            await wait_all_tasks_blocked()


async def ask(client: RawClient, lane: Lane, peer: Peer | None) -> Peer:
    """Check that *client* and, if given, *peer* can be used for another exchange."""
    await client.send(length(b"X-Next: 1"))
    if peer is None:
        peer = await lane.peer()
    expected = lane.expected(up_post(b"X-Next: 1"))
    assert await peer.exactly(len(expected)) == expected
    await peer.send(PLAIN)
    assert await client.exactly(len(PLAIN)) == PLAIN
    return peer


class TestRequests:
    """What a client sends."""

    @pieces
    @pytest.mark.parametrize("case", SERVED, ids=str)
    async def test_a_good_request_is_passed_on(self, lane, case: Request, *, cut: bool) -> None:
        """The backend gets the expected bytes and no more; the connection ends when it must."""
        client = await lane.connect()
        await send(client, case.data, cut=cut)
        peer = await lane.peer()
        expected = lane.expected(case.upstream)
        assert await peer.exactly(len(expected)) == expected
        if case.closes:
            await client.send(get(b"X-Too-Late: 1"))
        await peer.send(PLAIN)
        if cut and b"100-continue" in case.data and b"HTTP/1.1" in case.data:
            await client.until(b"\r\n\r\n")  # the word that it waits for no more
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b"ok")
        assert (answer.fields.get("connection") == "close") is case.closes
        if case.closes:
            assert await client.rest() == b""
        else:
            await ask(client, lane, peer)
            expected += lane.expected(up_post(b"X-Next: 1"))
        assert (peer.received, lane.peers) == (expected, [peer])

    @pieces
    @pytest.mark.parametrize("case", REFUSED, ids=str)
    async def test_a_bad_request_is_refused(self, lane, case: Request, *, cut: bool) -> None:
        """It gets one answer and the end; the backend sees no byte of it, or of what follows."""
        client = await lane.connect()
        await send(client, case.data + get(), cut=cut)
        answer = await client.answer()
        assert answer.status == case.status
        assert answer.error["type"] == "invalid_request_error"
        assert answer.fields["connection"] == "close"
        assert await client.rest() == b""
        assert lane.peers == []

    @pytest.mark.parametrize("case", REFUSED, ids=str)
    async def test_a_bad_request_behind_a_good_one(self, lane, case: Request) -> None:
        """The good one is served; then the bad one is refused, and nothing behind it is read."""
        client = await lane.connect()
        with trio.move_on_after(10):  # a huge head is not taken while the good one is served
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, length() + case.data + get())
                peer = await lane.peer()
                expected = lane.expected(up_post())
                assert await peer.exactly(len(expected)) == expected
                await peer.send(PLAIN)
                assert await client.exactly(len(PLAIN)) == PLAIN
        answer = await client.answer()
        assert answer.status == case.status
        assert await client.rest() == b""
        assert (peer.received, lane.peers) == (expected, [peer])

    async def test_pipelined_requests_of_every_framing(self, lane) -> None:
        """Each gets its own answer, in order, although all came in one segment."""
        requests = [length(), chunked(CHUNKED_BODY), get(), get(b"Content-Length: 2") + b"hi"]
        upstream = [up_post(), up_post(), up(), up(b"Content-Length: 2") + b"hi"]
        client = await lane.connect()
        await client.send(b"".join(requests))
        peer = await lane.peer()
        for number, expected in enumerate(map(lane.expected, upstream)):
            assert await peer.exactly(len(expected)) == expected
            await peer.send(OK + b"Content-Length: 1\r\n\r\n%d" % number)
        assert [(await client.answer()).body for _ in requests] == [b"0", b"1", b"2", b"3"]
        assert lane.peers == [peer]

    async def test_the_next_request_waits_for_the_answer(self, lane) -> None:
        """The backend does not see a pipelined request before the one in front is answered."""
        client = await lane.connect()
        await client.send(length() * 2)
        peer = await lane.peer()
        expected = lane.expected(up_post())
        assert await peer.exactly(len(expected)) == expected
        await peer.send(PLAIN[:-1])
        await wait_all_tasks_blocked()
        assert peer.received == expected
        await peer.send(PLAIN[-1:])
        assert await peer.exactly(len(expected)) == expected
        assert lane.peers == [peer]

    async def test_head_behind_head(self, lane) -> None:
        """Answers without a body do not shift those behind them (RFC 9112, 6.3)."""
        client = await lane.connect()
        head = get(line=b"HEAD /x?model=a HTTP/1.1")
        await client.send(head * 2 + get())
        peer = await lane.peer()
        for line in (b"HEAD /x?model=a", b"HEAD /x?model=a", b"GET /x?model=a"):
            expected = lane.expected(up(line=line))
            assert await peer.exactly(len(expected)) == expected
            await peer.send(PLAIN[:-2] if line.startswith(b"HEAD") else PLAIN)
        assert await client.exactly(3 * len(PLAIN) - 4) == PLAIN[:-2] * 2 + PLAIN

    async def test_a_control_request_ends_the_connection(self, lane) -> None:
        """What is pipelined behind it is answered by nobody, and not by the backend."""
        client = await lane.connect()
        await client.send(get(line=b"GET /v1/models HTTP/1.1") + get())
        assert await client.exactly(len(CONTROL)) == CONTROL
        with suppress(trio.BrokenResourceError):  # unread bytes make it a reset
            assert await client.rest() == b""
        assert lane.peers == []

    async def test_an_empty_line_behind_a_body_is_no_request(self, lane) -> None:
        """Such a connection is idle, not slow (RFC 9112, 2.2)."""
        client = await lane.connect()
        await client.send(length() + b"\r\n")
        peer = await lane.peer()
        await peer.exactly(len(lane.expected(up_post())))
        await peer.send(PLAIN)
        assert await client.exactly(len(PLAIN)) == PLAIN
        await wait_all_tasks_blocked()
        assert len(lane.gateway.idle) == 1
        await ask(client, lane, peer)

    async def test_an_http10_client_is_told_that_an_error_does_not_close(self, lane) -> None:
        """Without the word it would wait for the end of the connection (RFC 9112, 9.3)."""
        client = await lane.connect()
        for _ in range(2):
            await client.send(length(b"Connection: keep-alive", body=b"{}", version=b"1.0"))
            answer = await client.answer()
            assert (answer.status, answer.fields["connection"]) == (400, "keep-alive")


class TestContinue:
    """Expect: 100-continue (RFC 9110, section 10.1.1)."""

    @pytest.mark.parametrize(
        ("head", "body"),
        [
            (post(b"Content-Length: 14", b"Expect: 100-continue"), BODY),
            (post(b"Transfer-Encoding: chunked", b"Expect: 100-continue"), CHUNKED_BODY),
        ],
        ids=["length", "chunked"],
    )
    async def test_a_client_that_waits_is_told_once(self, lane, head, body) -> None:
        """The word comes before the body, and the backend hears nothing of it."""
        client = await lane.connect()
        await client.send(head)
        word = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert await client.exactly(len(word)) == word
        await send(client, body, cut=True)
        peer = await lane.peer()
        expected = lane.expected(up_post())
        assert await peer.exactly(len(expected)) == expected
        await peer.send(PLAIN)
        assert await client.exactly(len(PLAIN)) == PLAIN
        await ask(client, lane, peer)

    @pytest.mark.parametrize(
        ("head", "status"),
        [
            (post(b"Content-Length: %d" % (2 * MIB), b"Expect: 100-continue"), 413),
            (post(b"Content-Length: 14", b"Expect: the-worst"), 417),
            (post(b"Content-Length: 14", b"Expect: 100-continue", b"Origin: http://evil"), 403),
        ],
        ids=["413", "417", "403"],
    )
    async def test_a_client_that_waits_is_refused(self, lane, head, status) -> None:
        """The refusal comes instead of the word; the body that may follow is no request."""
        client = await lane.connect()
        await client.send(head)
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (status, "close")
        await client.send(get())
        assert await client.rest() == b""
        assert lane.peers == []


class TestLimits:
    """Sizes and times."""

    @pytest.mark.parametrize("coding", ["length", "chunked"])
    async def test_a_body_of_just_the_limit(self, lane, coding) -> None:
        """It is passed on whole."""
        body = b'{"model": "a", "x": "'
        body += b"x" * (MIB - len(body) - 2) + b'"}'
        data = length(body=body)
        if coding == "chunked":
            data = chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        client = await lane.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, data)
            peer = await lane.peer()
            expected = lane.expected(up_post(body=body))
            assert await peer.exactly(len(expected)) == expected
        await peer.send(PLAIN)
        assert await client.exactly(len(PLAIN)) == PLAIN

    @pytest.mark.parametrize(
        "data",
        [
            post(b"Content-Length: %d" % (MIB + 1)),
            length(body=b" " * (MIB + 1)),
            chunked(b"%x\r\n" % (MIB + 1)),
            chunked(b"ffffffffffffffff\r\n"),
            chunked(b"%x\r\n%b\r\n1\r\n" % (MIB, b" " * MIB)),
        ],
        ids=["announced", "sent", "chunk-announced", "chunk-of-64-bits", "last-chunk-too-much"],
    )
    async def test_one_byte_over_the_limit(self, lane, data) -> None:
        """It is 413 as soon as that is known, and no byte of it is passed on."""
        client = await lane.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, data)
            answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert await client.rest() == b""
        assert lane.peers == []

    @pytest.mark.parametrize("part", [get()[:1], get()[:-2]], ids=["first-byte", "last-line"])
    @pytest.mark.interpreted
    async def test_a_slow_head_is_408(self, lane, monkeypatch, part) -> None:
        """Its time counts from its first byte, however often another byte comes."""
        monkeypatch.setattr(reader, "HEAD_TIMEOUT_S", 0.2)
        client = await lane.connect()
        await client.send(part)
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (408, "close")
        assert await client.rest() == b""

    @pytest.mark.parametrize(
        "part",
        [length()[:-1], chunked(CHUNKED_BODY)[:-1], chunked(b"e\r\n")],
        ids=["length", "last-chunk", "chunk"],
    )
    @pytest.mark.interpreted
    async def test_a_slow_body_is_408(self, lane, monkeypatch, part) -> None:
        """A body that stops arriving reaches no backend."""
        monkeypatch.setattr(reader, "BODY_TIMEOUT_S", 0.2)
        client = await lane.connect()
        await client.send(part)
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (408, "close")
        assert await client.rest() == b""
        assert lane.peers == []

    @pytest.mark.interpreted
    async def test_an_idle_connection_ends_without_a_word(self, lane, monkeypatch) -> None:
        """Before the first request and after the last one."""
        monkeypatch.setattr(reader, "IDLE_CONNECTION_S", 0.2)
        client = await lane.connect()
        assert await client.rest() == b""
        client = await lane.connect()
        await ask(client, lane, None)
        assert await client.rest() == b""

    async def test_a_slow_upload_that_moves_is_no_silence(self) -> None:
        """The backend may take longer than read_timeout_s for all, if it takes something."""
        body = b'{"model": "a", "x": "' + b"x" * (48 * MIB) + b'"}'
        with trio.fail_after(LIMIT_S):
            async with running(read_timeout_s=1.0, max_body_mib=64) as lane:
                client = await lane.connect()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.send, length(body=body))
                    peer = await lane.peer()
                    # Without a limit, the kernel may hold most of the body for the backend:
                    # the gateway is rid of it then, and sees no more of it move.
                    peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
                    expected = lane.expected(up_post(body=body))
                    at = 0
                    while at < len(expected):
                        data = await peer.stream.receive_some(4 * MIB)
                        assert data == expected[at : at + len(data)]
                        if at // (4 * MIB) < (at := at + len(data)) // (4 * MIB):
                            await trio.sleep(0.15)  # the silence itself is under test
                await peer.send(PLAIN)
                assert await client.exactly(len(PLAIN)) == PLAIN


class TestLeaving:
    """A client that closes a side or all."""

    @pytest.mark.parametrize("part", [b"", get()[:9], length()[:-1], chunked(b"e\r\n")[:-1]])
    async def test_an_incomplete_request_is_not_passed_on(self, lane, part) -> None:
        """The end of the connection is not the end of a request (RFC 9112, section 8)."""
        client = await lane.connect()
        await client.send(part)
        await client.stream.send_eof()
        assert await client.rest() == b""
        assert lane.peers == []

    async def test_a_bad_request_is_answered_even_so(self, lane) -> None:
        """A client that sends everything and then its end still hears what was wrong."""
        client = await lane.connect()
        await client.send(get(b"A : b"))
        await client.stream.send_eof()
        assert (await client.answer()).status == 400
        assert await client.rest() == b""

    async def test_an_answer_that_is_on_its_way_is_not_lost(self, lane) -> None:
        """A client that closes its sending side once the answer began gets what was sent."""
        client = await lane.connect()
        await client.send(length())
        peer = await lane.peer()
        await peer.exactly(len(lane.expected(up_post())))
        await peer.send(PLAIN)
        await wait_all_tasks_blocked()
        await client.stream.send_eof()
        assert await client.rest() == PLAIN

    async def test_a_half_closed_client_counts_as_gone(self, lane) -> None:
        """The backend is told by the end of its connection, and must not compute for nobody."""
        client = await lane.connect()
        await client.send(length())
        peer = await lane.peer()
        await peer.exactly(len(lane.expected(up_post())))
        await client.stream.send_eof()
        assert await peer.rest() == b""
        assert await client.rest() == b""

    async def test_draining_ends_a_connection_after_an_upload(self, lane) -> None:
        """An idle connection ends at once, also if its last request was large."""
        client = await lane.connect()
        body = b'{"model": "a", "x": "' + b"x" * 300_000 + b'"}'
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, length(body=body))
            peer = await lane.peer()
            expected = lane.expected(up_post(body=body))
            assert await peer.exactly(len(expected)) == expected
        await peer.send(PLAIN)
        assert await client.exactly(len(PLAIN)) == PLAIN
        await wait_all_tasks_blocked()
        lane.gateway.drain()
        with trio.fail_after(stretched_s(1)):
            assert await client.rest() == b""


class TestAnswers:
    """What a backend sends."""

    @pieces
    @pytest.mark.parametrize("case", ANSWERED, ids=str)
    async def test_a_good_answer_is_passed_on(self, lane, case: Response, *, cut: bool) -> None:
        """The client gets the expected bytes; both connections live on exactly if they may."""
        client = await lane.connect()
        line = case.method + b" /x?model=a HTTP/" + case.version
        await client.send(
            get(line=line) if case.method != b"POST" else length(version=case.version)
        )
        peer = await lane.peer()
        await peer.until(b"\r\n\r\n" + (BODY if case.method == b"POST" else b""))
        await send(peer, case.data, cut=cut)
        if case.ends:
            await peer.close()
        assert case.client is not None
        assert await client.exactly(len(case.client)) == case.client
        if case.closes:
            assert await client.rest() == b""
            client = await lane.connect()
        await wait_all_tasks_blocked()
        await ask(client, lane, peer if case.kept else None)
        assert len(lane.peers) == (1 if case.kept else 2)

    @pieces
    @pytest.mark.parametrize("case", BROKEN, ids=str)
    async def test_a_broken_answer_is_502(self, lane, case: Response, *, cut: bool) -> None:
        """No byte of it reaches the client, whose connection lives on; the backend's ends."""
        client = await lane.connect()
        await client.send(length())
        peer = await lane.peer()
        await peer.until(BODY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: send(peer, case.data, cut=cut))
            answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
        assert "model 'a'" in answer.error["message"]
        assert await peer.rest() == b""
        await ask(client, lane, None)

    @pieces
    @pytest.mark.parametrize("case", CUT, ids=str)
    async def test_a_body_that_breaks_off(self, lane, case: Cut, *, cut: bool) -> None:
        """The client gets a part of it and the end of its connection, never a whole body.

        Unless nothing of it was sent yet: then it gets an error, and may go on.
        """
        client = await lane.connect()
        await client.send(length())
        peer = await lane.peer()
        await peer.until(BODY)
        await send(peer, case.data, cut=cut)
        await peer.close()
        if case.broken and not cut:
            assert (await client.answer()).status == 502
            await ask(client, lane, None)
            return
        await client.send(length())  # nobody serves it
        got = await client.rest()
        assert case.data.startswith(got)
        assert got.startswith(OK + case.framing + b"\r\n")
        assert lane.peers == [peer]
        [completed] = lane.events.named("request.completed")
        assert (completed["outcome"], completed["code"]) == ("cut", "upstream_failed")

    @pytest.mark.parametrize("end", ["fin", "rst", "stay"])
    async def test_an_early_answer(self, end) -> None:
        """It is heard while the body is still on its way, however the backend closes then."""
        body = b'{"model": "a", "x": "' + b"x" * (24 * MIB) + b'"}'
        answer = b"HTTP/1.1 413 Too Much\r\nContent-Length: 2\r\n\r\nno"
        with trio.fail_after(LIMIT_S):
            async with running(max_body_mib=32) as lane:
                client = await lane.connect()
                await client.send(length(body=body))
                peer = await lane.peer()
                await peer.until(b"\r\n\r\n")
                await wait_all_tasks_blocked()
                await peer.send(answer)
                if end == "rst":  # with unread bytes, hence a reset
                    await peer.close()
                elif end == "fin":
                    await peer.stream.send_eof()
                assert await client.exactly(len(answer)) == answer
                await ask(client, lane, None)

    async def test_the_rest_of_a_body_follows_an_interim_answer(self, lane) -> None:
        """A 100 in the middle of a large body does not stop it (RFC 9110, 15.2)."""
        client = await lane.connect()
        body = b'{"model": "a", "x": "' + b"x" * 1_000_000 + b'"}'
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, length(body=body))
            peer = await lane.peer()
            expected = lane.expected(up_post(body=body))
            assert await peer.exactly(1000) == expected[:1000]
            await wait_all_tasks_blocked()
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert await peer.exactly(len(expected) - 1000) == expected[1000:]
        await peer.send(PLAIN)
        assert await client.exactly(len(PLAIN)) == PLAIN

    async def test_an_unasked_answer_on_an_idle_connection(self, lane) -> None:
        """Nobody gets it: the connection is closed, the next request has another one."""
        client = await lane.connect()
        peer = await ask(client, lane, None)
        await peer.send(PLAIN.replace(b"ok", b"NO"))
        await wait_all_tasks_blocked()
        await ask(client, lane, None)
        assert len(lane.peers) == 2


class TestStale:
    """Kept connections that the backend closes (RFC 9112, section 9.3.1)."""

    async def kept(self, lane) -> tuple[RawClient, Peer]:
        """Return a client whose request was sent on a kept connection."""
        client = await lane.connect()
        peer = await ask(client, lane, None)
        await client.send(length())
        expected = lane.expected(up_post())
        assert await peer.exactly(len(expected)) == expected
        return client, peer

    async def test_closed_before_a_byte_came(self, lane) -> None:
        """The request is sent once more, on a new connection, byte for byte the same."""
        client, peer = await self.kept(lane)
        await peer.close()
        again = await lane.peer()
        expected = lane.expected(up_post())
        assert await again.exactly(len(expected)) == expected
        await again.send(PLAIN)
        assert await client.exactly(len(PLAIN)) == PLAIN

    async def test_closed_twice(self, lane) -> None:
        """The second time it is an error: there is no third."""
        client, peer = await self.kept(lane)
        await peer.close()
        await (await lane.peer()).close()
        assert (await client.answer()).status == 502
        assert len(lane.peers) == 2

    async def test_silent_after_that(self) -> None:
        """The second connection is watched like any other: its silence is 504."""
        with trio.fail_after(LIMIT_S):
            async with running(read_timeout_s=0.3) as lane:
                client, peer = await self.kept(lane)
                await peer.close()
                await lane.peer()
                answer = await client.answer()
                assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")

    async def test_closed_while_idle(self, lane) -> None:
        """Such a connection is not even tried."""
        client = await lane.connect()
        peer = await ask(client, lane, None)
        await peer.close()
        await wait_all_tasks_blocked()
        await ask(client, lane, None)
        assert len(lane.peers) == 2

    async def test_a_new_connection_is_not_stale(self, lane) -> None:
        """One that closes without an answer is an error at once: it has seen the request."""
        client = await lane.connect()
        await client.send(length())
        await (await lane.peer()).close()
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
        assert len(lane.peers) == 1

    @pytest.mark.parametrize(
        "data",
        [b"H", PLAIN[:-10], b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 X\r\n\r\n"],
        ids=["byte", "head", "100", "102"],
    )
    async def test_closed_after_something_came(self, lane, data) -> None:
        """The request is not sent again: the backend has begun to work on it."""
        client, peer = await self.kept(lane)
        await peer.send(data)
        await wait_all_tasks_blocked()
        await peer.close()
        if data.startswith(b"HTTP/1.1 102"):
            await client.until(b"\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
        assert len(lane.peers) == 1


class TestOwnAnswers:
    """The router's own errors, as a client parses them."""

    @pytest.mark.parametrize("method", [b"GET", b"HEAD"])
    async def test_an_error_of_a_head_request_has_no_body(self, lane, method) -> None:
        """Its fields are the same, and the next answer is not shifted."""
        client = await lane.connect()
        await client.send(get(line=method + b" /x?model=nobody HTTP/1.1") + get())
        answer = await client.answer(bodiless=method == b"HEAD")
        assert answer.status == 404
        assert int(answer.fields["content-length"]) > 0
        if method == b"GET":
            assert json.loads(answer.body)["error"]["code"] == "model_not_found"
        peer = await lane.peer()
        await peer.exactly(len(lane.expected(up())))
        await peer.send(PLAIN)
        assert await client.exactly(len(PLAIN)) == PLAIN
