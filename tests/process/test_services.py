"""A router in front of services that it did not start."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import httpx
import pytest
import trio

from tests.process.harness import LIMIT_S, Answer, RawClient, Router, post, request

pytestmark = pytest.mark.process

CHAT = "/v1/chat/completions"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@attrs.define(eq=False)
class Service:
    """A server of the test: it answers questions about its health, and hands on requests.

    Attributes:
        listener: Where it listens.
        health: Its answers by path; None for no answer at all.
        models: The names in its list of models.
        paths: The paths of the questions, each with its ``authorization``.
    """

    listener: trio.SocketListener
    health: dict[str, int | None] = attrs.field(factory=lambda: {"/health": 200})
    models: list[str] = attrs.field(factory=list)
    paths: list[tuple[str, str | None]] = attrs.field(factory=list)
    _requests: tuple[
        trio.MemorySendChannel[tuple[Answer, trio.SocketStream]],
        trio.MemoryReceiveChannel[tuple[Answer, trio.SocketStream]],
    ] = attrs.field(factory=lambda: trio.open_memory_channel[tuple[Answer, trio.SocketStream]](99))

    @property
    def url(self) -> str:
        """Return its URL."""
        name = self.listener.socket.getsockname()
        return f"unix:{name}" if isinstance(name, str) else f"http://127.0.0.1:{name[1]}"

    async def request(self) -> tuple[Answer, trio.SocketStream]:
        """Return the next request for a model, and the connection to answer it on."""
        return await self._requests[1].receive()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        task_status.started()
        await trio.serve_listeners(self._serve, [self.listener])

    async def _serve(self, stream: trio.SocketStream) -> None:
        client = RawClient(stream)
        head = (await client.until(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        fields = {name.lower(): value for name, _, value in (ln.partition(": ") for ln in lines)}
        method, path, _ = first.split(" ")
        if method == "POST":
            body = await client.exactly(int(fields["content-length"]))
            fields["path"] = path
            await self._requests[0].send((Answer(0, fields, body), stream))
            await trio.sleep_forever()
        self.paths.append((path, fields.get("authorization")))
        status = self.health.get(path, 404)
        if status is None:
            await trio.sleep_forever()
        body = json.dumps({"data": [{"id": name} for name in self.models]}).encode()
        await stream.send_all(
            b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)
        )
        await stream.aclose()


Open = Callable[..., Awaitable[Service]]


@asynccontextmanager
async def services() -> AsyncIterator[Open]:
    """Yield what starts services; they end with the block."""
    async with trio.open_nursery() as nursery:

        async def start(path: Path | None = None) -> Service:
            if path is None:
                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            else:
                bound = socket.socket(socket.AF_UNIX)
                bound.bind(str(path))
                bound.listen()
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
            service = Service(listener)
            await nursery.start(service.run)
            return service

        yield start
        nursery.cancel_scope.cancel()


@pytest.fixture
async def serving() -> AsyncIterator[Open]:
    """Start services; they end with the test."""
    async with services() as start:
        yield start


async def answer(stream: trio.SocketStream, body: bytes) -> None:
    """Answer a request with JSON."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    await stream.send_all(head % len(body) + body)


async def ask(router: Router, data: bytes, service: Service) -> tuple[Answer, Answer]:
    """Send *data*; return what the service got, and the answer."""
    client = await router.connect()
    await client.send(data)
    got, stream = await service.request()
    await answer(stream, b'{"ok": true}')
    return got, await client.answer()


async def test_a_request_reaches_the_service(start, serving, tmp_path) -> None:
    """With its path, its name of the model and its key; the client's key stays here."""
    service = await serving()
    (tmp_path / "key").write_text("sesame-42\n")
    table = {
        "url": f"{service.url}/pre/v1",
        "key_file": str(tmp_path / "key"),
        "upstream_model": "org/m",
        "aliases": ["x"],
    }
    service.health = {"/pre/health": 200}
    router = await start({"a": table})
    data = post(CHAT, "x", n=1).replace(b"\r\n\r\n", b"\r\nauthorization: Bearer mine\r\n\r\n", 1)
    got, received = await ask(router, data, service)
    assert (received.status, received.json()) == (200, {"ok": True})
    assert got.fields["path"] == f"/pre{CHAT}"
    assert got.fields["host"] == service.url.removeprefix("http://")
    assert got.fields["authorization"] == "Bearer sesame-42"
    assert json.loads(got.body) == {"model": "org/m", "n": 1}
    assert set(service.paths) == {("/pre/health", "Bearer sesame-42")}
    assert "sesame-42" not in str(router.events.entries)


async def test_a_stream_through_a_unix_socket(start, serving, tmp_path) -> None:
    """Chunk by chunk; the path of its health is found out."""
    service = await serving(tmp_path / "s")
    service.health = {"/v1/models": 200}
    router = await start({"a": {"url": service.url}})
    client = await router.connect()
    await client.send(post(CHAT, "a", stream=True))
    _, stream = await service.request()
    await stream.send_all(STREAM + b"9\r\ndata: 1\n\n\r\n")
    assert (await client.head()).status == 200
    assert await client.chunk() == b"data: 1\n\n"
    await stream.send_all(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
    assert await client.chunk() == b"data: 2\n\n"
    assert await client.chunk() == b""
    assert [path for path, _ in service.paths] == ["/health", "/v1/models"]


async def test_nothing_listens(start, serving) -> None:
    """The client is told which service, and when to come back; the router itself is ready."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    router = await start({"a": {"url": url}})
    refused = await router.ask(post(CHAT, "a"))
    assert refused.status == 503
    assert refused.error["code"] == "service_down"
    assert (
        f"'a' at {url} does not accept connections: [Errno 111] Connection refused;"
        in refused.error["message"]
    )
    assert int(refused.fields["retry-after"]) >= 1
    assert (await router.ask(request("GET", "/readyz"))).status == 200
    assert router.events.named("backend.failed") == []


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        ({"/health": 503}, "answered /health with status 503"),
        ({"/health": 401}, "set 'key' or 'key_file'"),
        ({}, "'health_endpoint'"),
    ],
)
async def test_it_does_not_serve(start, serving, health, reason) -> None:
    """The error names what its health check found."""
    service = await serving()
    service.health = health
    router = await start({"a": {"url": service.url}})
    refused = await router.ask(post(CHAT, "a"))
    assert (refused.status, refused.error["code"]) == (503, "service_down")
    assert reason in refused.error["message"]


async def test_it_says_nothing(start, serving) -> None:
    """A request waits for its health check no longer than for a connection."""
    service = await serving()
    service.health = {"/health": None}
    router = await start({"a": {"url": service.url}}, connection_timeout_s=0.2)
    refused = await router.ask(post(CHAT, "a"))
    assert "did not answer /health within 0.2 s" in refused.error["message"]


async def test_it_comes_back(start, serving) -> None:
    """As soon as a question finds it."""
    service = await serving()
    service.health = {"/health": 503}
    router = await start({"a": {"url": service.url, "health_period_s": 0.05}})
    await router.events.wait("service.down", models=["a"])
    service.health = {"/health": 200}
    await router.events.wait("service.up", models=["a"])
    _, received = await ask(router, post(CHAT, "a"), service)
    assert received.status == 200


async def test_a_service_that_breaks_mid_stream(start, serving) -> None:
    """The client gets an error event and a proper end."""
    service = await serving()
    router = await start({"a": {"url": service.url}})
    client = await router.connect()
    await client.send(post(CHAT, "a", stream=True))
    _, stream = await service.request()
    await stream.send_all(STREAM + b"9\r\ndata: 1\n\n\r\n")
    await client.head()
    await client.chunk()
    await stream.aclose()
    rest = b""
    while data := await client.chunk():
        rest += data
    assert b"the service of model 'a'" in rest
    assert b"mid-answer" in rest


async def test_the_lists_and_the_status(start, serving) -> None:
    """It is loaded where clients look, and has no process where people look."""
    service = await serving()
    router = await start({"a": {"url": service.url, "max_in_flight": 3}})
    await router.events.wait("service.up")
    listed = (await router.ask(request("GET", "/v1/models"))).json()["data"]
    assert [(each["id"], each["status"]["value"]) for each in listed] == [("a", "loaded")]
    token = (router.path.parent / "state" / "admin-token").read_text().strip()
    status = await router.ask(request("GET", "/admin/status", authorization=f"Bearer {token}"))
    (row,) = status.json()["models"]
    assert (row["phase"], row["pid"], row["port"], row["max_in_flight"]) == ("ready", None, None, 3)
    assert row["url"] == service.url
    plan = await router.ask(request("GET", "/admin/plan", authorization=f"Bearer {token}"))
    assert plan.status == 200, plan.body


async def test_a_variable_holds_the_key(start, serving, monkeypatch) -> None:
    """A missing one is said by its name; the model works once it is there."""
    monkeypatch.delenv("A_KEY", raising=False)
    service = await serving()
    table = {"url": service.url, "key": "${env.A_KEY}", "health_period_s": 0.05}
    router = await start({"a": table})
    refused = await router.ask(post(CHAT, "a"))
    assert "variable A_KEY" in refused.error["message"]
    monkeypatch.setitem(os.environ, "A_KEY", "sesame-42")
    await router.events.wait("service.up")
    got, _ = await ask(router, post(CHAT, "a"), service)
    assert got.fields["authorization"] == "Bearer sesame-42"


async def test_the_models_that_a_service_lists(serve, serving) -> None:
    """They come and go with its list, and are known at a start without it."""
    service = await serving()
    service.health = {"/v1/models": 200}
    service.models = ["org/a", "b", "c"]
    table = f"""
[models.box]
url = "{service.url}"
models = ["*a", "c"]
health_period_s = 0.05
"""
    router = await serve(table)
    await router.event("service.listed", models=3)
    await router.event("config.applied", added=["box/org/a"])
    async with httpx.AsyncClient(base_url=router.url, trust_env=False, timeout=LIMIT_S) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        assert {each["id"] for each in listed} == {"box/org/a", "box/c"}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(client.post, CHAT, json={"model": "box/org/a"}))
            got, stream = await service.request()
            assert json.loads(got.body) == {"model": "org/a"}
            await answer(stream, b"{}")
    service.models = ["c"]
    await router.event("config.applied", removed=["box/org/a"])
