"""What clients may send to a router, good and bad, and what they get."""

from __future__ import annotations

import json

import pytest
import trio

from tests.process.harness import post, request

pytestmark = pytest.mark.process

MIB = 1024 * 1024
ECHO = "/v1/echo"


@pytest.fixture
async def router(start, stage):
    """A router with one model, ``a``, that echoes."""
    return await start({"a": stage.model("a", aliases=["alias"])}, max_body_mib=1)


def chunked(*chunks: bytes) -> bytes:
    """Return a chunked body."""
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


class TestRefused:
    """Requests that no backend sees; each answer says why, and the router goes on."""

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            (b"", None),
            (b"hello", None),
            (b"[1, 2]", None),
            (b'{"model": "a"', None),
            (b"{}", "model"),
            (b'{"model": null}', "model"),
            (b'{"model": 5}', "model"),
            (b"[" * 100_000, None),
        ],
        ids=["empty", "text", "array", "cut", "no-model", "null", "number", "deep"],
    )
    async def test_a_body_without_a_model_is_400(self, router, body, param) -> None:
        """The error names the field where there is one; the connection stays usable."""
        client = await router.connect()
        await client.send(request("POST", ECHO, body, content_type="application/json"))
        answer = await client.answer()
        assert answer.status == 400
        assert answer.error["type"] == "invalid_request_error"
        assert answer.error["param"] == param
        await client.send(post(ECHO, "a"))
        assert (await client.answer()).status == 200

    async def test_an_unknown_model_is_404(self, router) -> None:
        """The error has OpenAI's code, and says which models there are."""
        answer = await router.ask(post(ECHO, "nobody"))
        assert answer.status == 404
        assert answer.error["code"] == "model_not_found"
        assert answer.error["param"] == "model"
        assert "'nobody'" in answer.error["message"]
        assert "'a'" in answer.error["message"]

    @pytest.mark.parametrize(
        "oversized",
        [
            request("POST", ECHO, b" " * (2 * MIB)),
            request("POST", ECHO, transfer_encoding="chunked") + chunked(*[b" " * 65536] * 32),
        ],
        ids=["length", "chunked"],
    )
    async def test_a_body_over_the_limit_is_413(self, router, oversized) -> None:
        """A client that sends everything before it reads still gets the answer, then the end."""
        client = await router.connect()
        await client.send(oversized)
        answer = await client.answer()
        assert answer.status == 413
        assert answer.error["code"] == "body_too_large"
        assert "max_body_mib" in answer.error["message"]
        assert answer.fields["connection"] == "close"
        assert await client.rest() == b""

    async def test_a_body_of_just_the_limit_passes(self, router) -> None:
        """One MiB is not over one MiB."""
        start = b'{"model": "a", "x": "'
        body = start + b"x" * (MIB - len(start) - 2) + b'"}'
        answer = await router.ask(request("POST", ECHO, body))
        assert answer.status == 200
        assert len(answer.json()["body"]) == MIB

    async def test_a_head_of_1_mib_is_431(self, router) -> None:
        """The answer can be read, although the client was still sending."""
        client = await router.connect()
        await client.send(request("GET", "/health", big="x" * MIB))
        answer = await client.answer()
        assert answer.status == 431
        assert answer.error["code"] == "header_too_large"
        assert await client.rest() == b""

    @pytest.mark.parametrize(
        "data",
        [
            request("POST", ECHO, b"{}", transfer_encoding="chunked"),
            request("POST", ECHO, b"{}", Content_Length="3"),
            request("POST", ECHO, content_length="-2") + b"{}",
            b"GET /health HTTP/1.1\r\nhost: x\r\n folded: yes\r\n\r\n",
            b"GET /health HTTP/1.1\r\n\r\n",
            b"hello\r\n\r\n",
            request("POST", ECHO, transfer_encoding="chunked") + b"zz\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32)),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ],
        ids=[
            *("both", "lengths", "negative", "folded", "no-host"),
            *("no-http", "bad-chunk", "tls", "http2"),
        ],
    )
    async def test_what_is_not_http11_is_refused_and_closed(self, router, data) -> None:
        """No byte behind it is taken for another request."""
        client = await router.connect()
        await client.send(data)
        answer = await client.answer()
        assert answer.status == (505 if data.startswith(b"PRI") else 400)
        assert answer.error["type"] == "invalid_request_error"
        assert answer.fields["connection"] == "close"
        assert await client.rest() == b""

    @pytest.mark.parametrize("size_bytes", [1, 20, 100, -1])
    async def test_half_a_request_costs_nothing(self, router, size_bytes) -> None:
        """A client that leaves in its head or body is forgotten; the next one is served."""
        client = await router.connect()
        await client.send(post(ECHO, "a", x="x" * 100)[:size_bytes])
        await client.stream.aclose()
        assert (await router.ask(post(ECHO, "a"))).status == 200
        assert len(router.events.named("request.completed", outcome="ok")) == 1

    async def test_a_path_outside_proxy_endpoints_is_404(self, router) -> None:
        """The error lists what is allowed; the model is not loaded for it."""
        answer = await router.ask(post("/v3/echo", "a"))
        assert answer.status == 404
        assert answer.error["code"] == "endpoint_not_allowed"
        assert "/v1/" in answer.error["message"]
        assert router.spawned() == []

    @pytest.mark.parametrize(
        ("method", "target", "status"),
        [("GET", "/nothing", 404), ("DELETE", "/v1/models", 405), ("OPTIONS", "/x", 404)],
    )
    async def test_control_errors_are_json_too(self, router, method, target, status) -> None:
        """404 and 405 of the control plane look like all others; connections are one-shot."""
        client = await router.connect()
        await client.send(request(method, target))
        answer = await client.answer()
        assert answer.status == status
        assert answer.error["type"] == "invalid_request_error"
        assert await client.rest() == b""


class TestNames:
    """The ways to name a model."""

    async def test_multipart_form(self, router) -> None:
        """The form field ``model`` routes; the form reaches the backend byte by byte."""
        form = (
            b'--X\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n\x00\xff\r\n'
            b'--X\r\ncontent-disposition: form-data; name="model"\r\n\r\na\r\n--X--\r\n'
        )
        data = request("POST", ECHO, form, content_type="multipart/form-data; boundary=X")
        answer = await router.ask(data)
        assert answer.status == 200
        assert answer.json()["body"].encode("latin-1") == form

    async def test_query(self, router) -> None:
        """GET with ``?model=`` loads the model; the backend sees the whole target."""
        answer = await router.ask(request("GET", "/v1/echo?model=a&x=1"))
        assert answer.json()["target"] == "/v1/echo?model=a&x=1"
        assert router.spawned() == ["a"]

    async def test_alias(self, router) -> None:
        """An alias reaches the model; the body is not rewritten."""
        answer = await router.ask(post(ECHO, "alias"))
        assert answer.json()["name"] == "a"
        assert json.loads(answer.json()["body"]) == {"model": "alias"}

    @pytest.mark.parametrize("prefix", ["/org/m:q4", "/org%2Fm%3Aq4", "/org%2fm:q4"])
    async def test_health_of_one_model(self, start, stage, prefix) -> None:
        """Names with slash and colon work in paths, percent-encoded or not; never loads."""
        router = await start({"org/m:q4": stage.model("m")})
        answer = await router.ask(request("GET", f"{prefix}/health"))
        assert answer.status == 503
        assert answer.error["code"] == "no_models_running"
        assert router.spawned() == []
        assert (await router.ask(post(ECHO, "org/m:q4"))).status == 200
        assert (await router.ask(request("GET", f"{prefix}/health"))).json() == {"status": "ok"}
        props = await router.ask(request("GET", f"{prefix}/props?x=1"))
        assert props.json()["target"] == "/props?x=1"

    async def test_health_of_an_unknown_model(self, router) -> None:
        """A model that is not configured is 404, not 503."""
        answer = await router.ask(request("GET", "/nobody/health"))
        assert answer.status == 404
        assert answer.error["code"] == "model_not_found"

    async def test_health_of_the_last_spawned_model(self, router) -> None:
        """Without a model it is the router's, because it is ready to load; then the model's."""
        assert (await router.ask(request("GET", "/health"))).json() == {"status": "ok"}
        assert router.spawned() == []
        await router.ask(post(ECHO, "a"))
        assert (await router.ask(request("GET", "/health"))).json() == {"status": "ok"}
        assert (await router.ask(request("GET", "/slots"))).status == 200

    @pytest.mark.parametrize("target", ["/health", "/v1/health", "/readyz", "/props"])
    async def test_health_while_the_only_wanted_model_loads(self, start, stage, target) -> None:
        """It is 503 until the model is ready; the router is alive all the time."""
        router = await start({"a": stage.model("a", "--health", "told")})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(router.ask, post(ECHO, "a"))
            backend = await stage.backend("a")
            answer = await router.ask(request("GET", target))
            assert (answer.status, answer.error["code"]) == (503, "model_loading")
            assert (await router.ask(request("GET", "/livez"))).json() == {"status": "ok"}
            await backend.do("ready")
        assert (await router.ask(request("GET", target))).status == 200

    @pytest.mark.parametrize("target", ["/livez", "/readyz", "/health"])
    async def test_health_keeps_the_connection(self, router, target) -> None:
        """A supervisor may ask again on it; HEAD has no body."""
        client = await router.connect()
        await client.send(request("HEAD", target) + request("GET", target))
        assert (await client.answer(bodiless=True)).status == 200
        assert (await client.answer()).json() == {"status": "ok"}

    async def test_props_of_an_idle_router(self, router) -> None:
        """They are the router's, as with ``?autoload``; a running model's take their place."""
        answer = await router.ask(request("GET", "/props"))
        assert answer.json()["role"] == "router"
        assert answer.json() == (await router.ask(request("GET", "/props?autoload=false"))).json()
        assert (answer.json()["max_instances"], answer.json()["models_autoload"]) == (1, True)
        await router.ask(post(ECHO, "a"))
        assert (await router.ask(request("GET", "/props"))).json()["target"] == "/props"

    async def test_health_is_asked_where_the_backend_has_it(self, start, stage) -> None:
        """At ``health_endpoint``; a backend that does not serve it leaves it to the router."""
        model = stage.model("a")
        model["spawn"]["proxy_endpoints"] = ["/v1/"]
        router = await start({"a": model})
        await router.ask(post(ECHO, "a"))
        assert (await router.ask(request("GET", "/health"))).json() == {"status": "ok"}

    @pytest.mark.parametrize("target", ["/v1/models", "/models"])
    async def test_list_of_models(self, start, stage, target) -> None:
        """OpenAI's list, with the state of each model, in the order of the file."""
        router = await start({"b": stage.model("b", "--health", "told"), "a": stage.model("a")})
        async with router.http() as http:
            before = (await http.get(target)).json()
            await http.post(ECHO, json={"model": "a"})
            after = (await http.get(target)).json()
        assert before["object"] == "list"
        assert [entry["id"] for entry in before["data"]] == ["b", "a"]
        assert {entry["object"] for entry in before["data"]} == {"model"}
        assert all(isinstance(entry["created"], int) for entry in before["data"])
        assert [entry["status"]["value"] for entry in before["data"]] == ["unloaded"] * 2
        assert [entry["status"]["value"] for entry in after["data"]] == ["unloaded", "loaded"]


class TestHttp:
    """The protocol itself."""

    async def test_head_has_no_body(self, router) -> None:
        """HEAD keeps the length field, sends no byte of body, and the connection goes on."""
        client = await router.connect()
        await client.send(request("HEAD", "/v1/echo?model=a"))
        answer = await client.answer(bodiless=True)
        assert answer.status == 200
        assert int(answer.fields["content-length"]) > 0
        await client.send(post(ECHO, "a"))
        assert (await client.answer()).json()["method"] == "POST"

    async def test_head_of_an_error_has_no_body(self, router) -> None:
        """The router's own answers obey HEAD, too."""
        client = await router.connect()
        await client.send(request("HEAD", "/slots") * 2)
        assert [(await client.answer(bodiless=True)).status for _ in range(2)] == [503, 503]

    async def test_expect_100_continue(self, router) -> None:
        """A client that waits for the word gets it, once, and then its answer."""
        client = await router.connect()
        head, _, body = post(ECHO, "a").partition(b"\r\n\r\n")
        await client.send(head + b"\r\nexpect: 100-continue\r\n\r\n")
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(body)
        answer = await client.answer()
        assert answer.status == 200
        assert "expect" not in dict(answer.json()["fields"])

    async def test_expect_100_continue_of_too_much(self, router) -> None:
        """A body that is announced as too large is refused before it is sent."""
        client = await router.connect()
        await client.send(request("POST", ECHO, expect="100-continue", content_length=str(2 * MIB)))
        assert (await client.answer()).status == 413

    async def test_chunked_upload(self, router) -> None:
        """A chunked body arrives whole; what follows is the next request."""
        client = await router.connect()
        upload = request("POST", ECHO, transfer_encoding="chunked")
        upload += chunked(b'{"mod', b'el": ', b'"a"}')
        await client.send(upload + post(ECHO, "a", second=True))
        first = (await client.answer()).json()
        assert json.loads(first["body"]) == {"model": "a"}
        assert dict(first["fields"])["content-length"] == "14"
        assert "transfer-encoding" not in dict(first["fields"])
        assert "second" in (await client.answer()).json()["body"]

    async def test_a_request_byte_by_byte(self, router) -> None:
        """However small the pieces are, the request is the same."""
        client = await router.connect()
        for byte in post(ECHO, "a"):
            await client.send(bytes([byte]))
        assert (await client.answer()).status == 200

    async def test_pipelined_requests_are_answered_in_order(self, router) -> None:
        """Several POSTs in one packet, an error among them, get one answer each."""
        client = await router.connect()
        posts = [post(ECHO, "a", n=n) for n in range(4)]
        posts[2] = post(ECHO, "nobody")
        await client.send(b"".join(posts))
        answers = [await client.answer() for _ in posts]
        assert [answer.status for answer in answers] == [200, 200, 404, 200]
        served = [answers[n].json()["body"] for n in (0, 1, 3)]
        assert [json.loads(body)["n"] for body in served] == [0, 1, 3]

    async def test_empty_lines_before_a_control_request(self, router) -> None:
        """They are ignored, as before any other request."""
        answer = await router.ask(b"\r\n" + request("GET", "/v1/models"))
        assert answer.status == 200

    async def test_a_control_request_behind_a_proxied_one(self, router) -> None:
        """Both planes answer on one connection, in order, and what follows is not lost silently."""
        client = await router.connect()
        await client.send(post(ECHO, "a") + request("GET", "/v1/models") + post(ECHO, "a"))
        assert (await client.answer()).json()["name"] == "a"
        listed = await client.answer()
        assert listed.json()["object"] == "list"
        assert listed.fields["connection"] == "close"
        assert await client.rest() == b""

    async def test_connections_are_kept_on_both_sides(self, router) -> None:
        """Requests one after the other use one connection to the router and one behind it."""
        client = await router.connect()
        used = set()
        for _ in range(5):
            await client.send(post(ECHO, "a"))
            used.add((await client.answer()).json()["number"])
        assert len(used) == 1

    async def test_http10_client(self, router) -> None:
        """HTTP/1.0 ends the connection with the answer, unless it asks otherwise."""
        body = b'{"model": "a"}'
        client = await router.connect()
        await client.send(request("POST", ECHO, body, version="1.0", connection="keep-alive"))
        first = await client.answer()
        assert first.fields["connection"] == "keep-alive"
        await client.send(request("POST", ECHO, body, version="1.0"))
        assert (await client.answer()).fields["connection"] == "close"
        assert await client.rest() == b""

    async def test_http10_client_of_a_stream(self, router, stage) -> None:
        """It gets a chunked answer decoded, ended by the connection."""
        client = await router.connect()
        await client.send(request("POST", "/v1/script", b'{"model": "a"}', version="1.0"))
        script = await (await stage.backend("a")).request()
        await script.begin_stream()
        for text in (b"data: 1\n\n", b"data: 2\n\n", b""):
            await script.chunk(text)
        answer = await client.answer()
        assert "transfer-encoding" not in answer.fields
        assert answer.body == b"data: 1\n\ndata: 2\n\n"

    async def test_hop_by_hop_fields_stay_here(self, router) -> None:
        """What concerns only the client's connection is not passed on; the rest is."""
        data = request("GET", "/v1/echo?model=a", connection="x-own", x_own="1", te="gzip", x_b="2")
        fields = dict((await router.ask(data)).json()["fields"])
        assert fields.keys().isdisjoint({"connection", "x-own", "te"})
        assert fields["x-b"] == "2"

    async def test_an_offer_of_http2_is_not_passed_on(self, router) -> None:
        """An offer to switch to anything but WebSocket is ignored, as is allowed."""
        data = request("GET", "/v1/echo?model=a", connection="upgrade", upgrade="h2c")
        answer = await router.ask(data)
        assert answer.status == 200
        assert "upgrade" not in dict(answer.json()["fields"])

    async def test_stream_chunks_come_as_they_are_sent(self, router, stage) -> None:
        """Every chunk reaches the client before the next one exists."""
        client = await router.connect()
        await client.send(post("/v1/script", "a", stream=True))
        script = await (await stage.backend("a")).request()
        await script.begin_stream()
        assert (await client.head()).fields["content-type"] == "text/event-stream"
        for text in (b"data: 1\n\n", b"data: 2\n\n", b"data: [DONE]\n\n", b""):
            await script.chunk(text)
            assert await client.chunk() == text
        await client.send(post(ECHO, "a"))
        assert (await client.answer()).status == 200
