"""What a hostile or broken client can send, and what a page in a browser cannot do."""

from __future__ import annotations

import json
import socket
from typing import Any

import hpack
import hyperframe.frame as h2
import pytest
import trio

from tests.process.harness import Answer, Router, post, request
from tests.process.real import LIMIT_S, endless_table, serving, write_config

pytestmark = pytest.mark.process

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + h2.SettingsFrame(0).serialize()


def headers(end: bool = True, **changed: bytes) -> bytes:  # noqa: FBT001, FBT002 -- HTTP/2's flag
    """Return a HEADERS frame of HTTP/2."""
    fields = {"method": b"GET", "scheme": b"http", "authority": b"x", "path": b"/admin/status"}
    frame = h2.HeadersFrame(1)
    encode = hpack.Encoder().encode
    frame.data = encode([(b":" + k.encode(), v) for k, v in {**fields, **changed}.items()])
    frame.flags.add("END_HEADERS")
    if end:
        frame.flags.add("END_STREAM")
    return frame.serialize()


def body_frame(data: bytes) -> bytes:
    frame = h2.DataFrame(1)
    frame.data = data
    return frame.serialize()


WEBSOCKET = (
    b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bKdPyn3u98cTfZJSh4TNeQ==\r\n\r\nx"
)

#: Each of these once ended a server.
CRASHERS = {
    "prior knowledge of HTTP/2": PREFACE + headers(),
    "DATA after an early answer": PREFACE + headers(end=False, method=b"POST") + body_frame(b"z"),
    "a path that is not ASCII": PREFACE + headers(path=b"/\xff"),
    "CONNECT without a path": PREFACE + headers(method=b"CONNECT"),
    "a method that is not ASCII": PREFACE + headers(method=b"G\xff"),
    "2000 PRIORITY frames": PREFACE
    + b"".join(h2.PriorityFrame(2 * i + 1, depends_on=0).serialize() for i in range(2000)),
    "an upgrade to HTTP/2": b"GET /admin/status HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, "
    b"HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    "a websocket for the control plane": WEBSOCKET % b"/admin/events",
    "a websocket for a model": WEBSOCKET % b"/health?model=a",
    "a host that is not UTF-8": b"GET /v1/models HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
    "two hosts": b"GET /v1/models HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "a body that never comes": b"POST /admin/reload HTTP/1.1\r\nHost: x\r\n"
    b"Content-Length: 9\r\n\r\na",
    "deep JSON": request(
        "POST", "/admin/models/load", b"[" * 200_000, content_type="application/json"
    ),
    "a null byte": b"GET /v1/models\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "OPTIONS of everything": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "a chunk of hell": b"POST /admin/reload HTTP/1.1\r\nHost: x\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
}


@pytest.mark.parametrize("data", CRASHERS.values(), ids=CRASHERS)
async def test_no_client_ends_the_router(start, stage, data: bytes) -> None:
    """Neither with its bytes nor by resetting the connection; others are served as before."""
    router = await start({"a": stage.model("a")})
    for reset in (False, True):
        stream = await trio.open_tcp_stream("127.0.0.1", router.port)
        try:
            await stream.send_all(data)
            if reset:
                linger = (1).to_bytes(4, "little") + bytes(4)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            else:
                await stream.send_eof()
                await stream.receive_some()
        except trio.BrokenResourceError:
            pass  # it was refused before all of it was sent
        finally:
            await trio.aclose_forcefully(stream)
        answer = await router.ask(request("GET", "/v1/models"))
        assert answer.status == 200


# -- the way in ---------------------------------------------------------------------------


async def test_no_spelling_of_a_path_leads_around_the_token(start, stage) -> None:
    """Nor does a field that claims to come from somewhere else."""
    router = await start({"a": stage.model("a")})
    lies = {"x_forwarded_for": "127.0.0.1", "remote_addr": "127.0.0.1", "x_real_ip": "::1",
            "x_original_url": "/", "x_http_method_override": "GET"}  # fmt: skip
    for target in (
        "/admin/status", "//admin/status", "///admin//status", "/admin/./status",
        "/./admin/status", "/x/../admin/status", "/%61dmin/status", "/admin%2fstatus",
        "/admin/status/", "/ADMIN/status", "/admin/status;x", "http://evil.example/admin/status",
        "/admin/models/..%2f..%2fstatus", "/v1/models/../../admin/status", "/admin/openapi.json",
        "/admin/events",
    ):  # fmt: skip
        for fields in ({}, lies):
            answer = await router.ask(request("GET", target, **fields))
            assert answer.status in (401, 403, 404), target
            assert b"pid" not in answer.body, target
    await router.events.wait("control.refused", code="invalid_admin_token", status=401)


async def test_no_redirect_leads_to_a_host_that_a_client_named(start, stage) -> None:
    """There is none at all."""
    router = await start({"a": stage.model("a")}, allowed_hosts=["*"])
    for target in ("/v1/models/", "/admin", "/admin/status/", "//evil.example/%2f.."):
        data = f"GET {target} HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode()
        answer = await router.ask(data)
        assert "location" not in answer.fields
        assert not 300 <= answer.status < 400, target


@pytest.mark.parametrize("target", ["/v1/models", "/v1/echo?model=a", "/", "/admin/status"])
async def test_a_rebound_name_gets_nothing(start, stage, target) -> None:
    """On both planes, whatever is asked for."""
    router = await start({"a": stage.model("a")})
    for host in ("evil.example", "127.0.0.1.evil.example:80", "localhost:4000/#@evil.example"):
        answer = await router.ask(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert answer.status in (400, 403), host
        assert router.spawned() == []


@pytest.mark.parametrize("target", ["/v1/models", "/admin/status", "/v1/echo?model=a", ""])
async def test_the_host_of_a_whole_uri_counts(start, stage, target) -> None:
    """On both planes, whatever the field Host says; so a rebound name gets nothing here, too."""
    router = await start({"a": stage.model("a")}, admin_token="t" * 16)
    ask = f"GET http://{{}}{target} HTTP/1.1\r\nHost: {{}}\r\nX-Admin-Token: {'t' * 16}\r\n\r\n"
    answer = await router.ask(ask.format("evil.example", "localhost").encode())
    assert (answer.status, answer.error["code"]) == (403, "host_not_allowed")
    answer = await router.ask(ask.format("localhost", "evil.example").encode())
    assert answer.status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_path_cannot_smuggle_a_request_to_a_backend(start, stage, method: str) -> None:
    """Not even one that only looks: an encoded line end stays encoded."""
    router = await start({"a": stage.model("a")})
    assert (await router.ask(post("/v1/echo", "a"))).status == 200
    path = "/v1/x%20HTTP/1.1%0d%0ahost:%20x%0d%0a%0d%0aGET%20/v1/y"
    for query in ("model=a&autoload=false", "model=a"):
        client = await router.connect()
        await client.send(request(method, f"{path}?{query}"))
        answer = await client.answer(bodiless=method == "HEAD")
        assert answer.status == 200
        if method != "HEAD":
            assert answer.json()["target"] == f"{path}?{query}"
        await client.send(post("/v1/next", "a"))
        assert (await client.answer()).json()["target"] == "/v1/next"


@pytest.mark.parametrize(
    "target", ["/v1/x?model={}", "/{}/health", "/upstream/{}/x", "/v1/x?model={}&autoload=0"]
)
async def test_a_long_name_in_an_address_is_refused_at_once(start, stage, target: str) -> None:
    """Its colons are not all tried as the end of a model's name."""
    router = await start({"a": stage.model("a", presets={"p": {"n": 1}})})
    answer = await router.ask(request("GET", target.format(":" * 60_000)))
    assert answer.status in (400, 404)


async def test_an_old_client_need_not_say_which_host_it_means(start, stage) -> None:
    """HTTP/1.0 knows no Host, on both planes; an empty one in HTTP/1.1 is told what it lacks."""
    router = await start({"a": stage.model("a")})
    for target in ("/v1/models", "/v1/echo?model=a"):
        answer = await router.ask(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        assert answer.status == 200, target
        answer = await router.ask(f"GET {target} HTTP/1.1\r\nHost:\r\n\r\n".encode())
        assert (answer.status, answer.error["code"]) == (403, "host_not_allowed")
        assert "does not say" in answer.error["message"]


async def test_a_page_of_another_site_can_do_nothing(start, stage) -> None:
    """Not start a model, not even blindly, and not read which there are."""
    router = await start({"a": stage.model("a")})
    body = b'{"model":"a"}'
    for fields in (
        {"origin": "https://evil.example", "content_type": "text/plain"},
        {"origin": "null", "content_type": "application/x-www-form-urlencoded"},
        {"sec_fetch_site": "cross-site", "content_type": "application/json"},
        {"origin": "http://localhost:3000", "sec_fetch_site": "same-site"},
    ):
        for data in (
            request("POST", "/v1/echo", body, **fields),
            request("GET", "/v1/models", **fields),
            request("POST", "/admin/reload", b"{}", **fields),
            request("POST", "/models/load", body, **fields),
        ):
            answer = await router.ask(data)
            assert (answer.status, answer.error["code"]) == (403, "origin_not_allowed")
            assert not [name for name in answer.fields if name.startswith("access-control")]
    question = request("OPTIONS", "/v1/echo", origin="https://evil.example",
                       access_control_request_method="POST")  # fmt: skip
    assert (await router.ask(question)).status == 403
    websocket = request("GET", "/v1/realtime?model=a", origin="https://evil.example",
                        connection="upgrade", upgrade="websocket")  # fmt: skip
    assert (await router.ask(websocket)).error["code"] == "origin_not_allowed"
    assert router.spawned() == []


@pytest.mark.parametrize("target", ["/upstream/a/v1/x", "/upstream/a", "/v1/echo?model=a"])
async def test_a_page_cannot_load_a_model_by_another_address(start, stage, target: str) -> None:
    """``<img src=http://0.0.0.0:…>``: the browser says nothing about the page that has it."""
    router = await start({"a": stage.model("a")})
    page = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    for host, code in (
        ("0.0.0.0:8082", "host_not_allowed"),
        ("[::ffff:7f00:1]:8082", "host_not_allowed"),
        ("192.168.1.20:8082", "origin_not_allowed"),
        ("box:8082", "origin_not_allowed"),
    ):
        for method in ("GET", "HEAD"):
            head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{page}\r\n\r\n"
            answer = await router.ask(head.encode())
            assert answer.status == 403, host
            if method == "GET":
                assert answer.error["code"] == code
    assert router.spawned() == []


async def test_a_program_need_not_say_that_it_sends_json(start, stage) -> None:
    """``curl -d`` says that it is a form; a browser that hides where its page is from may not."""
    router = await start({"a": stage.model("a")})
    curl = {"content_type": "application/x-www-form-urlencoded", "user_agent": "curl/8.5.0"}
    old = curl | {"user_agent": "Mozilla/5.0 (Windows NT 6.1; rv:52.0) Firefox/52.0"}
    for target in ("/models/load", "/models/unload", "/v1/streams/lookup"):
        body = b'{"model":"a"}' if "models" in target else b'{"conversation_ids":[]}'
        answer = await router.ask(request("POST", target, body, **old))
        assert (answer.status, answer.error["code"]) == (415, "media_type_not_supported"), target
        assert (await router.ask(request("POST", target, body, **curl))).status == 200, target
    answer = await router.ask(request("POST", "/admin/reload", b"{}", **curl))
    assert (answer.status, answer.error["code"]) == (401, "invalid_admin_token")


async def test_a_listed_page_can_use_models(start, stage) -> None:
    """It may ask before, send, and read: answers, errors and the list of models."""
    origin = "https://chat.example"
    router = await start({"a": stage.model("a")}, cors_origins=[origin])
    question = request("OPTIONS", "/v1/echo", origin=origin, access_control_request_method="POST",
                       access_control_request_headers="authorization,content-type")  # fmt: skip
    allowed = await router.ask(question)
    assert allowed.status == 204
    assert allowed.fields["access-control-allow-headers"] == "authorization,content-type"
    for data, status in (
        (request("POST", "/v1/echo", b'{"model":"a"}', origin=origin), 200),
        (request("POST", "/v1/echo", b'{"model":"b"}', origin=origin), 404),
        (request("GET", "/v1/models", origin=origin), 200),
    ):
        answer = await router.ask(data)
        assert answer.status == status
        assert answer.fields["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in answer.fields


@pytest.mark.parametrize("listed", [False, True])
async def test_a_backend_cannot_let_pages_in(start, stage, listed: bool) -> None:  # noqa: FBT001 -- a parameter
    """What it says about origins is removed; what the router says is said once."""
    origin = "https://chat.example"
    router = await start({"a": stage.model("a")}, cors_origins=[origin] if listed else [])
    client = await router.connect()
    fields = {"origin": origin} if listed else {}
    await client.send(request("POST", "/v1/script", b'{"model":"a"}', **fields))
    scripted = await (await stage.backend("a")).request()
    await scripted.send(
        b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\ncontent-length: 2\r\n"
        b"Access-Control-Allow-Credentials: true\r\n\r\nok"
    )
    answer = await client.answer()
    assert answer.body == b"ok"
    allowed = {k: v for k, v in answer.fields.items() if k.startswith("access-control-allow")}
    assert allowed == ({"access-control-allow-origin": origin} if listed else {})


# -- keys -----------------------------------------------------------------------------------


def keyed(router: Router, key: str, target: str, model: str | None = None) -> Any:
    """Send a request with a key."""
    fields = {"authorization": f"Bearer {key}"} if key else {}
    if model is None:
        return router.ask(request("GET", target, **fields))
    fields["content_type"] = "application/json"
    return router.ask(request("POST", target, json.dumps({"model": model}).encode(), **fields))


KEYS = {"alice": {"key": "sk-alice-0123"}, "bob": {"key": "sk-bob-0123", "models": ["b*"]}}


async def test_keys_decide_who_may_use_which_model(start, stage) -> None:
    """Unknown ones none, known ones theirs; the list has no others; the backend sees no key."""
    router = await start({"a": stage.model("a"), "b": stage.model("b", group="g")}, api_keys=KEYS)
    for key in ("", "sk-wrong-0123", "sk-alice-012"):
        for answer in (
            await keyed(router, key, "/v1/echo", "a"),
            await keyed(router, key, "/v1/models"),
            await keyed(router, key, "/props"),
            await keyed(router, key, "/v1/echo?model=a"),
        ):
            assert (answer.status, answer.error["code"]) == (401, "invalid_api_key")
        for target in ("/health", "/livez", "/readyz"):
            assert (await keyed(router, key, target)).json() == {"status": "ok"}
    assert router.spawned() == []
    answer = await keyed(router, "sk-alice-0123", "/v1/echo", "a")
    assert answer.status == 200
    await router.events.wait("request.completed", model="a", key="alice")
    assert b"sk-alice" not in answer.body  # it is an echo of what the backend got
    listed = (await keyed(router, "sk-bob-0123", "/v1/models")).json()["data"]
    assert [entry["id"] for entry in listed] == ["b"]
    assert (await keyed(router, "sk-alice-0123", "/v1/models/a")).status == 200


async def test_a_key_does_not_tell_which_models_there_are(start, stage) -> None:
    """One that it may not use is answered, on every path, like one that is not there."""
    models = {"a": stage.model("a", group="g"), "b": stage.model("b", group="g")}
    router = await start(models, api_keys=KEYS)
    assert (await keyed(router, "sk-alice-0123", "/v1/echo", "a")).status == 200

    async def answers(name: str) -> list[tuple[int, str]]:
        asked = [
            await keyed(router, "sk-bob-0123", "/v1/echo", name),
            await keyed(router, "sk-bob-0123", f"/v1/echo?model={name}"),
            await keyed(router, "sk-bob-0123", f"/{name}/health"),
            await keyed(router, "sk-bob-0123", f"/upstream/{name}/x/y"),
            await keyed(router, "sk-bob-0123", f"/v1/models/{name}"),
            await keyed(router, "sk-bob-0123", f"/props?model={name}"),
            await keyed(router, "sk-bob-0123", "/models/load", name),
            await keyed(router, "sk-bob-0123", "/api/show", name),
        ]
        return [(a.status, a.body.replace(f"'{name}'".encode(), b"NAME")) for a in asked]

    hidden = await answers("a")
    assert hidden == await answers("z")
    assert {status for status, _ in hidden} == {404}
    # The model that was spawned last runs, but not for this key.
    assert (await keyed(router, "sk-bob-0123", "/slots")).error["code"] == "no_models_running"
    assert (await keyed(router, "sk-bob-0123", "/props")).json()["role"] == "router"
    assert (await keyed(router, "sk-bob-0123", "/v1/echo", "b")).status == 200
    assert (await keyed(router, "sk-alice-0123", "/v1/echo", "a")).status == 200
    assert (await keyed(router, "sk-bob-0123", "/slots")).status == 200


@pytest.mark.parametrize("target", ["/v1/echo", "/v1/chat/completions", "/api/chat"])
async def test_a_key_does_not_tell_which_model_is_the_default(start, stage, target: str) -> None:
    """For a key that may not use it there is none."""
    models = {"a": stage.model("a", group="g"), "b": stage.model("b", group="g")}
    router = await start(models, api_keys=KEYS, default_model="a")
    fields = {"authorization": "Bearer sk-bob-0123", "content_type": "application/json"}
    answer = await router.ask(request("POST", target, b'{"messages": []}', **fields))
    assert answer.status == 400
    assert b"'a'" not in answer.body
    assert router.spawned() == []


async def test_an_api_key_is_no_admin_token(start, stage) -> None:
    """And without API keys any Authorization reaches the backend, but never the admin token."""
    router = await start({"a": stage.model("a")}, api_keys=KEYS)
    assert (await keyed(router, "sk-alice-0123", "/admin/status")).status == 401
    other = await start({"a": stage.model("a")})
    fields = {"authorization": "Bearer theirs", "x_admin_token": "ours"}
    answer: Answer = await other.ask(request("POST", "/v1/echo", b'{"model":"a"}', **fields))
    assert b"theirs" in answer.body
    assert b"ours" not in answer.body


# -- logs -----------------------------------------------------------------------------------


async def test_a_client_cannot_forge_a_line_of_the_log(tmp_path) -> None:
    """Whatever it puts into path, model or fields: every line is one of the router's own."""
    forged = '\n{"ts":"2026-01-01T00:00:00Z","level":"info","event":"forged"}\n\x1b[2J'
    config = write_config(tmp_path, endless_table(tmp_path, "a"), router=["log_level = 'debug'"])
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router:
            quoted = "".join(f"%{byte:02x}" for byte in forged.encode())
            async with router.client() as client:
                await client.post("/v1/chat/completions", json={"model": forged})
                await client.get(f"/v1/{quoted}?model={quoted}")
                await client.get(f"/admin/{quoted}")
                await client.get("/v1/models", headers={"user-agent": "x\tforged", "host": "a.b"})
            await router.event("request.refused", model=forged)
        assert router.named("forged") == []
        assert router.said == []
