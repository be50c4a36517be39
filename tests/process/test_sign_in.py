"""Sign-in to the dashboard: cookies, and what they do not admit."""

from __future__ import annotations

import ctypes
import json
import os
import socket

import pytest
import trio

from tests.process.harness import Answer, RawClient, Router

pytestmark = pytest.mark.process

TOKEN = "admin-token-0123456789"
ALICE = "sk-alice-0123456789"
KEYS = {"alice": {"key": ALICE}}

#: A user that is neither the router's nor root.
STRANGER = 54321

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")


def from_page(
    router: Router, method: str, path: str, document: object = None, /, **fields: str | None
) -> bytes:
    """Return a request as a page of the router sends it; None leaves a field out."""
    host = f"127.0.0.1:{router.port}"
    given = {"host": host, "sec_fetch_site": "same-origin", "user_agent": "Mozilla/5.0", **fields}
    body = b"" if document is None else json.dumps(document).encode()
    if method not in {"GET", "HEAD"}:
        given = {"origin": f"http://{host}", "content_type": "application/json", **given}
        given["content_length"] = str(len(body))
    lines = [f"{k.replace('_', '-')}: {v}" for k, v in given.items() if v is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode() + body


async def sign_in(router: Router, secret: str, **fields: str | None) -> Answer:
    return await router.ask(from_page(router, "POST", "/ui/session", {"secret": secret}, **fields))


def cookie_of(answer: Answer) -> str:
    """Return the cookie that *answer* sets, as a browser sends it back."""
    return answer.fields["set-cookie"].partition(";")[0]


async def as_user(router: Router, uid: int, data: bytes) -> Answer:
    """Send *data* as another user of this machine."""
    libc = ctypes.CDLL(None)
    former = libc.setfsuid(uid)  # of this thread only; a socket belongs to that user
    try:
        client = socket.socket()
    finally:
        libc.setfsuid(former)
    client.connect(("127.0.0.1", router.port))
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(client))
    async with stream:
        await stream.send_all(data)
        return await RawClient(stream).answer()


# -- with a secret ------------------------------------------------------------------------------


async def test_the_admin_token_signs_in(start, stage) -> None:
    """The cookie is out of the reach of scripts and of other sites."""
    router = await start({}, admin_token=TOKEN, api_keys=KEYS)
    before = await router.ask(from_page(router, "GET", "/ui/session"))
    assert before.json() == {"scope": None, "name": None, "signed_in": False}
    answer = await sign_in(router, TOKEN)
    assert answer.json() == {"scope": "admin", "name": None, "signed_in": True}
    attributes = answer.fields["set-cookie"].split("; ")[1:]
    assert attributes == ["Path=/", "HttpOnly", "SameSite=Strict"]
    cookie = cookie_of(answer)
    status = await router.ask(from_page(router, "GET", "/admin/status", cookie=cookie))
    assert status.status == 200
    now = await router.ask(from_page(router, "GET", "/ui/session", cookie=cookie))
    assert now.json() == {"scope": "admin", "name": None, "signed_in": True}


async def test_a_cookie_is_secure_below_tls(start, stage) -> None:
    """The proxy that adds TLS leaves the origin as it is."""
    router = await start({}, admin_token=TOKEN, allowed_hosts=["llm.example"])
    fields = {"host": "llm.example", "origin": "https://llm.example"}
    answer = await sign_in(router, TOKEN, **fields)
    assert answer.fields["set-cookie"].endswith("; Secure")


async def test_an_api_key_signs_in_to_models(start, stage) -> None:
    """Its page lists models and asks them, and gets nothing of the admin API."""
    router = await start({"a": stage.model("a")}, admin_token=TOKEN, api_keys=KEYS)
    answer = await sign_in(router, ALICE)
    assert answer.json() == {"scope": "models", "name": "alice", "signed_in": True}
    cookie = cookie_of(answer)
    listed = await router.ask(from_page(router, "GET", "/v1/models", cookie=cookie))
    assert [model["id"] for model in listed.json()["data"]] == ["a"]
    refused = await router.ask(from_page(router, "GET", "/admin/status", cookie=cookie))
    assert (refused.status, refused.error["code"]) == (401, "invalid_admin_token")


async def test_a_model_answers_a_page_that_signed_in(start, stage) -> None:
    """The backend does not see the session's cookie, only others."""
    router = await start({"a": stage.model("a")}, admin_token=TOKEN, api_keys=KEYS)
    cookie = f"one=1; {cookie_of(await sign_in(router, TOKEN))}; two=2"
    data = from_page(router, "POST", "/v1/chat/completions", {"model": "a"}, cookie=cookie)
    answer = await router.ask(data)
    assert answer.status == 200
    seen = {name.lower(): value for name, value in answer.json()["fields"]}
    assert seen["cookie"] == "one=1; two=2"


@pytest.mark.parametrize("secret", ["wrong", ALICE[:-1], "x" * 4096])
async def test_a_wrong_secret_is_refused(start, stage, secret) -> None:
    """And sets no cookie."""
    router = await start({}, admin_token=TOKEN, api_keys=KEYS)
    answer = await sign_in(router, secret)
    assert (answer.status, answer.error["code"]) == (401, "invalid_admin_token")
    assert "set-cookie" not in answer.fields


async def test_signing_out_ends_the_session(start, stage) -> None:
    """A copy of the cookie admits to nothing either."""
    router = await start({}, admin_token=TOKEN, api_keys=KEYS)
    cookie = cookie_of(await sign_in(router, TOKEN))
    out = await router.ask(from_page(router, "DELETE", "/ui/session", cookie=cookie))
    assert out.status == 204
    assert "Max-Age=0" in out.fields["set-cookie"]
    refused = await router.ask(from_page(router, "GET", "/admin/status", cookie=cookie))
    assert refused.status == 401


async def test_signing_in_again_gives_another_cookie(start, stage) -> None:
    """Whatever cookie a browser brings, it is never the one of the new session."""
    router = await start({}, admin_token=TOKEN, api_keys=KEYS)
    planted = f"llama-router-{router.port}=planted"
    first = cookie_of(await sign_in(router, TOKEN, cookie=planted))
    second = cookie_of(await sign_in(router, TOKEN, cookie=first))
    assert len({planted, first, second}) == 3
    for old in (planted, first):
        refused = await router.ask(from_page(router, "GET", "/admin/status", cookie=old))
        assert refused.status == 401


@pytest.mark.parametrize(
    "fields",
    [
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": None, "origin": "http://127.0.0.1:9"},
        {"sec_fetch_site": None, "origin": "null"},
        {"sec_fetch_site": None, "origin": None},
        {"sec_fetch_site": "none", "origin": None},
        {"host": "rebound.example", "origin": "http://rebound.example"},
    ],
)
async def test_a_cookie_counts_for_pages_of_the_router_only(start, stage, fields) -> None:
    """Another port of this machine is the same site to a browser, and gets nothing."""
    router = await start({}, admin_token=TOKEN, api_keys=KEYS)
    cookie = cookie_of(await sign_in(router, TOKEN))
    if "host" in fields:
        cookie = cookie.replace(str(router.port), "0")
    for method, path in (("GET", "/admin/status"), ("POST", "/admin/reload")):
        answer = await router.ask(from_page(router, method, path, cookie=cookie, **fields))
        assert answer.status in {401, 403}, (method, answer)


# -- without a secret ---------------------------------------------------------------------------


async def test_it_opens_for_the_user_of_the_router(start, stage) -> None:
    """A router on loopback without keys asks nothing of its own user."""
    router = await start({})
    answer = await router.ask(from_page(router, "GET", "/ui/session"))
    assert answer.json() == {"scope": "admin", "name": None, "signed_in": False}
    status = await router.ask(from_page(router, "GET", "/admin/status", cookie=cookie_of(answer)))
    assert status.status == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"sec_fetch_site": None},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
        {"x_forwarded_for": "192.0.2.1"},
        {"host": "router"},
    ],
)
async def test_it_opens_for_nothing_else(start, stage, fields) -> None:
    """Neither a link on another page, nor what a proxy on this machine passes on."""
    router = await start({})
    answer = await router.ask(from_page(router, "GET", "/ui/session", **fields))
    assert answer.json()["scope"] == "models"
    assert "set-cookie" not in answer.fields


async def test_it_does_not_open_where_a_sign_in_is_wanted(start, stage) -> None:
    """Not even for the router's own user: that may be a tunnel."""
    router = await start({}, dashboard_sign_in=True, admin_token=TOKEN)
    answer = await router.ask(from_page(router, "GET", "/ui/session"))
    assert (answer.json()["scope"], "set-cookie" in answer.fields) == ("models", False)
    cookie = cookie_of(await sign_in(router, TOKEN))
    status = await router.ask(from_page(router, "GET", "/admin/status", cookie=cookie))
    assert status.status == 200


@needs_root
async def test_it_does_not_open_for_other_users(start, stage) -> None:
    """They may use models, as they can without a page."""
    router = await start({})
    answer = await as_user(router, STRANGER, from_page(router, "GET", "/ui/session"))
    assert answer.json() == {"scope": "models", "name": None, "signed_in": False}
    assert "set-cookie" not in answer.fields


@needs_root
@pytest.mark.parametrize("keys", [{}, KEYS])
async def test_a_stolen_cookie_is_of_no_use_to_other_users(start, stage, keys) -> None:
    """A server of another user, on any port of this machine, can get it from a browser."""
    router = await start({}, admin_token=TOKEN, api_keys=keys)
    if keys:
        answer = await sign_in(router, TOKEN)
    else:
        answer = await router.ask(from_page(router, "GET", "/ui/session"))
    stolen = from_page(router, "GET", "/admin/status", cookie=cookie_of(answer))
    assert (await router.ask(stolen)).status == 200
    assert (await as_user(router, STRANGER, stolen)).status == 401
    asked = from_page(router, "GET", "/ui/session", cookie=cookie_of(answer))
    assert (await as_user(router, STRANGER, asked)).json()["scope"] != "admin"


# -- the cookie and other planes ----------------------------------------------------------------


async def test_a_page_of_another_port_cannot_use_models(start, stage) -> None:
    """With keys, a model needs the cookie, and the cookie a page of the router."""
    router = await start({"a": stage.model("a")}, admin_token=TOKEN, api_keys=KEYS)
    cookie = cookie_of(await sign_in(router, TOKEN))
    data = from_page(
        router,
        "POST",
        "/v1/chat/completions",
        {"model": "a"},
        cookie=cookie,
        sec_fetch_site="same-site",
        origin="http://127.0.0.1:9",
    )
    assert (await router.ask(data)).status == 403
    assert router.spawned() == []


async def test_a_websocket_of_another_page_is_refused(start, stage) -> None:
    """Browsers open WebSockets to any address, with cookies."""
    router = await start({"a": stage.model("a")}, admin_token=TOKEN, api_keys=KEYS)
    cookie = cookie_of(await sign_in(router, TOKEN))
    data = from_page(
        router,
        "GET",
        "/upstream/a/socket",
        cookie=cookie,
        sec_fetch_site=None,
        origin="http://evil.example",
        connection="Upgrade",
        upgrade="websocket",
        sec_websocket_version="13",
        sec_websocket_key="bKdPyn3u98cTfZJSh4TNeQ==",
    )
    assert (await router.ask(data)).status == 403
    assert router.spawned() == []


# -- pages of backends --------------------------------------------------------------------------


async def test_pages_of_backends_have_an_origin_of_their_own(start, stage) -> None:
    """A browser is led there, and finds neither the dashboard nor its session."""
    router = await start({"a": stage.model("a")}, pages_origin="http://pages.localhost:8083")
    page = {"sec_fetch_mode": "navigate", "sec_fetch_site": "none"}
    led = await router.ask(from_page(router, "GET", "/upstream/a/x?y=1", **page))
    there = "http://pages.localhost:8083/upstream/a/x?y=1"
    assert (led.status, led.fields["location"]) == (307, there)
    read = await router.ask(from_page(router, "GET", "/upstream/a/health"))
    assert (read.status, read.fields["content-security-policy"]) == (200, "sandbox")
    host = {"host": "pages.localhost:8083"}
    opened = await router.ask(from_page(router, "GET", "/upstream/a/health", **page, **host))
    assert (opened.status, opened.fields.get("content-security-policy")) == (200, None)
    for path in ("/ui/", "/ui/session"):
        answer = await router.ask(from_page(router, "GET", path, **host))
        assert (answer.status, answer.error["code"]) == (404, "dashboard_elsewhere")
    cookie = cookie_of(await router.ask(from_page(router, "GET", "/ui/session")))
    refused = await router.ask(from_page(router, "GET", "/admin/status", cookie=cookie, **host))
    assert (refused.status, refused.error["code"]) == (401, "invalid_admin_token")


async def test_the_chat_ui_is_at_the_origin_of_pages(start, stage) -> None:
    """A page of it is led there; its scripts are not served elsewhere, so none stays behind."""
    router = await start({"a": stage.model("a")}, pages_origin="http://pages.localhost:8083")
    page = {"sec_fetch_mode": "navigate", "sec_fetch_site": "none", "accept": "text/html"}
    led = await router.ask(from_page(router, "GET", "/index.html?q=hello", **page))
    assert led.fields["location"] == "http://pages.localhost:8083/index.html?q=hello"
    worker = await router.ask(from_page(router, "GET", "/sw.js"))
    assert (worker.status, worker.error["code"]) == (404, "no_ui")
    about = await router.ask(from_page(router, "GET", "/?chat=1", accept="application/json"))
    assert about.json()["pages_origin"] == "http://pages.localhost:8083"
