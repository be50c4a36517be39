"""Answers to requests for a preset bear its name, however they are framed."""

from __future__ import annotations

import json

import pytest

from tests.process.harness import Answer, RawClient, Router, Scripted, Stage, post, request

pytestmark = pytest.mark.process

CHAT = "/v1/chat/completions?script"
EVENT = b'data: {"model":"a","choices":[{"delta":{"content":"\\"model\\":\\"a\\""}}]}\n\n'
LAST = b'data: {"model":"a","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = b'{"choices":[{"message":{"model":"a"}}],"model": "/m/a.gguf","usage":{"prompt_tokens":7}}'
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def renamed(data: bytes, name: bytes = b"a:fast") -> bytes:
    """Return *data* with that name in it, where it belongs."""
    data = data.replace(b'{"model":"a","', b'{"model":"%b","' % name)
    return data.replace(b'"/m/a.gguf"', b'"%b"' % name)


@pytest.fixture
async def router(start, stage) -> Router:
    """A model with presets and an alias; one of the presets sets nothing."""
    presets: dict[str, dict[str, object]] = {"fast": {"n": 2}, "plain": {}}
    return await start({"a": stage.model("a", aliases=["x"], presets=presets)})


async def asked(
    router: Router, stage: Stage, data: bytes | None = None
) -> tuple[RawClient, Scripted]:
    """Send a request, for a preset unless *data* is another one; return both ends of it."""
    client = await router.connect()
    await client.send(data or post(CHAT, "a:fast", stream=True))
    backend = await stage.backend("a")
    return client, await backend.request()


async def begun(client: RawClient, script: Scripted) -> Answer:
    """Let the stream begin; return the head that the client got."""
    await script.begin_stream()
    await script.chunk(EVENT)
    head = await client.head()
    assert await client.chunk() == renamed(EVENT)
    return head


async def test_a_stream(router, stage) -> None:
    """Every event bears it, as it comes; both connections can be used again."""
    client, script = await asked(router, stage)
    head = await begun(client, script)
    assert head.fields["transfer-encoding"] == "chunked"
    for begin, end in ((0, 4), (4, 16), (16, len(EVENT))):  # cut in the name, too
        await script.chunk(EVENT[begin:end])
    got = b""
    while len(got) < len(renamed(EVENT)):
        got += await client.chunk()
    assert got == renamed(EVENT)
    await script.chunk(LAST + DONE)
    await script.chunk(b"")
    assert await client.chunk() == renamed(LAST + DONE)
    assert await client.chunk() == b""
    await client.send(post("/v1/echo", "a"))
    assert (await client.answer()).json()["number"] == script.number
    logged = await router.events.wait("request.completed", path="/v1/chat/completions")
    assert (logged["outcome"], logged["model"]) == ("ok", "a")
    assert (logged["prompt_tokens"], logged["completion_tokens"]) == (3, 2)


@pytest.mark.parametrize(
    ("asked_for", "name"),
    [("a", b"a"), ("x", b"a"), ("x:fast", b"a:fast"), ("a:plain", b"a:plain")],
)
async def test_which_name_it_is(router, stage, asked_for, name) -> None:
    """The model's id and the preset, without aliases; a plain name changes nothing."""
    client, script = await asked(router, stage, post(CHAT, asked_for, stream=True))
    await script.begin_stream()
    await script.chunk(EVENT)
    await script.chunk(b"")
    assert (await client.answer()).body == renamed(EVENT, name)


async def test_a_default_model_may_be_a_preset(start, stage) -> None:
    """Who goes on with the name of its answer gets the same again."""
    models = {"a": stage.model("a", presets={"fast": {"n": 2}})}
    router = await start(models, default_model="a:fast")
    client, script = await asked(router, stage, request("POST", CHAT, b"{}"))
    assert json.loads(script.body)["n"] == 2
    await script.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
    await script.send(b"content-length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE))
    assert (await client.answer()).body == renamed(WHOLE)


@pytest.mark.parametrize("framing", ["length", "late length", "chunked", "close"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_whole_answer(router, stage, framing, version) -> None:
    """Its length is right, or it has none; the client's connection is kept if it can be."""
    body = b'{"model": "a:fast"}'
    fields = {"connection": "keep-alive", "accept_encoding": "gzip"}
    data = request("POST", CHAT, body, version=version, **fields)
    client, script = await asked(router, stage, data)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\n"
    match framing:
        case "length":
            await script.send(head + b"content-length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE))
        case "late length":
            await script.send(head + b"content-length: %d\r\n\r\n" % len(WHOLE))
            await script.send(WHOLE[:50])
            await script.send(WHOLE[50:])
        case "chunked":
            await script.send(head + b"transfer-encoding: chunked\r\n\r\n")
            await script.chunk(WHOLE[:50])
            await script.chunk(WHOLE[50:])
            await script.chunk(b"")
        case "close":
            await script.send(head + b"\r\n" + WHOLE)
            await script.close()
    answer = await client.answer()
    assert (answer.status, answer.body, answer.complete) == (200, renamed(WHOLE), True)
    await router.events.wait("request.completed", outcome="ok", prompt_tokens=7)
    if "close" in (answer.fields.get("connection"), framing):
        assert await client.rest() == b""
    else:
        await client.send(post("/v1/echo", "a"))
        echoed = (await client.answer()).json()
        assert framing == "close" or echoed["number"] == script.number


async def test_the_backend_is_not_asked_to_compress(router) -> None:
    """What is compressed could not be changed. For others it may."""
    for model, expected in (("a:fast", None), ("a", "gzip")):
        body = json.dumps({"model": model}).encode()
        answer = await router.ask(request("POST", "/v1/echo", body, accept_encoding="gzip"))
        assert dict(answer.json()["fields"]).get("accept-encoding") == expected


@pytest.mark.parametrize(
    "fields",
    [b"content-type: text/plain", b"content-type: application/json\r\ncontent-encoding: br"],
)
async def test_what_is_no_json_stays(router, stage, fields) -> None:
    """Byte for byte, whatever it looks like; so does what is compressed all the same."""
    client, script = await asked(router, stage)
    head = b"HTTP/1.1 200 OK\r\n%b\r\ncontent-length: %d\r\n\r\n" % (fields, len(WHOLE))
    await script.send(head + WHOLE[:40])
    assert (await client.head()).fields["content-length"] == str(len(WHOLE))
    await script.send(WHOLE[40:])
    assert await client.exactly(len(WHOLE)) == WHOLE


async def test_a_stream_of_messages(router, stage) -> None:
    """Anthropic's have the name in their first event only, one level deeper."""
    client, script = await asked(router, stage, post("/v1/messages?script", "a:fast", stream=True))
    await script.begin_stream()
    said = b'event: message_start\ndata: {"type":"message_start","message":{"model":"%b"}}\n\n'
    tool = b'event: x\ndata: {"content_block":{"type":"tool_use","input":{"model":"a"}}}\n\n'
    await script.chunk(said % b"a" + tool)
    await script.chunk(b"")
    assert (await client.answer()).body == said % b"a:fast" + tool


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_a_stream_that_has_begun(start, stage, framing) -> None:
    """Behind the notices of a wait; the client's connection stays usable."""
    table = stage.model("a", "--health", "told", aliases=["x"], presets={"fast": {"n": 2}})
    router = await start({"a": table}, notify_model_swap=True)
    client = await router.connect()
    await client.send(post(CHAT, "x:fast", stream=True))
    await client.head()
    assert b'"model":"a:fast"' in await client.chunk()
    backend = await stage.backend("a")
    await backend.do("ready")
    assert b"ready" in await client.chunk()
    script = await backend.request()
    await script.send(_framed(framing, EVENT))
    await script.close()
    assert await client.chunk() == renamed(EVENT)
    assert await client.chunk() == b""
    await client.send(post("/v1/echo", "a"))
    assert (await client.answer()).status == 200


async def test_an_error_in_a_stream_that_has_begun(start, stage) -> None:
    """What is no event stream becomes an error event, as for everybody."""
    table = stage.model("a", "--health", "told", presets={"fast": {"n": 2}})
    router = await start({"a": table}, notify_model_swap=True)
    client = await router.connect()
    await client.send(post(CHAT, "a:fast", stream=True))
    await client.head()
    backend = await stage.backend("a")
    await backend.do("ready")
    script = await backend.request()
    said = b'{"error":{"message":"too long","code":400,"type":"x"}}'
    await script.send(b"HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\n")
    await script.send(b"content-length: %d\r\n\r\n%b" % (len(said), said))
    body = b""
    while data := await client.chunk():
        body += data
    assert b"too long" in body.split(b"\n\n")[-2]


def _framed(framing: str, body: bytes) -> bytes:
    """Return a whole event stream."""
    match framing:
        case "length":
            return STREAM + b"content-length: %d\r\n\r\n%b" % (len(body), body)
        case "chunked":
            chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            return STREAM + b"transfer-encoding: chunked\r\n\r\n" + chunked
        case _:
            return STREAM + b"\r\n" + body


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_stream_that_breaks_off(router, stage, version) -> None:
    """An error event ends it, also behind half of an event."""
    body = b'{"model": "a:fast", "stream": true}'
    client, script = await asked(router, stage, request("POST", CHAT, body, version=version))
    await script.begin_stream()
    await script.chunk(EVENT)
    await script.send(b'80\r\ndata: {"model":"a')
    await script.close()
    answer = await client.answer()
    assert answer.body.startswith(renamed(EVENT) + b'data: {"model":"a:fast"\n\ndata: {"error":')
    assert b"mid-answer" in answer.body
    assert answer.body.endswith(b"}\n\n")
    assert (await router.events.wait("request.completed"))["outcome"] == "cut"


async def test_a_whole_answer_that_breaks_off(router, stage) -> None:
    """It is not made to look whole: its last chunk is missing."""
    client, script = await asked(router, stage)
    await script.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
    await script.send(b"content-length: %d\r\n\r\n" % len(WHOLE))
    await script.send(WHOLE[:40])
    await client.head()
    await script.close()
    assert not (await client.rest()).endswith(b"0\r\n\r\n")


async def test_a_client_that_does_not_keep_up(router, stage) -> None:
    """It gets all, in order, at its own pace."""
    client, script = await asked(router, stage)
    await script.begin_stream()
    events = [EVENT.replace(b"content", b"%d" % n * 2000) for n in range(600)]
    for event in events:
        await script.chunk(event)
    await script.chunk(b"")
    assert (await client.answer()).body == renamed(b"".join(events))


async def test_an_unknown_preset(router) -> None:
    """The error says which ones there are."""
    answer = await router.ask(post("/v1/echo", "x:nosuch"))
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert answer.error["message"] == (
        "no model or alias is named 'x:nosuch', and model 'a' has no such preset; "
        "it has: 'a:fast', 'a:plain'"
    )
