"""The gateway alone, on real sockets, and a backend in the test's process that is bytes only."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from llama_router.backends.backend import Backend, BackendReady, LaunchEvent
from llama_router.core.access.gate import Gate
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec
from llama_router.core.requests.control_request import ControlRequest
from llama_router.dispatch.dispatcher import Dispatcher
from llama_router.errors.backends import BackendExitedError
from llama_router.gateway.gateway import Gateway
from llama_router.gateway.server import ListenerSet, listen, serve
from tests.http_cases import HOST
from tests.process.harness import BUGS, Events, RawClient

#: What the control plane of these tests answers.
CONTROL = b"HTTP/1.1 200 Control\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Peer(RawClient):
    """One connection from the gateway to the backend.

    Attributes:
        number: Which one it is, from 0.
        received: Every byte that came.
    """

    def __init__(self, stream: trio.SocketStream, number: int) -> None:
        super().__init__(stream)
        self.number = number
        self.received = b""
        self._closed = trio.Event()

    async def _more(self) -> bool:
        before = len(self._buffer)
        try:
            more = await super()._more()
        except trio.BrokenResourceError:
            more = False
        self.received += self._buffer[before:]
        return more

    async def close(self) -> None:
        """Close it."""
        await self.stream.aclose()
        self._closed.set()

    async def hold(self) -> None:
        """Return once it was closed."""
        await self._closed.wait()


@attrs.define(eq=False)
class Lane:
    """A running gateway with one model, ``a``.

    Attributes:
        gateway: The gateway.
        port: Where it listens.
        host: What it puts into ``Host`` for the backend.
        peers: Its connections to the backend, oldest first.
        events: What was logged.
        crash: Ends the running backend as if its process had crashed.
        ports: Ports of the next backends; those after them listen.
    """

    gateway: Gateway
    port: int
    host: bytes
    events: Events
    peers: list[Peer] = attrs.field(factory=list)
    crash: trio.Event = attrs.field(factory=trio.Event)
    ports: list[int] = attrs.field(factory=list)
    _arrivals: Any = attrs.field(factory=lambda: trio.open_memory_channel[Peer](math.inf))
    _clients: list[RawClient] = attrs.field(factory=list)

    async def connect(self) -> RawClient:
        """Return a new connection of a client."""
        client = RawClient(await trio.open_tcp_stream("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    async def peer(self) -> Peer:
        """Return the next connection to the backend."""
        peer = await self._arrivals[1].receive()
        assert isinstance(peer, Peer)
        return peer

    def expected(self, upstream: bytes) -> bytes:
        """Return *upstream* with the backend's address in it."""
        return upstream.replace(HOST, self.host)

    async def accept(self, stream: trio.SocketStream) -> None:
        """Hold one connection from the gateway for the test."""
        peer = Peer(stream, len(self.peers))
        self.peers.append(peer)
        self._arrivals[0].send_nowait(peer)
        await peer.hold()

    async def close(self) -> None:
        """Let all clients leave."""
        for client in self._clients:
            await trio.aclose_forcefully(client.stream)


async def _control(
    stream: trio.SocketStream, request: ControlRequest, moving: Callable[[], None]
) -> None:
    """Answer in the place of the control plane."""
    assert request.target.startswith(b"/")
    async with stream:
        await stream.send_all(CONTROL)
        moving()


@asynccontextmanager
async def running(**router: object) -> AsyncIterator[Lane]:
    """Run a gateway; at the end it must have nothing left, and nothing may have crashed.

    Args:
        router: The ``[router]`` table.
    """
    model = {"path": "a.gguf", "spawn": {"proxy_endpoints": []}}
    config = parse_config({"router": router, "models": {"a": model}})
    events = Events()
    async with trio.open_nursery() as nursery:

        async def launch(spec: ModelSpec, report: Callable[[LaunchEvent], None]) -> None:
            now_s = trio.current_time()
            backend = Backend(
                model=spec.id,
                spec=spec,
                host="127.0.0.1",
                port=lane.ports.pop(0) if lane.ports else backend_port,
                pid=1,
                spawned_s=now_s,
                ready_s=now_s,
            )
            report(BackendReady(backend))
            try:
                await lane.crash.wait()
            except trio.Cancelled:
                backend.end(None)
                raise
            lane.crash = trio.Event()
            raise BackendExitedError("a", 1)

        dispatcher = Dispatcher(config, launch)
        gateway = Gateway(dispatcher, Gate(config, own_hosts=(), admin_token="t"), _control)
        listeners = listen(["127.0.0.1"], 0).sockets
        backends = await trio.open_tcp_listeners(0, host="127.0.0.1")
        backend_port = backends[0].socket.getsockname()[1]
        lane = Lane(
            gateway,
            listeners[0].getsockname()[1],
            b"127.0.0.1:%d" % backend_port,
            events,
        )
        with events.captured():
            await nursery.start(dispatcher.run)
            nursery.start_soon(trio.serve_listeners, lane.accept, backends)
            async with trio.open_nursery() as serving:
                await serving.start(serve, gateway, ListenerSet(listeners))
                try:
                    yield lane
                finally:
                    await lane.close()
                gateway.drain()
        nursery.cancel_scope.cancel()
    assert [entry for entry in events.entries if entry["event"] in BUGS] == []
    assert_empty(gateway)


def assert_empty(gateway: Gateway) -> None:
    """Check that nothing of any connection is left in the loop."""
    loop = gateway.loop
    assert loop.bodies.held_bytes == 0
    assert not loop._fibers
    assert not loop._channels
    assert not loop._ready
    assert not loop._deferred
    assert not gateway.idle
    assert not any(loop._buckets.values())
