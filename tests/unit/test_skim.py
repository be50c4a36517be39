"""Fields of a large JSON object, without decoding it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.peek import SKIMMED_BYTES, asked_by
from llama_router.core.skim import MAX_TOKENS, skim
from llama_router.errors import RequestError

NAMES = frozenset((b"model", b"stream"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.sampled_from(["model", "stream", "messages", "x"]) | st.text(max_size=5)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
)


@given(st.dictionaries(KEYS, JSON, max_size=6), st.booleans(), st.sampled_from([None, 1]))
def test_it_finds_what_a_decoder_finds(document, ascii_only, indent) -> None:
    """Where it answers at all, it answers right."""
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    found = skim(text.encode("utf-8", "surrogatepass"), NAMES)
    wanted = {n: document[n] for n in ("model", "stream") if n in document}
    if found is None:
        assert any(isinstance(v, dict | list) for v in wanted.values()) or "\\" in text
    else:
        assert {name.decode(): json.loads(value) for name, value in found.items()} == wanted


@given(st.binary(max_size=200) | st.text('{}[]",:\\ml ').map(str.encode))
def test_any_bytes_are_survived(data: bytes) -> None:
    """Garbage gives an answer or none, never an exception."""
    skim(data, NAMES)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"model":"a","model":"b"}', {b"model": b'"b"'}),
        (b'{"x":{"model":"a"},"y":[{"model":"b"}]}', {}),
        (b'{"x":"\\"model\\":\\"a\\"","model":"b"}', {b"model": b'"b"'}),
        (b'{"x":"\\\\","model":"b"}', {b"model": b'"b"'}),
        (b'{"x":"model","stream":true}', {b"stream": b"true"}),
        (b'{"m\\u006fdel":"a"}', None),
        (b'{"model":["a"]}', None),
        (b'{"model":"a"', None),
        (b"[]", None),
        (b"", None),
        (b'{"x":[' + b'"",' * MAX_TOKENS + b'""],"model":"a"}', None),
    ],
)
def test_cases(body: bytes, found) -> None:
    """What counts, what does not, and where only a decoder can tell."""
    assert skim(body, NAMES) == found


@pytest.mark.parametrize("body_type", [bytes, bytearray])
def test_a_large_body_is_asked_like_a_small_one(body_type) -> None:
    """Pictures before or behind the name make no difference; nor does a wrong type."""
    picture = "A" * SKIMMED_BYTES
    for document in ({"model": "a", "x": picture}, {"x": [picture], "model": "a"}):
        assert asked_by(body_type(json.dumps(document).encode()), b"").model == "a"
    for document in ({"model": 1, "x": picture}, {"x": picture}, {"model": ["a"], "x": picture}):
        with pytest.raises(RequestError) as caught:
            asked_by(body_type(json.dumps(document).encode()), b"")
        assert caught.value.param == "model"
    with pytest.raises(RequestError):
        asked_by(body_type(b'"' + picture.encode()), b"")
