"""Any path of a model's backend, below /upstream/."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
from wsproto.events import AcceptConnection, TextMessage

from tests.process.harness import RawClient, Router, Stage, post, request
from tests.process.websocket_client import connect

pytestmark = pytest.mark.process

KEY = "sk-0123456789"
TOKEN = "t" * 20


@pytest.fixture
async def router(start, stage) -> Router:
    """Models with plain and with awkward names, two at a time; none is loaded."""
    return await start(
        {
            "a": stage.model("a", group="g", notify_model_swap=True),
            "owner/repo:Q4": stage.model("b", group="g", aliases=["a/b"]),
        }
    )


class TestWhatIsPassedOn:
    """The backend sees the rest of the path, and all else as it was."""

    @pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
    async def test_any_method(self, router, method) -> None:
        """The model is loaded; method, query, fields and body arrive."""
        data = request(method, "/upstream/a/any/thing?model=b&x=%2f", b"\0binary", x_own="1")
        answer = await router.ask(data)
        assert answer.status == 200
        got = answer.json()
        assert (got["name"], got["method"]) == ("a", method)
        assert (got["target"], got["body"]) == ("/any/thing?model=b&x=%2f", "\0binary")
        assert dict(got["fields"])["x-own"] == "1"
        done = await router.events.wait("request.completed", model="a")
        assert (done["path"], done["outcome"]) == ("/upstream/a/any/thing", "ok")

    async def test_head(self, router) -> None:
        """Its answer has no body, and the connection goes on."""
        client = await router.connect()
        await client.send(request("HEAD", "/upstream/a/x"))
        answer = await client.answer(bodiless=True)
        assert (answer.status, int(answer.fields["content-length"]) > 0) == (200, True)
        await client.send(request("GET", "/upstream/a/x"))
        assert (await client.answer()).json()["method"] == "GET"

    async def test_options_that_no_browser_sent(self, router) -> None:
        """It is a method like any other."""
        answer = await router.ask(request("OPTIONS", "/upstream/a/x"))
        assert answer.json()["method"] == "OPTIONS"

    @pytest.mark.parametrize(
        ("target", "name", "seen"),
        [
            ("/upstream/owner/repo:Q4/v1/x", "b", "/v1/x"),
            ("/upstream/owner%2Frepo%3AQ4/v1/x", "b", "/v1/x"),
            ("/upstream/a/b/c%2Fd//e/../f", "b", "/c%2Fd//e/../f"),
            ("/upstream/a/c/b", "a", "/c/b"),
            ("/upstream/a//", "a", "//"),
            ("/upstream/a/?", "a", "/"),
        ],
    )
    async def test_names_and_paths(self, router, target, name, seen) -> None:
        """The longest name counts, slashes and all; the rest is as the client wrote it."""
        got = (await router.ask(request("GET", target))).json()
        assert (got["name"], got["target"].rstrip("?")) == (name, seen)

    async def test_redirects_and_cookies_stay_as_they_are(self, router, stage) -> None:
        """They mean the backend's own addresses, and only it knows which."""
        client = await router.connect()
        await client.send(request("GET", "/upstream/a/x?script"))
        script = await (await stage.backend("a")).request()
        head = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/there\r\n"
        await script.send(head + b"set-cookie: a=b; Path=/\r\ncontent-length: 0\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.fields["location"]) == (302, "http://127.0.0.1:9/there")
        assert answer.fields["set-cookie"] == "a=b; Path=/"


class TestWaiting:
    """It waits like any other request, but never gets anything that is not the backend's."""

    async def test_no_notices(self, start, stage) -> None:
        """Though the model gives them, and a stream is asked for in every way."""
        table = stage.model("a", "--health", "told", notify_model_swap=True)
        router = await start({"a": table}, notify_model_swap=True)
        client = await router.connect()
        fields = {"accept": "text/event-stream", "x_notify_model_swap": "true"}
        body = b'{"model": "a", "stream": true}'
        target = "/upstream/a/v1/chat/completions?script"
        await client.send(request("POST", target, body, **fields))
        backend = await stage.backend("a")
        await backend.do("ready")
        script = await backend.request()
        assert script.body.encode() == body
        await script.begin_stream()
        await script.chunk(b"data: 1\n\n")
        assert (await client.head()).fields["content-type"] == "text/event-stream"
        assert await client.chunk() == b"data: 1\n\n"

    async def test_a_websocket_loads_the_model(self, start) -> None:
        """The handshake waits for it; then bytes go both ways."""
        backend = Path(__file__).with_name("websocket_backend.py")
        router = await start(
            {"w/s": {"spawn": {"command": [sys.executable, str(backend), "$port"]}}}
        )
        socket = await connect(router, "/upstream/w/s/v1/echo")
        assert isinstance(await socket.event(), AcceptConnection)
        await socket.send(TextMessage("hello"))
        event = await socket.event()
        assert isinstance(event, TextMessage)
        assert event.data == "hello"
        assert router.of("w/s").in_flight == 1


class TestRefused:
    """What never reaches a backend."""

    async def test_an_unknown_model(self, router) -> None:
        """It is named by what stands before the first slash."""
        answer = await router.ask(request("GET", "/upstream/nobody/v1/models"))
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        assert "'nobody'" in answer.error["message"]

    @pytest.mark.parametrize("target", ["/upstream", "/upstream/"])
    async def test_no_model(self, router, target) -> None:
        """There is nothing there."""
        answer = await router.ask(request("GET", target))
        assert (answer.status, answer.error["code"]) == (404, "not_found")

    @pytest.mark.parametrize("method", ["GET", "POST"])
    async def test_no_slash_behind_the_name(self, router, method) -> None:
        """The client is sent to where relative links work; nothing is loaded for that."""
        client = await router.connect()
        await client.send(request(method, "/upstream/owner%2Frepo:Q4?x=1"))
        answer = await client.answer()
        assert (answer.status, answer.body) == (307, b"")
        assert answer.fields["location"] == "./owner%2Frepo:Q4/?x=1"
        assert router.spawned() == []
        await client.send(
            request("GET", f"/upstream/{answer.fields['location']}".replace("/./", "/"))
        )
        assert (await client.answer()).json()["target"] == "/?x=1"

    async def test_a_page_of_another_site(self, router) -> None:
        """It may not even ask."""
        for method in ("GET", "OPTIONS"):
            data = request(
                method,
                "/upstream/a/x",
                origin="https://evil.example",
                access_control_request_method="GET",
            )
            answer = await router.ask(data)
            assert (answer.status, answer.error["code"]) == (403, "origin_not_allowed")

    async def test_a_preflight_of_a_listed_page(self, start, stage) -> None:
        """The router answers it, without loading the model."""
        router = await start({"a": stage.model("a")}, cors_origins=["https://page.example"])
        data = request(
            "OPTIONS",
            "/upstream/a/x",
            origin="https://page.example",
            access_control_request_method="PUT",
        )
        answer = await router.ask(data)
        assert answer.status == 204
        assert "PUT" in answer.fields["access-control-allow-methods"]
        assert router.spawned() == []


class TestWhoMay:
    """Paths outside proxy_endpoints are for those who may change models."""

    @staticmethod
    async def _guarded(start, stage: Stage, **router: object) -> Router:
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        return await start(
            {"a": stage.model("a", spawn={"proxy_endpoints": ["/v1/"]}), "b": stage.model("b")},
            models_api="admin",
            admin_token=TOKEN,
            api_keys={"k": {"sha256": digest, "models": ["a"]}},
            **router,
        )

    async def test_a_listed_path(self, start, stage) -> None:
        """An API key is enough."""
        router = await self._guarded(start, stage)
        answer = await router.ask(request("GET", "/upstream/a/v1/x", x_api_key=KEY))
        assert answer.json()["target"] == "/v1/x"

    async def test_another_path(self, start, stage) -> None:
        """It takes the admin token, too; the backend sees neither."""
        router = await self._guarded(start, stage)
        refused = await router.ask(request("GET", "/upstream/a/slots", x_api_key=KEY))
        assert (refused.status, refused.error["code"]) == (401, "invalid_admin_token")
        dots = await router.ask(request("GET", "/upstream/a/v1/../slots", x_api_key=KEY))
        assert dots.status == 401
        assert router.spawned() == []
        answer = await router.ask(
            request("GET", "/upstream/a/slots", x_api_key=KEY, x_admin_token=TOKEN)
        )
        assert answer.json()["target"] == "/slots"
        assert not {"x-api-key", "x-admin-token"} & dict(answer.json()["fields"]).keys()

    async def test_the_admin_token_without_keys(self, start, stage) -> None:
        """As a bearer it reaches no backend either."""
        router = await start({"a": stage.model("a")}, models_api="admin", admin_token=TOKEN)
        answer = await router.ask(
            request("GET", "/upstream/a/other", authorization=f"Bearer {TOKEN}")
        )
        assert answer.status == 200
        assert "authorization" not in dict(answer.json()["fields"])

    async def test_no_key_and_another_model(self, start, stage) -> None:
        """Neither gets through, nor is sent anywhere."""
        router = await self._guarded(start, stage)
        assert (await router.ask(request("GET", "/upstream/a/v1/x"))).status == 401
        for target in ("/upstream/b/v1/x", "/upstream/b"):
            answer = await router.ask(request("GET", target, x_api_key=KEY))
            assert (answer.status, answer.error["code"]) == (404, "model_not_found")


async def test_a_client_that_leaves_frees_its_place(start, stage) -> None:
    """While it waits for the model, nothing is left of it."""
    router = await start({"a": stage.model("a", "--health", "told")})
    client: RawClient = await router.connect()
    await client.send(request("GET", "/upstream/a/x"))
    await stage.backend("a")
    await client.stream.aclose()
    await router.events.wait("request.completed", outcome="client_gone")
    assert (router.of("a").queued, router.of("a").in_flight) == (0, 0)


async def test_the_fast_lane_shares_its_connections(router) -> None:
    """Requests of both kinds use one kept connection to the backend."""
    first = (await router.ask(request("GET", "/upstream/a/x"))).json()
    second = (await router.ask(post("/v1/x", "a"))).json()
    assert (first["pid"], first["number"]) == (second["pid"], second["number"])


@pytest.mark.parametrize(
    "data",
    [
        post("/tokenize", "a"),
        post("/v1/messages/count_tokens", "a"),
        request("GET", "/upstream/a/"),
    ],
    ids=["tokenize", "count_tokens", "page"],
)
async def test_what_takes_no_slot_is_answered_beside_a_stream(start, stage, data) -> None:
    """The stream takes the only slot; another chat would wait."""
    router = await start({"a": stage.model("a", max_in_flight=1)})
    client = await router.connect()
    await client.send(post("/v1/script", "a", stream=True))
    scripted = await (await stage.backend("a")).request()
    await scripted.begin_stream()
    await client.head()
    assert (await router.ask(data)).json()["name"] == "a"
    assert (await router.ask(data)).json()["name"] == "a"
