"""Requests that reach a backend just when its process ends by itself."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio

from llama_router.backends.backend import Backend
from llama_router.errors.base import RouterError
from tests.process.harness import post
from tests.process.lane import Lane, Peer, running

pytestmark = pytest.mark.process

PATH = "/v1/x"
BODY = b'{"model": "a"}'
EVENTS = (
    b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n'
    b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
)
MESSAGE = b'{"choices": [{"message": {"role": "assistant", "content": "hi"}}]}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture
async def lane(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lane]:
    """Run a gateway; its backend is seen to end while a broken connection is being explained."""
    explain = Backend.error_for

    async def error_for(self: Backend, symptom: str) -> RouterError:
        running_lane.crash.set()
        return await explain(self, symptom)

    monkeypatch.setattr(Backend, "error_for", error_for)
    with trio.fail_after(20):
        async with running(notify_model_swap=True) as running_lane:
            yield running_lane


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def reset(peer: Peer) -> None:
    """Close a connection as the kernel does when the process has not read all of it."""
    peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await peer.close()


async def test_a_refused_connection(lane: Lane) -> None:
    """Nothing was sent: the next backend gets the request."""
    lane.ports.append(closed_port())
    client = await lane.connect()
    await client.send(post(PATH, "a"))
    peer = await lane.peer()
    await peer.send(ANSWER)
    assert (await client.answer()).body == b"ok"


async def test_a_reset_connection(lane: Lane) -> None:
    """The kernel took the request, and the process never read it."""
    client = await lane.connect()
    await client.send(post(PATH, "a"))
    await reset(await lane.peer())
    await (await lane.peer()).send(ANSWER)
    assert (await client.answer()).body == b"ok"


async def test_a_kept_connection(lane: Lane) -> None:
    """It was reset, and a new one to the same process is refused."""
    client = await lane.connect()
    await client.send(post(PATH, "a"))
    kept = await lane.peer()
    await kept.until(BODY)
    await kept.send(ANSWER)
    await client.answer()
    for backend in lane.gateway.dispatcher.ready_backends():
        backend.port = closed_port()
    await client.send(post(PATH, "a"))
    await trio.lowlevel.wait_readable(kept.stream.socket)
    await reset(kept)
    await (await lane.peer()).send(ANSWER)
    assert (await client.answer()).body == b"ok"


async def test_a_request_that_was_read_is_not_repeated(lane: Lane) -> None:
    """The process may have ended because of it, and the next one would, too."""
    client = await lane.connect()
    await client.send(post(PATH, "a"))
    peer = await lane.peer()
    await peer.until(BODY)
    await peer.close()
    assert (await client.answer()).error["code"] == "backend_exited"
    assert len(lane.peers) == 1


async def test_it_is_repeated_once(lane: Lane) -> None:
    """A model whose backends all end so is broken, and its client is told."""
    lane.ports += [closed_port(), closed_port()]
    client = await lane.connect()
    await client.send(post(PATH, "a"))
    assert (await client.answer()).error["code"] == "backend_exited"


async def test_a_stream_that_has_begun(lane: Lane) -> None:
    """It goes on with the answer of the next backend, under one head."""
    lane.ports.append(closed_port())
    client = await lane.connect()
    await client.send(post("/v1/chat/completions", "a", stream=True))
    await (await lane.peer()).send(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 14\r\n\r\n"
        b"data: [DONE]\n\n"
    )
    body = (await client.answer()).body
    assert b"HTTP/1.1" not in body
    assert body.count(b"reasoning_content") > 1
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
async def test_in_ollamas_api(start, stage, monkeypatch, stream: bool) -> None:  # noqa: FBT001 -- parametrized
    """A request that the router translates has the same second chance."""
    path = "/v1/chat/completions"
    router = await start({"a": stage.model("a", "--script", path)})
    await router.ask(post("/v1/echo", "a"))
    doomed, process = await stage.backend("a"), router.running.dispatcher.ready_backends()[0]
    explain = Backend.error_for

    async def error_for(self: Backend, symptom: str) -> RouterError:
        if self is process and not doomed.ended.is_set() and "accept" in symptom:
            await doomed.exit(1)
        return await explain(self, symptom)

    monkeypatch.setattr(Backend, "error_for", error_for)
    process.port = closed_port()
    client = await router.connect()
    asked = [{"role": "user", "content": "hello"}]
    await client.send(post("/api/chat", "a", messages=asked, stream=stream))
    script = await (await stage.backend("a")).request()
    kind, body = (b"text/event-stream", EVENTS) if stream else (b"application/json", MESSAGE)
    await script.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b"
        % (kind, len(body), body)
    )
    answer = await client.answer()
    assert answer.status == 200
    assert b'"content":"hi"' in answer.body
