"""Memory for bodies: it comes with their bytes, is shared by all, and is given back."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from llama_router.gateway import reader
from tests.process.harness import RawClient, request
from tests.process.lane import Lane, Peer, running

pytestmark = pytest.mark.process

MIB = 1024 * 1024
TARGET = "/v1/chat/completions"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
async def lane() -> AsyncIterator[Lane]:
    """A gateway that holds a mebibyte of bodies and lets each have two."""
    with trio.fail_after(30):
        async with running(max_body_mib=2, max_bodies_mib=1) as lane:
            yield lane


def body(size_bytes: int) -> bytes:
    """Return a request's body of that size."""
    begin, end = b'{"model": "a", "x": "', b'"}'
    return begin + b"x" * (size_bytes - len(begin) - len(end)) + end


def head(size_bytes: int) -> bytes:
    """Return the head of such a request."""
    return request("POST", TARGET, content_length=str(size_bytes), content_type="application/json")


async def until(holds: Callable[[], bool]) -> None:
    """Wait until *holds*, which this process makes true: its gateway is idle then."""
    while not holds():
        await wait_all_tasks_blocked(0.001)


async def sent(lane: Lane, size_bytes: int, part_bytes: int) -> RawClient:
    """Send the beginning of a request; return its client once the gateway has that."""
    client = await lane.connect()
    before = lane.gateway.loop.bodies.held_bytes
    await client.send(head(size_bytes) + body(size_bytes)[:part_bytes])
    await until(lambda: lane.gateway.loop.bodies.held_bytes - before >= part_bytes)
    return client


async def answered(peer: Peer, client: RawClient) -> None:
    """Let the backend answer the next request, which is that of *client*."""
    await peer.until(b'"}')
    await peer.send(ANSWER)
    assert (await client.answer()).status == 200


def resident_bytes() -> int:
    """Return how much memory of this process is in use."""
    with open("/proc/self/statm", "rb") as statm:  # noqa: PTH123 -- it never blocks
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_head_claims_no_memory() -> None:
    """A hundred that announce 64 MiB each, and send one byte of it."""
    with trio.fail_after(30):
        async with running() as lane:
            bodies = lane.gateway.loop.bodies
            gc.collect()
            before = resident_bytes()
            clients = [await lane.connect() for _ in range(100)]
            for client in clients:
                await client.send(head(64 * MIB) + b"{")
            await until(lambda: bodies.held_bytes >= 100 * reader.FIRST_STEP_BYTES)
            assert bodies.held_bytes <= 100 * 2 * reader.FIRST_STEP_BYTES
            assert resident_bytes() - before < 16 * MIB


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
async def test_a_body_holds_not_much_more_than_what_came(lane, chunked) -> None:
    """Whether its length is announced or not."""
    client = await lane.connect()
    part = body(2 * MIB)[:200_000]
    if chunked:
        begin = request("POST", TARGET, transfer_encoding="chunked") + b"%x\r\n" % (2 * MIB)
    else:
        begin = head(2 * MIB)
    bodies = lane.gateway.loop.bodies
    await client.send(begin + part)
    await until(lambda: bodies.held_bytes >= len(part))
    assert bodies.held_bytes <= (1 + reader.GROWTH) * len(part)


async def test_one_body_that_is_over_the_budget_passes(lane) -> None:
    """It has its own limit, and is alone."""
    client = await lane.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, head(2 * MIB) + body(2 * MIB))
        await answered(await lane.peer(), client)


async def test_a_body_waits_until_there_is_room(lane) -> None:
    """It gets it when the one before has its answer."""
    first = await sent(lane, MIB + 100_000, MIB + 50_000)
    second = await lane.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second.send, head(500_000) + body(500_000))
        await until(lambda: bool(lane.gateway.loop.bodies._waiting))
        assert lane.peers == []
        await first.send(body(MIB + 100_000)[MIB + 50_000 :])
        peer = await lane.peer()
        await answered(peer, first)
        await answered(peer, second)  # on the same connection


@pytest.mark.interpreted
async def test_a_body_that_gets_no_room_is_refused(lane, monkeypatch) -> None:
    """The client is told so, and when to come again."""
    monkeypatch.setattr(reader, "ROOM_TIMEOUT_S", 0.2)
    await sent(lane, MIB + 100_000, MIB + 50_000)
    client = await lane.connect()
    await client.send(head(500_000) + b"{")
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (503, "bodies_full")
    assert answer.error["type"] == "server_error"
    assert answer.fields["retry-after"] == "5"
    assert "max_bodies_mib" in answer.error["message"]


@pytest.mark.interpreted
async def test_no_room_is_said_before_the_client_sends(lane, monkeypatch) -> None:
    """Who expects a 100 keeps its body."""
    monkeypatch.setattr(reader, "ROOM_TIMEOUT_S", 0.2)
    await sent(lane, MIB + 100_000, MIB + 50_000)
    client = await lane.connect()
    await client.send(request("POST", TARGET, content_length="500000", expect="100-continue"))
    assert (await client.answer()).status == 503


async def test_a_client_that_leaves_while_it_waits_is_forgotten(lane) -> None:
    """So is what it held."""
    bodies = lane.gateway.loop.bodies
    first = await sent(lane, MIB + 100_000, MIB + 50_000)
    second = await lane.connect()
    await second.send(head(500_000) + b"{")
    await until(lambda: bool(bodies._waiting))
    await second.stream.aclose()
    await lane.events.wait("request.completed", outcome="client_gone")
    await first.stream.aclose()
    await until(lambda: bodies.held_bytes == 0)


async def test_bodies_that_are_half_here_do_not_block_each_other(lane) -> None:
    """They are completed one by one."""
    size_bytes = 300_000
    clients = [await lane.connect() for _ in range(12)]

    async def finish(client: RawClient) -> None:
        await client.send(body(size_bytes)[size_bytes // 2 :])
        assert (await client.answer()).status == 200

    async def serve() -> None:
        for _ in clients:
            peer = await lane.peer()
            serving.start_soon(serve_one, peer)

    async def serve_one(peer: RawClient) -> None:
        with trio.CancelScope() as scope:
            while True:
                await peer.until(b'"}')
                await peer.send(ANSWER)
        assert not scope.cancelled_caught

    for client in clients:
        await client.send(head(size_bytes) + body(size_bytes)[: size_bytes // 2])
    await until(lambda: bool(lane.gateway.loop.bodies._waiting))
    async with trio.open_nursery() as serving:
        serving.start_soon(serve)
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(finish, client)
        serving.cancel_scope.cancel()


async def test_a_body_is_let_go_when_its_answer_begins(lane) -> None:
    """A stream may take minutes; its request is not needed any more."""
    client = await lane.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, head(2 * MIB) + body(2 * MIB))
        peer = await lane.peer()
        await peer.until(b'"}')
    assert lane.gateway.loop.bodies.held_bytes > MIB
    await peer.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
    await client.until(b"ok\r\n")
    assert lane.gateway.loop.bodies.held_bytes == 0


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunks"])
@pytest.mark.interpreted
async def test_a_trickle_is_408(lane, monkeypatch, chunked) -> None:
    """Bytes that come all the time, but too few of them, do not keep a body in memory."""
    monkeypatch.setattr(reader, "BODY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(reader, "PROGRESS_BYTES", 10 * MIB)
    client = await lane.connect()
    drop = b"1\r\nx\r\n" if chunked else b"x"
    begin = request("POST", TARGET, transfer_encoding="chunked") if chunked else head(2 * MIB)

    async def trickle() -> None:
        await client.send(begin)
        while True:
            await client.send(drop)
            await wait_all_tasks_blocked(0.001)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        assert (await client.answer()).status == 408
        nursery.cancel_scope.cancel()


HEAVY = {
    "fields": b"{" + b'"":0,' * 400_000 + b'"model":"a"}',
    "form": b"".join(
        b"--X\r\ncontent-disposition:form-data" + b";a=b" * 16 + b";name=x\r\n\r\n1\r\n"
        for _ in range(1000)
    ),
    "near delimiters": b"--X\r\n\r\n\r\n" + b"\r\n--Xa" * 250_000,
}
"""Bodies of two megabytes at most that are hard to look into."""


@pytest.mark.parametrize("name", HEAVY)
async def test_a_hard_body_is_refused(lane, name: str) -> None:
    """With a sentence, after steps that are short."""
    client = await lane.connect()
    kind = "application/json" if name == "fields" else "multipart/form-data; boundary=X"
    data = request("POST", TARGET, HEAVY[name], content_type=kind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(_send_all, client, data))
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")
        nursery.cancel_scope.cancel()


async def _send_all(client: RawClient, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError):  # it may be answered meanwhile
        await client.send(data)
