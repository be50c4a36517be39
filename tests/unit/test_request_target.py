"""The model that a body asks for."""

import contextlib
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.requests.request_target import (
    SCANNED_BYTES,
    TARGET_FIELDS,
    RequestTarget,
    field_scanner,
    request_target,
)
from llama_router.errors.requests import RequestError

JSON = b"application/json"


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        (b'{"model":"a"}', RequestTarget("a", stream=False)),
        (
            b'{"messages":[{"model":"no"}],"stream":true,"model":"a/b:c"}',
            RequestTarget("a/b:c", stream=True),
        ),
        (b'{"model":"a","stream":null}', RequestTarget("a", stream=False)),
        ('{"model":"mod\u00e8le"}'.encode(), RequestTarget("mod\u00e8le", stream=False)),
        (rb'{"model":"a","x":"\"model\":\"b\""}', RequestTarget("a", stream=False)),
    ],
)
def test_json(body: bytes, asked: RequestTarget) -> None:
    """Only the top level counts, wherever the field stands."""
    assert request_target(body, JSON) == asked


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b"hello", "not valid JSON"),
        (b'{"model":"a"', "not valid JSON"),
        (b'{"model":"a"}garbage', "not valid JSON"),
        (b'{"model":"\xff"}', "not valid JSON"),
        (b'{"stream":true}', "no model is named"),
        (b'{"model":""}', "no model is named"),
        (b'{"model":null}', "no model is named"),
        (b'{"model":7}', "not as expected"),
        (b'{"model":"a","stream":"yes"}', "not as expected"),
        (b'["model"]', "not as expected"),
        (b"[" * 100_000, "nested too deeply|not valid JSON|not as expected"),
        (b'{"model":"' + b"a" * 2000 + b'"}', "over 1024"),
    ],
)
def test_bad_json(body: bytes, said: str) -> None:
    """Each mistake is said in a sentence."""
    with pytest.raises(RequestError, match=said):
        request_target(body, JSON)


def test_a_compressed_body_is_called_so() -> None:
    """That it is no JSON would mislead: before it was compressed, it was."""
    body = gzip.compress(b'{"model": "a"}')
    with pytest.raises(RequestError, match=r"compressed.*send it uncompressed"):
        request_target(body, b"application/json")


def test_the_field_at_fault_is_named() -> None:
    """OpenAI clients show ``param``."""
    with pytest.raises(RequestError) as info:
        request_target(b'{"model":["a"]}', JSON)
    assert info.value.param == "model"


@pytest.mark.parametrize("body", [b"{}", b'{"model": null}', b'{"model": ""}'])
def test_a_default_stands_in_for_no_name(body) -> None:
    """Only where none is named."""
    assert request_target(body, JSON, default="d").model == "d"
    assert request_target(b'{"model": "m"}', JSON, default="d").model == "m"


def form(*parts: tuple[str, bytes], boundary: bytes = b"XX") -> bytes:
    body = b""
    for disposition, value in parts:
        body += b"--" + boundary + b"\r\nContent-Disposition: form-data; " + disposition.encode()
        body += b"\r\n\r\n" + value + b"\r\n"
    return body + b"--" + boundary + b"--\r\n"


FORM = b"multipart/form-data; boundary=XX"


def test_multipart_field() -> None:
    """The field may stand behind a file."""
    body = form(('name="file"; filename="a.wav"', b"\0" * 5000), ('name="model"', b"whisper"))
    assert request_target(body, FORM) == RequestTarget("whisper", stream=False, opaque=True)


def test_multipart_stream_flag() -> None:
    """Audio endpoints stream on ``stream=true``."""
    body = form(('name="stream"', b"true"), ('name="model"', b"whisper"))
    assert request_target(body, FORM) == RequestTarget("whisper", stream=True, opaque=True)


def test_a_file_cannot_pretend_to_be_a_field() -> None:
    """What looks like a field inside a part's content is content."""
    fake = b'\r\nContent-Disposition: form-data; name="model"\r\n\r\nevil\r\n'
    body = form(('name="file"; filename="f"', fake), ('name="model"', b"good"))
    assert request_target(body, FORM).model == "good"


def test_quoted_boundary() -> None:
    """Boundaries may be quoted. Source: RFC 2046, section 5.1.1."""
    body = form(('name="model"', b"m"), boundary=b"a b")
    assert request_target(body, b'Multipart/Form-Data; charset=utf-8; boundary="a b"').model == "m"


@pytest.mark.parametrize("content_type", [JSON, b"application/x-www-form-urlencoded"])
def test_json_counts_beside_a_query_as_well(content_type: bytes) -> None:
    """It says more than the query, also where curl calls it a web form."""
    whole = b' {"model":"a","stream":true}'
    assert request_target(whole, content_type, query_model="b") == RequestTarget("a", stream=True)
    assert request_target(b'{"stream":true}', content_type, query_model="b") == RequestTarget(
        "b", stream=True
    )


def test_a_web_form_goes_to_the_model_of_the_query() -> None:
    """As it is: nothing can be changed in it."""
    kind = b"application/x-www-form-urlencoded"
    assert request_target(b"x=1", kind, query_model="b") == RequestTarget(
        "b", stream=False, opaque=True
    )


@pytest.mark.parametrize("cut", [10, 40, 70])
def test_a_form_that_is_cut_off(cut: int) -> None:
    """It is refused, not half read."""
    with pytest.raises(RequestError):
        request_target(form(('name="model"', b"whisper-large"))[:cut], FORM)


@given(st.binary(max_size=300), st.sampled_from([JSON, FORM, b"", b"multipart/form-data"]))
def test_any_bytes_give_an_answer_or_a_sentence(body: bytes, content_type: bytes) -> None:
    """Nothing but RequestError is ever raised."""
    with contextlib.suppress(RequestError):
        assert request_target(body, content_type).model


@given(st.text(min_size=1, max_size=100).filter(lambda s: s.isprintable()))
def test_any_name_survives(name: str) -> None:
    """The name comes out as it went in."""
    assert request_target(json.dumps({"model": name}).encode(), JSON).model == name


@pytest.mark.parametrize(
    "parameters", [b"", b";", b"; boundary=", b'; boundary=""', b"; boundary=" + b"x" * 300]
)
@pytest.mark.parametrize("size", [10, 300_000])
def test_a_form_without_a_usable_boundary_is_called_so(parameters: bytes, size: int) -> None:
    """That it is no JSON would mislead: it is a form."""
    body = form(('name="model"', b"m"), ('name="file"; filename="f"', b"x" * size))
    content_type = b"multipart/form-data" + parameters
    scanner = field_scanner(body, content_type, TARGET_FIELDS) if size > SCANNED_BYTES else None
    while scanner is not None and not scanner.step():
        pass
    with pytest.raises(RequestError, match="no boundary of 1 to 200 characters"):
        request_target(body, content_type, scanner=scanner)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"", b""), (b"", JSON), (b"[]", JSON), (b" [1]", b""), (b"RIFF", b"audio/wav")],
)
def test_the_default_model_gets_what_can_name_none(body: bytes, content_type: bytes) -> None:
    """As the model of the query does; without one it is refused."""
    assert request_target(body, content_type, default="d") == RequestTarget(
        "d", stream=False, opaque=True
    )
    with pytest.raises(RequestError):
        request_target(body, content_type)


@pytest.mark.parametrize("kind", [JSON, b"", b"text/plain", b"application/x-www-form-urlencoded"])
def test_a_named_model_goes_before_the_default(kind: bytes) -> None:
    """Whatever the media type says."""
    assert request_target(b' {"model":"a"}', kind, default="d").model == "a"
    with pytest.raises(RequestError, match="not valid JSON"):
        request_target(b'{"model":"a"', kind, default="d")
