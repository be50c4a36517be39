"""Connections of the control plane: each request is answered in full, and leaves nothing open."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

import attrs
import pytest
import trio

from llama_router.control.web import server
from llama_router.control.web.app import build_app
from llama_router.core.requests.control_request import ControlRequest
from llama_router.core.requests.routes import Control, route
from llama_router.gateway.gateway import Gateway
from tests.limits import stretched_s
from tests.process.harness import RawClient, Router, request

pytestmark = pytest.mark.process

#: How soon a connection must be gone after its client left, in seconds: half a second and what a
#: busy machine needs; they used to stay for 600.
GONE_S = 8

#: How many requests at once; each costs two descriptors here.
AT_ONCE = 25

#: Request targets that are no rule, or that make a rule's answer a stream.
FURTHER = [
    ("GET", "/admin/logs/a?follow=1", b""),
    ("GET", "/v1/stream?conversation_id=x", b""),
    ("POST", "/api/chat", b'{"model": "slow", "messages": [], "stream": true}'),
    ("POST", "/api/generate", b'{"model": "slow", "prompt": "x", "stream": false}'),
    ("POST", "/admin/models/load", b'{"model": "slow"}'),
    ("POST", "/models/load", b'{"model": "slow"}'),
    ("GET", "/admin/none", b""),
    ("BREW", "/v1/models", b""),
    ("GET", "/v1/chat/completions", b""),
]

#: Answers that end only when their client left, or that may take long.
ENDLESS = ("/admin/events", "/models/sse", "/api/events", "/logs/stream", "/admin/hub/")


def routes() -> Iterator[tuple[str, str, bytes]]:
    """Return a method, a target and a body for every route of the control plane."""
    for rule in build_app(mock.MagicMock()).url_map.iter_rules():
        target = rule.rule.replace("<path:name>", "a").replace("<number>", "1")
        target = target.replace("<path:_digest>", "sha256:0").replace("<ui_asset:path>", "x.js")
        target = target.replace("<path:filename>", "x.js")
        for method in sorted(rule.methods or ()):
            yield method, target, b""


def is_control(method: str, target: str) -> bool:
    """Return whether the control plane answers this."""
    path, _, query = target.encode().partition(b"?")
    asked_for = route(method.encode(), path, query)
    return isinstance(asked_for, Control) and asked_for.only_preflight is None


ALL_EVENTS = [asked for asked in (*routes(), *FURTHER) if is_control(*asked[:2])]


def is_endless(target: str, body: bytes) -> bool:
    """Return whether an answer may not end before its client leaves."""
    return target.startswith(ENDLESS) or "follow" in target or b"slow" in body


def sockets() -> int:
    """Return how many sockets this process has open: the router's and the test's."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists the folder
            found += str(descriptor.readlink()).startswith("socket:")
    return found


@attrs.define(eq=False)
class Exchanges:
    """What the control plane is given, and a way to wait until it is done with that."""

    requests: list[ControlRequest] = attrs.field(factory=list)
    open: int = 0
    _news: trio.Event = attrs.field(factory=trio.Event)

    def note(self, change: int) -> None:
        """Count one that begins or ends."""
        self.open += change
        self._news.set()
        self._news = trio.Event()

    async def done(self, number: int) -> None:
        """Return once so many were begun, and all of them have ended."""
        while len(self.requests) < number or self.open:
            await self._news.wait()


@pytest.fixture
def exchanges(monkeypatch) -> Exchanges:
    """Watch connections that are handed over."""
    exchanges = Exchanges()
    serve = Gateway._serve_control

    async def watched(gateway: Gateway, connection: socket.socket, request: ControlRequest) -> None:
        exchanges.requests.append(request)
        exchanges.note(1)
        try:
            await serve(gateway, connection, request)
        finally:
            exchanges.note(-1)

    monkeypatch.setattr(Gateway, "_serve_control", watched)
    return exchanges


@pytest.fixture
async def router(start, stage) -> Router:
    """A router with a model that is never ready."""
    return await start({"a": stage.model("a"), "slow": stage.model("slow", "--health", "told")})


def token_of(router: Router) -> str:
    """Return the token that the router made."""
    return (router.path.parent / "state" / "admin-token").read_text().strip()


def reset(client: RawClient) -> None:
    """Let closing *client* reset the connection. Source: socket(7), SO_LINGER."""
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def whole_answer(client: RawClient, method: str, target: str, body: bytes) -> None:
    """Check that *client* gets all of its one answer, or of an endless one what comes at once."""
    if is_endless(target, body):
        return
    answer = await client.answer(bodiless=method == "HEAD")
    assert answer.complete, (method, target)
    assert answer.fields["connection"] == "close", (method, target)
    assert await client.rest() == b"", (method, target)


Act = Callable[[RawClient, Callable[..., bytes], Callable[[], Awaitable[None]]], Awaitable[None]]


async def leaves_behind_two(client, ask, _answered) -> None:
    """Send two requests and close."""
    await client.send(ask() + ask())


async def reads_behind_two(client, ask, answered) -> None:
    """Send two requests; only the first one is answered."""
    await client.send(ask() + ask())
    await answered()


async def reads_behind_garbage(client, ask, answered) -> None:
    """Send a request and what is none."""
    await client.send(ask() + b"\x16\x03garbage\r\n" * 5000)
    await answered()


async def reads_before_garbage(client, ask, answered) -> None:
    """Send garbage while the request is served."""
    await client.send(ask())
    with suppress(trio.BrokenResourceError):
        await client.send(b"\0")
    await answered()


async def half_closes(client, ask, answered) -> None:
    """Send a request and say that nothing follows."""
    await client.send(ask())
    await client.stream.send_eof()
    await answered()


async def leaves_in_a_body(client, ask, _answered) -> None:
    """Send the beginning of a body and close."""
    await client.send(ask(length=100) + b"{")


async def half_closes_in_a_body(client, ask, answered) -> None:
    """Send the beginning of a body, and say that nothing follows."""
    await client.send(ask(length=100) + b"{")
    await client.stream.send_eof()
    await answered()


async def breaks_a_chunk(client, ask, answered) -> None:
    """Send a chunk that is none."""
    await client.send(ask(chunked=True) + b"2\r\n{}x\r\n")
    await answered()


async def resets(client, ask, _answered) -> None:
    """Send a request, and reset the connection."""
    await client.send(ask())
    reset(client)


async def resets_in_a_body(client, ask, _answered) -> None:
    """Send the beginning of a body, and reset the connection."""
    await client.send(ask(length=100) + b"{")
    reset(client)


ACTS = [
    leaves_behind_two,
    reads_behind_two,
    reads_behind_garbage,
    reads_before_garbage,
    half_closes,
    leaves_in_a_body,
    half_closes_in_a_body,
    breaks_a_chunk,
    resets,
    resets_in_a_body,
]


def request_bytes(
    method: str,
    target: str,
    body: bytes,
    fields: dict[str, str],
    *,
    length: int | None = None,
    chunked: bool = False,
) -> bytes:
    """Return a request, or only its head if another body is to follow."""
    if length is not None:
        return request(method, target, content_length=str(length), **fields)
    if chunked:
        return request(method, target, transfer_encoding="chunked", **fields)
    return request(method, target, body or None, **fields)


@pytest.mark.parametrize("allowed", [False, True], ids=["without-token", "with-token"])
@pytest.mark.parametrize("act", ACTS, ids=lambda act: act.__name__)
async def test_no_route_leaks_a_connection(
    router, exchanges, monkeypatch, act: Act, *, allowed: bool
) -> None:
    """Whatever a client sends, it gets its answer, and its descriptor is free when it has left."""
    # How long an answer to a half-closed connection may take.
    monkeypatch.setattr(server, "HALF_CLOSED_S", stretched_s(server.HALF_CLOSED_S))
    fields = {"content_type": "application/json"}
    if allowed:
        fields["authorization"] = f"Bearer {token_of(router)}"
    before = sockets()
    turn = trio.CapacityLimiter(AT_ONCE)

    async def visit(method: str, target: str, body: bytes) -> None:
        async with turn, await trio.open_tcp_stream("127.0.0.1", router.port) as stream:
            client = RawClient(stream)

            def ask(**framing) -> bytes:
                return request_bytes(method, target, body, fields, **framing)

            async def answered() -> None:
                await whole_answer(client, method, target, body)

            await act(client, ask, answered)

    async with trio.open_nursery() as nursery:
        for method, target, body in ALL_EVENTS:
            nursery.start_soon(visit, method, target, body)
    with trio.fail_after(stretched_s(GONE_S)):
        await exchanges.done(len(ALL_EVENTS))
    assert sockets() <= before + open_backends(router)


def open_backends(router: Router) -> int:
    """Return how many sockets belong to backends that were started meanwhile."""
    return 3 * len(router.spawned())


async def test_a_crowd_that_leaves_behind_two_requests(router, exchanges) -> None:
    """A hundred connections with a second request behind the first are gone at once."""
    before = sockets()
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", router.port)) as client:
            client.sendall(2 * b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.lowlevel.checkpoint()
    with trio.fail_after(stretched_s(GONE_S)):
        await exchanges.done(100)
    assert sockets() == before


async def test_each_answer_is_one_line_of_the_log(router) -> None:
    """Also if nothing reads the request's body, or what follows it."""
    for method, target, status in (
        ("GET", "/v1/models", 200),
        ("POST", "/admin/reload", 401),
        ("GET", "/none", 404),
        ("PUT", "/v1/models", 405),
    ):
        data = request(method, target, b"{}")
        assert (await router.ask(data + data)).status == status
        lines = router.events.named("control.answered", method=method, path=target)
        assert [line["status"] for line in lines] == [status]


async def test_an_abandoned_request_is_one_line_of_the_log(router, exchanges) -> None:
    """There is no answer that could be logged."""
    client = await router.connect()
    fields = {"authorization": f"Bearer {token_of(router)}", "content_type": "application/json"}
    await client.send(request("POST", "/admin/models/load", b'{"model": "slow"}', **fields) + b"x")
    await router.events.wait("backend.spawned", model="slow")
    await client.stream.aclose()
    with trio.fail_after(stretched_s(GONE_S)):
        await exchanges.done(1)
    lines = [entry for entry in router.events.entries if entry["event"].startswith("control.")]
    assert [line["event"] for line in lines] == ["control.abandoned"]
    assert (lines[0]["method"], lines[0]["path"]) == ("POST", "/admin/models/load")


async def test_one_message_is_handed_over(router, exchanges) -> None:
    """Its body ends where its framing says; what follows is no part of it."""
    for data in (
        request("POST", "/models/load", b'{"model": 1}', content_type="application/json"),
        request(
            "POST", "/models/load", content_type="application/json", transfer_encoding="chunked"
        )
        + b'c;x=y\r\n{"model": 1}\r\n0\r\ntrailer: z\r\n\r\n',
    ):
        client = await router.connect()
        await client.send(data + b"}}}" + data)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (400, "invalid_request")
        assert "Expected `str`, got `int`" in answer.error["message"]
        assert await client.rest() == b""
    assert len(exchanges.requests) == 2


async def test_a_body_arrives_in_pieces(router) -> None:
    """It is put together, and the answer waits for its end."""
    client = await router.connect()
    body = b'{"model": "none"}'
    await client.send(
        request("POST", "/models/load", content_type="application/json", content_length="17")
    )
    for at in range(len(body)):
        await client.send(body[at : at + 1])
    assert (await client.answer()).status == 404


async def test_a_broken_chunk_is_said(router) -> None:
    """The answer is an error as any other."""
    client = await router.connect()
    await client.send(request("POST", "/models/load", transfer_encoding="chunked") + b"x\r\n")
    answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")
    assert "a chunk-size line is malformed" in answer.error["message"]


async def test_a_body_that_is_cut_is_said(router) -> None:
    """To a client that still reads."""
    client = await router.connect()
    await client.send(request("POST", "/api/show", content_length="10") + b"{")
    await client.stream.send_eof()
    answer = await client.answer()
    assert answer.status == 400
    assert answer.json() == {"error": "the connection ended in the middle of the request body"}


async def test_a_client_that_waits_for_100_gets_it(router) -> None:
    """Before its body, once."""
    client = await router.connect()
    fields = {"expect": "100-continue", "content_type": "application/json"}
    await client.send(request("POST", "/models/load", content_length="2", **fields))
    assert (await client.head()).status == 100
    await client.send(b"{}")
    assert (await client.answer()).status == 400
    assert await client.rest() == b""


async def test_a_body_that_is_here_needs_no_100(router) -> None:
    """There is no 100 for a body that is here."""
    fields = {"expect": "100-continue", "content_type": "application/json"}
    assert (await router.ask(request("POST", "/models/load", b"{}", **fields))).status == 400


@pytest.mark.parametrize("target", ["/v1/models", "/admin/status"])
async def test_head_has_no_body(router, target) -> None:
    """Its fields are those of GET."""
    got = await router.ask(request("GET", target, authorization=f"Bearer {token_of(router)}"))
    client = await router.connect()
    await client.send(request("HEAD", target, authorization=f"Bearer {token_of(router)}"))
    head = await client.head()
    assert (head.status, head.fields.keys()) == (200, got.fields.keys())
    assert await client.rest() == b""


async def test_a_stream_for_an_old_client_ends_with_its_connection(router) -> None:
    """HTTP/1.0 has no chunks."""
    client = await router.connect()
    await client.send(request("GET", "/models/sse", version="1.0"))
    head = await client.head()
    assert (head.status, head.fields["connection"]) == (200, "close")
    assert "transfer-encoding" not in head.fields


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "tls/1.0"])
async def test_an_offer_of_another_protocol_is_answered_in_http(router, protocol) -> None:
    """Also with bytes of that protocol behind it."""
    client = await router.connect()
    await client.send(request("GET", "/v1/models", connection="upgrade", upgrade=protocol) + b"\0x")
    assert (await client.answer()).status == 200
    assert await client.rest() == b""


async def test_leaving_is_seen_behind_further_bytes(router, exchanges) -> None:
    """A stream ends with its client, whatever that has sent."""
    client = await router.connect()
    token = f"Bearer {token_of(router)}"
    await client.send(request("GET", "/admin/events", authorization=token) + b"x")
    await client.chunk() if (await client.head()).fields.get("transfer-encoding") else None
    await client.send(b"and more")
    await client.stream.aclose()
    with trio.fail_after(stretched_s(GONE_S)):
        await exchanges.done(1)


async def test_a_client_that_sends_without_end_is_given_up(router, exchanges, monkeypatch) -> None:
    """What is thrown away has a limit."""
    monkeypatch.setattr(server, "MAX_DISCARDED_BYTES", 100_000)
    client = await router.connect()
    token = f"Bearer {token_of(router)}"
    await client.send(request("GET", "/admin/events", authorization=token))
    assert (await client.head()).status == 200
    with pytest.raises(trio.BrokenResourceError):
        await pour(client)
    with trio.fail_after(stretched_s(GONE_S)):
        await exchanges.done(1)


async def pour(client: RawClient) -> None:
    """Send without end, until the connection breaks."""
    while True:
        await client.send(bytes(65536))


class TestHosts:
    """A name that no resolver takes is the gate's affair as any other."""

    @pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.b", ".a.b", "a..b:80"])
    async def test_refused(self, router, host) -> None:
        """The answer and the log say so."""
        data = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        answer = await router.ask(data)
        assert (answer.status, answer.error["code"]) == (403, "host_not_allowed")
        assert len(router.events.named("control.refused", code="host_not_allowed")) == 1

    @pytest.mark.parametrize("host", [".", "a" * 64, "xn--a", "a_b:80"])
    async def test_taken(self, router, host) -> None:
        """A name without a dot is no name of the Internet."""
        data = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        assert (await router.ask(data)).status == 200


class TestEnd:
    """A client that does not go on does not hold up the end."""

    @pytest.mark.parametrize(
        "data",
        [
            b"G",
            b"GET /v1/models HTTP/1.1\r\nHost: lo",
            b"POST /v1/chat/completions?model=a HTTP/1.1\r\n",
        ],
    )
    async def test_in_a_head(self, start, stage, data) -> None:
        """Its connection is closed without a word."""
        router = await start({"a": stage.model("a")}, drain_s=25.0)
        client = await router.connect()
        await client.send(request("GET", "/x?model=none"))  # to know when the rest is there
        await client.answer()
        await client.send(data)
        await trio.testing.wait_all_tasks_blocked()
        router.requests.stop.set()
        with trio.fail_after(stretched_s(GONE_S)):
            assert await client.rest() == b""
            await router.ended.wait()

    async def test_a_head_that_is_on_its_way(self, start, stage) -> None:
        """It is answered if its rest comes soon."""
        router = await start({"a": stage.model("a")}, drain_s=25.0)
        client = await router.connect()
        await client.send(b"GET /v1/mod")
        await trio.testing.wait_all_tasks_blocked()
        router.requests.stop.set()
        await router.events.wait("router.draining")
        await client.send(b"els HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await client.answer()).status == 200

    async def test_in_a_body(self, start, stage, exchanges) -> None:
        """It is told why it is not served."""
        router = await start({"a": stage.model("a")}, drain_s=25.0)
        client = await router.connect()
        fields = {"content_type": "application/json", "content_length": "100"}
        await client.send(request("POST", "/models/load", **fields) + b"{")
        await router.connect()
        while not exchanges.requests:
            await exchanges._news.wait()
        router.requests.stop.set()
        with trio.fail_after(stretched_s(GONE_S)):
            answer = await client.answer()
            assert (answer.status, answer.error["code"]) == (503, "shutting_down")
            await client.stream.aclose()
            await router.ended.wait()

    @pytest.mark.parametrize("framing", ["length", "chunked"])
    async def test_in_a_body_for_a_model(self, start, stage, framing: str) -> None:
        """It is told so, too: the request could not be served any more."""
        router = await start({"a": stage.model("a")}, drain_s=25.0)
        client = await router.connect()
        await client.send(request("GET", "/x?model=none"))  # to know when the rest is there
        await client.answer()
        fields = (
            {"content_length": "100"} if framing == "length" else {"transfer_encoding": "chunked"}
        )
        begun = b"{" if framing == "length" else b"64\r\n{"
        await client.send(request("POST", "/v1/echo", **fields) + begun)
        await trio.testing.wait_all_tasks_blocked()
        router.requests.stop.set()
        with trio.fail_after(stretched_s(GONE_S)):
            answer = await client.answer()
            assert (answer.status, answer.error["code"]) == (503, "shutting_down")
            await client.stream.aclose()
            await router.ended.wait()
        assert router.spawned() == []

    async def test_a_body_that_is_on_its_way(self, start, stage) -> None:
        """It is waited for; then its request is refused like all that nothing was begun for."""
        router = await start({"a": stage.model("a")}, drain_s=25.0)
        client = await router.connect()
        body = b'{"model": "a"}'
        await client.send(request("POST", "/v1/echo", content_length=str(len(body))))
        await trio.testing.wait_all_tasks_blocked()
        router.requests.stop.set()
        await router.events.wait("router.draining")
        await client.send(body)
        answer = await client.answer()
        assert (answer.status, answer.error["code"]) == (503, "shutting_down")

    async def test_after_the_answer(self, start, stage) -> None:
        """It need not close its connection."""
        router = await start({"a": stage.model("a")}, drain_s=25.0)
        client = await router.connect()
        await client.send(2 * request("GET", "/v1/models"))
        assert (await client.answer()).status == 200
        router.requests.stop.set()
        with trio.fail_after(stretched_s(GONE_S)):
            await router.ended.wait()
