"""Requests reach their backends in the shape that the configuration says."""

import json

import pytest

from tests.process.harness import Router, post, request

pytestmark = pytest.mark.process

ECHO = "/v1/echo"


@pytest.fixture
async def router(start, stage) -> Router:
    """A model that shapes requests, one that does not, and a default."""
    shaped = stage.model(
        "a",
        aliases=["x"],
        upstream_model="org/a",
        drop_params=["user"],
        default_params={"max_tokens": 7},
        set_params={"n": 1},
        presets={"high": {"n": 2, "reasoning": {"effort": "high"}}},
    )
    models = {"a": shaped, "b": stage.model("b", group="g")}
    return await start(models, default_model="x:high", default_for_unknown=True)


async def received(router: Router, data: bytes) -> dict:
    """Return what the backend got."""
    answer = await router.ask(data)
    assert answer.status == 200, answer.body
    return answer.json()


async def test_a_shaped_request(router) -> None:
    """The backend sees the new body, with its own length."""
    got = await received(router, post(ECHO, "a", user="me", n=5))
    assert got["name"] == "a"
    assert json.loads(got["body"]) == {"model": "org/a", "max_tokens": 7, "n": 1}
    assert dict(got["fields"])["content-length"] == str(len(got["body"]))


async def test_a_preset(router) -> None:
    """Asked for by an alias; the same process serves it."""
    got = await received(router, post(ECHO, "x:high", max_tokens=3))
    expected = {"model": "org/a", "max_tokens": 3, "n": 2, "reasoning": {"effort": "high"}}
    assert json.loads(got["body"]) == expected
    assert (await received(router, post(ECHO, "a")))["pid"] == got["pid"]


async def test_an_unshaped_request(router) -> None:
    """Byte for byte what the client wrote."""
    body = b'{ "model":"b","n" : 1.00 }'
    got = await received(router, request("POST", ECHO, body, content_type="application/json"))
    assert got["body"].encode() == body


@pytest.mark.parametrize("size", [1, 300_000])
async def test_half_a_character_is_for_the_backend(router, size) -> None:
    """A body that not every decoder accepts is passed on, and shaped, whatever its size."""
    for model, end in (("a", {"model": "org/a", "n": 1, "max_tokens": 7}), ("b", {"n": 5})):
        body = b'{"model":"%b","x":"%b\\ud83d","n":5}' % (model.encode(), b"x" * size)
        got = (await received(router, request("POST", ECHO, body)))["body"]
        assert f'"x":"{"x" * size}\\ud83d"' in got
        assert end.items() <= json.loads(got).items()


async def test_a_form_without_a_boundary(router) -> None:
    """The client is told what is missing."""
    data = request("POST", ECHO, b"--x--", content_type="multipart/form-data")
    answer = await router.ask(data)
    assert answer.status == 400
    assert "boundary" in answer.error["message"]


@pytest.mark.parametrize("body", [b'{"q": 1}', b'{"model": "gpt-4o", "q": 1}'])
async def test_the_default_model_answers(router, body) -> None:
    """Requests without a model, and with one that nobody knows; with its preset."""
    got = await received(router, request("POST", ECHO, body))
    assert got["name"] == "a"
    shape = json.loads(got["body"])
    assert (shape["model"], shape["n"], shape["q"]) == ("org/a", 2, 1)


@pytest.mark.parametrize("length", [True, False], ids=["length", "chunked"])
@pytest.mark.parametrize(
    "filling",
    [["x" * 3_000_000], ['"'] * 300_000, [[[[[[["y"]]]]]]] * 100_000],
    ids=["one string", "escapes", "brackets"],
)
async def test_a_large_request(router, filling, length) -> None:
    """It is never decoded, and gets the same shape; its own fields may be anywhere."""
    asked = {"user": "me", "n": 5, "messages": filling, "model": "a", "max_tokens": 3}
    body = json.dumps(asked).encode()
    data = request("POST", ECHO, body)
    if not length:
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        data = request("POST", ECHO, transfer_encoding="chunked") + chunks
    got = await received(router, data)
    assert json.loads(got["body"]) == {
        "messages": filling,
        "model": "org/a",
        "max_tokens": 3,
        "n": 1,
    }
    assert dict(got["fields"])["content-length"] == str(len(got["body"]))


async def test_a_large_request_with_more_fields_than_any(router) -> None:
    """It is refused: to take it apart would hold up everybody else."""
    asked = {f"x{number}": "y" * 20 for number in range(12_000)}
    client = await router.connect()
    await client.send(post(ECHO, "a", **asked))
    answer = await client.answer()
    assert answer.status == 400
    assert "more than 1024 fields" in answer.error["message"]


async def test_what_was_seen_of_a_request_is_not_that_of_the_next(router) -> None:
    """A large form, a large object and a small one on one connection: each has its own model."""
    form = b'--z\r\ncontent-disposition: form-data; name="model"\r\n\r\na\r\n'
    form += b'--z\r\ncontent-disposition: form-data; name="f"\r\n\r\n' + b"x" * 500_000
    form += b"\r\n--z--\r\n"
    client = await router.connect()
    for data, name in (
        (request("POST", ECHO, form, content_type="multipart/form-data; boundary=z"), "a"),
        (post(ECHO, "b"), "b"),
        (post(ECHO, "a", q="x" * 500_000), "a"),
        (post(ECHO, "b"), "b"),
    ):
        await client.send(data)
        assert (await client.answer()).json()["name"] == name


async def test_a_form_stays_as_it_is(router) -> None:
    """Only its model is looked at."""
    form = b'--z\r\ncontent-disposition: form-data; name="model"\r\n\r\na\r\n--z--\r\n'
    data = request("POST", ECHO, form, content_type="multipart/form-data; boundary=z")
    got = await received(router, data)
    assert (got["name"], got["body"].encode()) == ("a", form)


SHAPE = {"model": "org/a", "max_tokens": 7, "n": 1, "q": 1}


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "audio/wav"])
@pytest.mark.parametrize(
    ("target", "n"),
    [(f"{ECHO}?model=a", 1), ("/upstream/a/v1/echo", 1), ("/upstream/x%3Ahigh/v1/echo", 2)],
)
async def test_the_model_may_be_in_the_address(router, target: str, n: int, kind: str) -> None:
    """Whatever the media type is: backends do not look at it."""
    body = b" " * 70 + b'{"user": "me", "n": 5, "q": 1}'
    got = json.loads(
        (await received(router, request("POST", target, body, content_type=kind)))["body"]
    )
    assert {name: got[name] for name in SHAPE} == SHAPE | {"n": n}
    assert "user" not in got


@pytest.mark.parametrize("target", [f"{ECHO}?model=a", "/upstream/a/v1/echo"])
async def test_a_large_object_of_another_media_type(router, target: str) -> None:
    """It is changed in place, although it comes in chunks."""
    body = json.dumps({"n": 5, "user": "me", "q": "x" * 500_000}).encode()
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = request("POST", target, transfer_encoding="chunked", content_type="text/plain")
    got = json.loads((await received(router, head + chunks))["body"])
    assert (got["n"], got["max_tokens"], len(got["q"])) == (1, 7, 500_000)
    assert "user" not in got


@pytest.mark.parametrize("target", [f"{ECHO}?model=a", "/upstream/a/v1/echo"])
async def test_an_object_that_only_a_backend_can_read_is_refused(router, target: str) -> None:
    """Compressed, in another form of Unicode, or said to be a form."""
    body = b'{"n": 5}'
    for data, fields in (
        (body.decode().encode("utf-16"), {}),
        (body, {"content_encoding": "gzip"}),
        (body + b"\r\n--z--\r\n", {"content_type": "multipart/form-data; boundary=z"}),
    ):
        answer = await router.ask(request("POST", target, data, **fields))
        assert (answer.status, answer.error["code"]) == (400, "invalid_request"), fields


async def test_files_and_other_models_are_left_alone_below_upstream(router) -> None:
    """A form, an array, and the requests of a model that overrides nothing."""
    form = '--z\r\ncontent-disposition: form-data; name="n"\r\n\r\n5\r\n--z--\r\n'
    for target, body, kind in (
        ("/upstream/a/v1/echo", form, "multipart/form-data; boundary=z"),
        ("/upstream/a/v1/echo", '[{"n": 5}]', "application/json"),
        ("/upstream/b/v1/echo", '{ "n" : 5.0 }', "application/json"),
    ):
        got = await received(router, request("POST", target, body.encode(), content_type=kind))
        assert got["body"] == body


async def test_a_query_may_name_a_preset_or_nobody(router) -> None:
    """What has no body has no parameters; the name alone counts."""
    assert (await received(router, request("GET", "/v1/x?model=a:high")))["name"] == "a"
    assert (await received(router, request("GET", "/v1/x?model=gpt-4o")))["name"] == "a"


async def test_a_body_that_is_cut_is_still_refused(router) -> None:
    """A default model is no reason to take anything."""
    answer = await router.ask(request("POST", ECHO, b'{"q": '))
    assert (answer.status, answer.error["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("data", "target", "body"),
    [
        (request("POST", "/slots/1?action=erase", b""), "/slots/1?action=erase", ""),
        (request("POST", "/slots/1?action=erase"), "/slots/1?action=erase", ""),
        (request("POST", "/lora-adapters", b"[]"), "/lora-adapters", "[]"),
        (request("GET", "/cors-proxy?url=x"), "/cors-proxy?url=x", ""),
    ],
    ids=["erase", "erase without a length", "lora-adapters", "cors-proxy"],
)
async def test_the_default_model_serves_what_names_none(router, data, target, body) -> None:
    """Also where no model could be named; it is loaded."""
    got = await received(router, data)
    assert (got["name"], got["target"], got["body"]) == ("a", target, body)


async def test_without_a_default_model_one_must_be_named(start, stage) -> None:
    """The client is told how."""
    router = await start({"a": stage.model("a")})
    for data in (request("GET", "/cors-proxy?url=x"), request("POST", "/slots/1?action=erase")):
        answer = await router.ask(data)
        assert answer.status == 400
        assert "?model=" in answer.json()["error"]["message"]


async def test_no_page_of_another_site_reaches_the_default_model(router) -> None:
    """A browser that does not say which page asks gets no model loaded."""
    data = request("GET", "/cors-proxy?url=x", user_agent="Mozilla/5.0", referer="http://evil/x")
    assert (await router.ask(data)).status == 403
