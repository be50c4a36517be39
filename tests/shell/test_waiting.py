"""A stream that waits is never silent for long, whatever it is made of; hours in milliseconds."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.control.ollama import bodies, requests
from llama_router.core.access.caller import UNRESTRICTED
from llama_router.core.apis.dialect import StreamDialect, StreamInfo
from llama_router.core.apis.notices import KEEPALIVE_S, MARK, WaitReporter, wants_notices
from llama_router.core.apis.ollama import OLLAMA
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.dispatch.dispatcher import Dispatcher
from llama_router.dispatch.stream_wait import StreamWait
from llama_router.errors.backends import SpawnError
from llama_router.gateway.loop.event_loop import EventLoop
from llama_router.gateway.loop.fiber import Fiber
from llama_router.gateway.sockets import ClientSocket
from llama_router.gateway.waiting import RequestWait, early_stream
from llama_router.http1 import parse_request_head
from tests.shell.test_dispatcher import FakeBackends

pytestmark = pytest.mark.process

A = ModelId("a")
LOAD_S = 100.0
#: When something is due that has nothing to say.
DUE_S = [KEEPALIVE_S * n for n in range(1, 7)]

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
COMMENT = b": waiting\n\n"
DIALECTS = {
    "/v1/chat/completions": COMMENT,
    "/v1/completions": COMMENT,
    "/completion": COMMENT,
    "/infill": COMMENT,
    "/v1/responses": COMMENT,
    "/v1/messages": PING,
    "/v1/audio/transcriptions": COMMENT,
}


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection: ours, non-blocking, and the client's."""
    with ExitStack() as stack:
        ours, theirs = map(stack.enter_context, socket.socketpair())
        ours.setblocking(False)
        yield ours, theirs


async def dispatcher_of(nursery: trio.Nursery, fake: FakeBackends) -> Dispatcher:
    dispatcher = Dispatcher(parse_config({"models": {"a": {"path": "a.gguf"}}}), fake)
    await nursery.start(dispatcher.run)
    return dispatcher


async def received(theirs: socket.socket) -> list[tuple[float, bytes]]:
    """Return the chunks that a client gets, each with the time, until the connection ends."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    chunks: list[tuple[float, bytes]] = []
    async for data in stream:
        body = data.partition(b"\r\n\r\n")[2] if data.startswith(b"HTTP/") else data
        while body:
            size, _, rest = body.partition(b"\r\n")
            chunks.append((trio.current_time(), bytes(rest[: int(size, 16)])))
            body = rest[int(size, 16) + 2 :]
    return chunks


@pytest.mark.parametrize("notices", [True, False])
@pytest.mark.parametrize("path", DIALECTS)
async def test_every_dialect(
    nursery: trio.Nursery, autojump_clock: MockClock, pair, path, notices
) -> None:
    """There is a sign of life in it each 15 s, counted from what was said last."""
    dispatcher = await dispatcher_of(nursery, FakeBackends(load_s=LOAD_S))
    loop = EventLoop()
    await nursery.start(loop.run)
    ours, theirs = pair
    head = parse_request_head(
        f"POST {path} HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n"
        f"x-notify-model-swap: {str(notices).lower()}\r\n\r\n".encode()
    )
    assert head is not None

    async def serve(fiber: Fiber) -> None:
        client = ClientSocket(loop, ours, fiber)
        waiting = RequestWait(
            loop=loop,
            dispatcher=dispatcher,
            client=client,
            head=head,
            caller=UNRESTRICTED,
            early=early_stream(
                client, head, model_name="a", stream=True, add_headers=(), close=False
            ),
        )
        with dispatcher.lease(A) as lease:
            await waiting.run(lease, A)
        client.close()

    loop.start(serve)
    chunks = await received(theirs)
    sign = DIALECTS[path]
    assert [at_s for at_s, chunk in chunks if chunk == sign] == pytest.approx(DUE_S, abs=0.5)
    said = [(round(at_s), chunk) for at_s, chunk in chunks if chunk != sign]
    assert [at_s for at_s, _ in said] == ([0, LOAD_S] if notices else [])
    assert all(b"odel 'a'" in chunk for _, chunk in said)
    assert chunks.index(next(c for c in chunks if c[1] == sign)) == notices  # after the first word


def ollama_waiting(
    dispatcher: Dispatcher,
    *,
    notices: bool,
    target: Callable[..., requests.TranslatedRequest] = requests.chat,
) -> StreamWait:
    """Return the wait of an Ollama client that has just asked for ``a``."""
    wanted = target(bodies.ChatRequest(model="a", messages=[bodies.Message(role="user")]))
    spec = dispatcher.config.models[A]
    info = StreamInfo(id="", created_s=0.0, model=wanted.model, path="/api/chat")
    reporter = WaitReporter(
        StreamDialect(OLLAMA, info),
        notices=wants_notices(str(notices).lower(), spec),
        now_s=trio.current_time(),
    )
    lease = dispatcher.lease(A)
    return StreamWait(dispatcher, lease, A, reporter, UNRESTRICTED)


@pytest.mark.parametrize("notices", [True, False])
async def test_ollama(nursery: trio.Nursery, autojump_clock: MockClock, notices) -> None:
    """The same for its lines, each of which is a piece of an answer."""
    dispatcher = await dispatcher_of(nursery, FakeBackends(load_s=LOAD_S))
    waiting = ollama_waiting(dispatcher, notices=notices)
    heard: list[tuple[float, str]] = []
    while lines := await waiting.next_lines():
        message = json.loads(lines)["message"]
        assert message["content"] == ""
        heard.append((trio.current_time(), message.get("thinking", "").replace(MARK, "")))
    told = [(0, "Loading model 'a'...\n"), (LOAD_S, "Model 'a' is ready.\n")]
    silent = [(at_s, "") for at_s in DUE_S]
    assert heard == (sorted(told + silent) if notices else silent)
    assert trio.current_time() == LOAD_S


async def test_an_ollama_client_hears_of_a_failure_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Not with the next sign of life."""
    fake = FakeBackends(load_s=7)
    fake.fails[A] = [SpawnError("no such program")]
    dispatcher = await dispatcher_of(nursery, fake)
    waiting = ollama_waiting(dispatcher, notices=False)
    with pytest.raises(SpawnError):
        await waiting.next_lines()
    assert trio.current_time() == 7
    await wait_all_tasks_blocked()
    assert not dispatcher.waits.watching
