"""Another name in an answer that passes."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llama_router.core.apis.model_names import ModelNameRewriter

#: Texts that look like what is searched for.
_TRAPS = ['"model":"a"', '\\"model":"a"', 'x"', "\\", "model", "{", '{"model":"a"}', "a\nb", "é"]
_TEXT = st.sampled_from(_TRAPS) | st.text(max_size=6)
_KEY = st.sampled_from(["model", "message", "response", "modell", 'x"model']) | _TEXT
_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEY, inner, max_size=4),
    max_leaves=10,
)
_OBJECT = st.dictionaries(_KEY, _VALUE, max_size=5)
_SPACED = st.sampled_from([(",", ":"), (", ", ": "), (" , ", " :\t")])
_CUTS = st.lists(st.integers(0, 400), max_size=12)

NAME = 'a:"fast"\\é'


def renamed(value: Any) -> Any:
    """Return what is expected, made in the simple way."""
    if not isinstance(value, dict):
        return value
    inner = {
        key: _named(value[key])
        for key in ("message", "response")
        if isinstance(value.get(key), dict)
    }
    return _named(value) | inner


def _named(value: dict) -> dict:
    return value | {"model": NAME} if isinstance(value.get("model"), str) else value


def fed(data: bytes, cuts: list[int], *, events: bool) -> bytes:
    """Return what becomes of *data*, which arrives in pieces."""
    renaming = ModelNameRewriter(NAME, events=events)
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    begins = [0, *ends[:-1]]
    return b"".join(renaming.feed(data[begin:end]) for begin, end in zip(begins, ends, strict=True))


@given(_OBJECT | _VALUE, _SPACED, st.booleans(), _CUTS)
@example({"x": {"model": "a"}, "model": "a"}, (",", ":"), False, [])
def test_any_document_in_any_pieces(document, separators, ascii_only, cuts) -> None:
    """The name changes where it counts, and nothing else does."""
    data = json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode()
    assert json.loads(fed(data, cuts, events=False)) == renamed(document)


@given(st.lists(_OBJECT, min_size=1, max_size=4), _SPACED, _CUTS)
def test_any_stream_in_any_pieces(documents, separators, cuts) -> None:
    """Each event has the name, whatever broken lines and comments are between them."""
    lines = [json.dumps(document, separators=separators) for document in documents]
    between = ': a "comment" {\n\nevent: x"y\ndata: [DONE\ndata: {"broken":"\\\n'
    data = "".join(f"{between}data: {line}\n\n" for line in lines).encode()
    out = fed(data, cuts, events=True).decode()
    found = [line for line in out.split(between) if line]
    assert [json.loads(line.removeprefix("data: ")) for line in found] == [
        renamed(document) for document in documents
    ]


@example(b'{"model\\\n:"x"', [8], False)  # a backslash before a line feed, in no string then
@given(st.binary(max_size=60) | st.text('{}[]",:\\\nmodel ').map(str.encode), _CUTS, st.booleans())
def test_any_bytes_in_any_pieces(data, cuts, events) -> None:
    """What is no JSON does no harm, and becomes the same however it is cut."""
    assert fed(data, cuts, events=events) == fed(data, [], events=events)


def test_whatever_the_backend_calls_itself() -> None:
    """A path, or what it was started with: all are replaced."""
    renaming = ModelNameRewriter("a:fast", events=False)
    assert renaming.feed(b'{"model" : "/m/\\"x\\".gguf","n":1}') == b'{"model" : "a:fast","n":1}'


def test_what_a_model_says_stays() -> None:
    """Arguments of a tool that have such a field, too, and quotations."""
    said: dict[str, Any] = {
        "content": [{"type": "tool_use", "input": {"model": "T"}}, {"text": '"model":"a"'}],
        "choices": [{"message": {"model": "a"}}],
        "tools": {"message": {"model": "a"}},
        "model": None,
    }
    data = json.dumps(said).encode()
    assert ModelNameRewriter("a:fast", events=False).feed(data) == data


@pytest.mark.parametrize("key", ['"mod\\u0065l"', '"mo\\"del"'])
def test_a_key_with_an_escape_is_another(key) -> None:
    """No server writes this one so."""
    data = b'{%b:"a"}' % key.encode()
    for cut in range(len(data)):
        assert fed(data, [cut], events=False) == data
