"""What goes wrong is said in the form of the API that was asked for."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import trio

from llama_router.control.web import server
from tests.process.harness import Answer, RawClient, Router, request

pytestmark = pytest.mark.process

MESSAGES = ["/v1/messages", "/v1/messages/count_tokens", "/upstream/a/v1/messages"]
OPENAI = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/other"]
LLAMA_CPP = ["/completion", "/infill", "/tokenize", "/apply-template", "/rerank", "/lora-adapters"]
KEY = "sk-0123456789"


def anthropic(answer: Answer) -> Any:
    """Return the error; fails if it has not Anthropic's form."""
    document = answer.json()
    assert document.keys() == {"type", "error", "request_id"}
    assert document["type"] == "error"
    assert document["request_id"] == answer.fields["request-id"]
    assert "x-request-id" not in answer.fields
    assert document["error"].keys() == {"type", "message"}
    return document["error"]


def llama_cpp(answer: Answer) -> Any:
    """Return the error; fails if it has not llama.cpp's form."""
    (error,) = answer.json().values()
    assert error.keys() == {"code", "message", "type"}
    assert error["code"] == answer.status
    return error


def openai(answer: Answer) -> Any:
    """Return the error; fails if it has not OpenAI's form."""
    return answer.error


FORMS = [
    *[pytest.param(target, anthropic, id=target) for target in MESSAGES[:2]],
    *[pytest.param(target, openai, id=target) for target in OPENAI],
    *[pytest.param(target, llama_cpp, id=target) for target in LLAMA_CPP],
]


#: Bodies that name no model: cut, two objects, a number, text, empty, binary, not UTF-8.
NO_REQUESTS = (
    b'{"model": "a", "x": [1, 2',
    b'{"model": "a"} {"model": "a"}',
    b'{"model": 7}',
    b'"model"',
    b"",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)),
    b'{"model": "\xff\xfe"}',
)


@pytest.fixture
async def router(start, stage) -> Router:
    """A model that answers, one that cannot start, and one that is ready when told."""
    spawn: dict[str, Any] = {"proxy_endpoints": []}
    return await start(
        {
            "a": stage.model("a", spawn=spawn),
            "broken": stage.model("broken", "--exit", "3", spawn=spawn),
            "slow": stage.model("slow", "--health", "told", group="slow", spawn=spawn),
        },
        max_body_mib=1,
        max_restarts=0,
        max_queued=1,
    )


def json_request(target: str, body: bytes, **fields: str) -> bytes:
    """Return the bytes of a POST that says it is JSON."""
    return request("POST", target, body, content_type="application/json", **fields)


@pytest.mark.parametrize(("target", "form"), FORMS)
class TestInEveryForm:
    """Whatever the API, the same mistake has the same status."""

    async def test_a_body_that_is_no_request(self, router, target, form) -> None:
        """400 with a sentence, and the connection goes on."""
        client = await router.connect()
        for body in NO_REQUESTS:
            await client.send(json_request(target, body))
            answer = await client.answer()
            assert answer.status == 400, body
            error = form(answer)
            assert error["type"] == "invalid_request_error"
            assert "body" in error["message"]
            await client.send(json_request(target, b'{"model": "a"}'))
            assert (await client.answer()).status == 200

    async def test_an_unknown_model(self, router, target, form) -> None:
        """404, and its name."""
        answer = await router.ask(json_request(target, b'{"model": "nobody"}'))
        assert answer.status == 404
        assert "'nobody'" in form(answer)["message"]

    async def test_too_large(self, router, target, form) -> None:
        """413, and what sets the limit."""
        answer = await router.ask(json_request(target, b" " * (2 * 1024 * 1024)))
        assert answer.status == 413
        assert "max_body_mib" in form(answer)["message"]

    async def test_a_model_that_cannot_start(self, router, target, form) -> None:
        """503, and why."""
        answer = await router.ask(json_request(target, b'{"model": "broken", "stream": true}'))
        assert answer.status == 503
        assert "exited with code 3" in form(answer)["message"]

    async def test_a_full_queue(self, router, target, form) -> None:
        """429, and when to come back."""
        client = await router.connect()
        await client.send(json_request(target, b'{"model": "slow"}'))
        await router.events.wait("backend.spawned", model="slow")
        answer = await router.ask(json_request(target, b'{"model": "slow"}'))
        assert (answer.status, int(answer.fields["retry-after"]) > 0) == (429, True)
        assert "'slow'" in form(answer)["message"]


ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


@pytest.mark.parametrize("target", MESSAGES)
class TestAnthropicTypes:
    """Each status has Anthropic's name for it, wherever the error arises."""

    async def _check(self, router: Router, data: bytes, status: int) -> None:
        answer = await router.ask(data)
        assert answer.status == status
        assert anthropic(answer)["type"] == ANTHROPIC_TYPES[status]

    async def test_models_and_bodies(self, router, target) -> None:
        """Refused after the body was read, or while it is."""
        bodies = [(b'{"model": "broken"}', 503)]
        if not target.startswith("/upstream"):  # nobody looks into a body there
            bodies += [(b"{" * (2 * 1024 * 1024), 413)]
            bodies += [(b"{", 400), (b'{"model": "nobody"}', 404)]
        for body, status in bodies:
            path = target.replace("/a/", "/broken/" if status == 503 else "/a/")
            await self._check(router, json_request(path, body), status)

    async def test_the_gate(self, start, stage, target) -> None:
        """Refused before a body is read."""
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        router = await start(
            {"a": stage.model("a"), "b": stage.model("b")},
            api_keys={"k": {"sha256": digest, "models": ["b"]}},
        )
        body = b'{"model": "a"}'
        await self._check(router, json_request(target, body), 401)
        await self._check(router, json_request(target, body, x_api_key="sk-wrong-and-long"), 401)
        await self._check(router, json_request(target, body, x_api_key=KEY), 404)
        foreign = json_request(target, body, x_api_key=KEY, origin="https://evil.example")
        await self._check(router, foreign, 403)

    async def test_before_a_stream_begins(self, router, target) -> None:
        """Without notices, a load that fails has its own status."""
        path = target.replace("/a/", "/broken/")
        await self._check(router, json_request(path, b'{"model": "broken", "stream": true}'), 503)


async def test_an_error_is_found_in_the_log_by_its_request_id(router) -> None:
    """On both planes, and also where no request could be read; Ollama knows no such thing."""
    for data, event, code in (
        (json_request("/v1/messages", b'{"model": "nobody"}'), "request.refused", 404),
        (json_request("/v1/chat/completions", b"{"), "request.refused", 400),
        (json_request("/upstream/nobody/v1/messages", b"{}"), "request.refused", 404),
        (b"no request\r\n\r\n", "request.refused", 400),
        (json_request("/admin/reload", b"{}"), "control.refused", 401),
    ):
        answer = await router.ask(data)
        given = answer.fields.get("request-id") or answer.fields["x-request-id"]
        (logged,) = router.events.named(event, request_id=given)
        assert answer.status == logged["status"] == code
    answer = await router.ask(json_request("/api/chat", b'{"model": "nobody"}'))
    assert not [name for name in answer.fields if "request-id" in name]


async def test_an_answer_is_found_in_the_log_by_its_request_id(router) -> None:
    """On both planes; the field is that of the API, and Ollama knows no such thing."""
    for path, field in (("/v1/messages", "request-id"), ("/v1/completions", "x-request-id")):
        answer = await router.ask(json_request(path, b'{"model": "a"}'))
        assert answer.status == 200
        assert await router.events.wait("request.completed", request_id=answer.fields[field])
    answer = await router.ask(request("GET", "/v1/models"))
    assert answer.fields["x-request-id"].startswith("req_")
    answer = await router.ask(request("GET", "/api/tags"))
    assert not [name for name in answer.fields if "request-id" in name]


async def test_a_mistake_in_large_json_is_the_backends_affair(router) -> None:
    """It is not checked as a whole; that it ends is."""
    for filler, status in ((b"x", 400), (b"x" * 300 * 1024, 200)):
        wrong = b'{"model": "a", "prompt": "%b", "n": tru}' % filler
        assert (await router.ask(json_request("/v1/echo", wrong))).status == status
        assert (await router.ask(json_request("/v1/echo", wrong[:-1]))).status == 400


class TestTooLargeForTheRouter:
    """What the router answers itself has limits, too."""

    async def test_of_ollama(self, router) -> None:
        """413, and what sets the limit."""
        answer = await router.ask(request("POST", "/api/chat", content_length=str(2 * 1024 * 1024)))
        assert answer.status == 413
        assert answer.json() == {"error": "the request body is over 1 MiB (max_body_mib)"}

    async def test_of_llama_cpp(self, router) -> None:
        """413; nothing sets the limit."""
        length = str(2 * 1024 * 1024)
        answer = await router.ask(request("POST", "/models/load", content_length=length))
        assert (answer.status, answer.error["code"]) == (413, "body_too_large")
        assert answer.error["message"] == "the request body is over 1 MiB"


LARGE = bytes(16 * 1024 * 1024)


async def pour(client: RawClient) -> None:
    """Send without end, until the connection breaks."""
    while True:
        await client.send(bytes(65536))


class TestAnsweredWhileItSends:
    """Whoever sends all of a large request before it reads gets the answer, and then the end."""

    @pytest.mark.parametrize(
        ("target", "status"),
        [
            ("/models/load", 413),
            ("/api/chat", 413),
            ("/admin/reload", 401),
            ("/v1/models", 405),
        ],
    )
    @pytest.mark.parametrize("chunked", [False, True])
    async def test_of_the_control_plane(self, router, target, status, *, chunked: bool) -> None:
        """However it says how long it is."""
        client = await router.connect()
        if chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE)
            await client.send(request("POST", target, transfer_encoding="chunked") + data)
        else:
            await client.send(request("POST", target, LARGE))
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (status, "close")
        assert await client.rest() == b""

    async def test_of_an_ordinary_client(self, router) -> None:
        """It sees the status and the sentence."""
        async with router.http() as client:
            answer = await client.post("/models/load", content=LARGE)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")

    async def test_of_a_client_that_goes_on_for_ever(self, router, monkeypatch) -> None:
        """It is cut off after a while."""
        monkeypatch.setattr(server, "LINGER_S", 0.1)
        client = await router.connect()
        await client.send(request("POST", "/models/load", content_length=str(2**40)))
        assert (await client.answer()).status == 413
        with pytest.raises(trio.BrokenResourceError):
            await pour(client)


class TestMethods:
    """Another method than an endpoint has is 405, and ``Allow`` says which it has."""

    @pytest.mark.parametrize(
        "target", ["/v1/chat/completions", "/v1/messages", "/infill", "/v1/audio/speech"]
    )
    async def test_wrong(self, router, target) -> None:
        """No body is needed to be told so, and nothing is loaded."""
        for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"):
            answer = await router.ask(request(method, target, None if method != "PUT" else b"x"))
            assert (answer.status, answer.fields["allow"]) == (405, "POST"), method
            assert answer.body if method != "HEAD" else not answer.body
        assert router.spawned() == []

    async def test_its_form(self, router) -> None:
        """It is an error of the API like any other."""
        answer = await router.ask(request("GET", "/v1/messages"))
        assert anthropic(answer)["type"] == "invalid_request_error"
        answer = await router.ask(request("GET", "/v1/chat/completions"))
        assert openai(answer)["code"] == "method_not_allowed"
        assert llama_cpp(await router.ask(request("GET", "/completion")))

    @pytest.mark.parametrize(
        ("method", "target", "allow"),
        [
            ("POST", "/health", "GET, HEAD"),
            ("DELETE", "/props", "GET, HEAD, POST"),
            ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
            ("PUT", "/lora-adapters", "GET, HEAD, POST"),
        ],
    )
    async def test_others(self, router, method, target, allow) -> None:
        """Also where something else than POST is right."""
        answer = await router.ask(request(method, target, b"{}"))
        assert (answer.status, answer.fields["allow"]) == (405, allow)

    async def test_an_unknown_path_has_no_methods(self, router) -> None:
        """It is not there at all."""
        answer = await router.ask(request("GET", "/v1/other"))
        assert (answer.status, "allow" in answer.fields) == (404, False)

    async def test_who_names_a_model_lets_its_backend_judge(self, router) -> None:
        """There may be backends that know more methods than the router."""
        answer = await router.ask(request("GET", "/v1/chat/completions?model=a"))
        assert (answer.status, answer.json()["method"]) == (200, "GET")

    async def test_a_preflight_still_works(self, start, stage) -> None:
        """A listed page may ask first, on the same path."""
        router = await start({"a": stage.model("a")}, cors_origins=["https://page.example"])
        answer = await router.ask(
            request(
                "OPTIONS",
                "/v1/chat/completions",
                origin="https://page.example",
                access_control_request_method="POST",
            )
        )
        assert answer.status == 204
        assert answer.fields["access-control-allow-origin"] == "https://page.example"


class TestOtherContent:
    """A backend may answer with something else than what was asked for."""

    async def test_a_page_passes_untouched(self, router, stage) -> None:
        """As long as nothing was sent, its answer is the answer."""
        client = await router.connect()
        body = b'{"model": "a", "stream": true}'
        await client.send(json_request("/v1/chat/completions?script", body))
        script = await (await stage.backend("a")).request()
        page = b"<html><h1>502 Bad Gateway</h1></html>"
        head = b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\n"
        await script.send(head + b"content-length: %d\r\n\r\n%b" % (len(page), page))
        answer = await client.answer()
        assert (answer.status, answer.fields["content-type"]) == (502, "text/html")
        assert answer.body == page

    @pytest.mark.parametrize(
        ("target", "form"), [("/v1/messages", "messages"), ("/completion", "llama.cpp")]
    )
    @pytest.mark.parametrize(
        ("status", "content_type", "body"),
        [
            ("200 OK", "application/json", b'{"id": "a whole answer"}'),
            ("502 Bad Gateway", "text/html", b"<html>\xff</html>"),
            ("200 OK", "text/event-stream\r\ncontent-encoding: gzip", b"\x1f\x8b\x08"),
        ],
    )
    async def test_after_a_notice(
        self, router, stage, target, form, status, content_type, body
    ) -> None:
        """It becomes an error event of the API, and the stream ends properly."""
        client = await router.connect()
        asked = b'{"model": "slow", "stream": true}'
        await client.send(json_request(f"{target}?script", asked, x_notify_model_swap="true"))
        assert (await client.head()).fields["content-type"] == "text/event-stream"
        backend = await stage.backend("slow")
        await backend.do("ready")
        script = await backend.request()
        head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\n"
        await script.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        received = b""
        while data := await client.chunk():
            received += data
        *_, last = received.removesuffix(b"\n\n").split(b"\n\n")
        error = json.loads(last.partition(b"data: ")[2])["error"]
        assert "instead of a stream" in error["message"]
        if form == "messages":
            assert last.startswith(b"event: error\n")
            assert error.keys() == {"type", "message"}
        else:
            assert isinstance(error["code"], int)
