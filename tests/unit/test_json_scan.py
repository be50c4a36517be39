"""Fields of a large JSON object, found and changed without decoding it."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config.overrides import RequestOverrides
from llama_router.core.requests import json_scan
from llama_router.core.requests.body_overrides import override_in_place, with_overrides
from llama_router.core.requests.json_scan import (
    BLANKED_BYTES,
    MAX_DEPTH,
    MAX_FIELDS,
    SEARCHED_BYTES,
    FieldScanner,
    change,
)
from llama_router.core.requests.request_target import (
    TARGET_FIELDS,
    field_scanner,
    needs_scan,
    request_target,
)
from llama_router.errors.requests import RequestError

NAMES = frozenset(("model", "stream"))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
KEYS = st.sampled_from(["model", "stream", "messages", "x"]) | st.text(max_size=5)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4)
)
DOCUMENTS = st.dictionaries(KEYS, JSON, max_size=6)
WINDOWS = st.sampled_from([2, 3, 7, 16 * 1024])
FAR = st.sampled_from([1, 2, 5, SEARCHED_BYTES])


def scanned(body: bytes | bytearray, names: frozenset[str] = NAMES) -> FieldScanner:
    """Return what is found in *body*, in as many steps as it takes."""
    scanner = FieldScanner(body, names)
    while not scanner.step():
        pass
    return scanner


@pytest.fixture(autouse=True)
def _restore_window(monkeypatch) -> None:
    """Leave the size of windows as it was."""
    monkeypatch.setattr(json_scan, "WINDOW_BYTES", json_scan.WINDOW_BYTES)
    monkeypatch.setattr(json_scan, "SEARCHED_BYTES", json_scan.SEARCHED_BYTES)


def found(body: bytes) -> dict[str, bytes] | None:
    scanner = scanned(body)
    if scanner.is_malformed or scanner.is_too_complex:
        return None
    texts = ((name, scanner.text_of(name)) for name in sorted(NAMES))
    return {name: text for name, text in texts if text is not None}


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1]), WINDOWS, FAR)
def test_it_finds_what_a_decoder_finds(document, ascii_only, indent, window_bytes, far) -> None:
    """Whatever is around it, wherever its windows end."""
    json_scan.SEARCHED_BYTES = far  # type: ignore[misc]  # restored by the fixture
    json_scan.WINDOW_BYTES = window_bytes  # type: ignore[misc]  # restored by the fixture
    text = json.dumps(document, ensure_ascii=ascii_only, indent=indent)
    texts = found(text.encode("utf-8", "surrogatepass"))
    assert texts is not None
    wanted = {n: document[n] for n in NAMES if n in document}
    assert {name: json.loads(value) for name, value in texts.items()} == wanted


@given(
    DOCUMENTS,
    st.sets(st.sampled_from(["model", "stream", "messages", "x"])),
    st.dictionaries(
        KEYS, st.integers(-(2**63), 2**63) | st.text() | st.lists(st.none()), max_size=3
    ),
    st.sampled_from([None, 1]),
    WINDOWS,
)
def test_a_change_is_that_of_the_decoded_object(
    document, taken_out, put_in, indent, window_bytes
) -> None:
    """Fields go and come; the others stay as they are, and nothing between them is left over."""
    json_scan.WINDOW_BYTES = window_bytes  # type: ignore[misc]  # restored by the fixture
    taken_out |= put_in.keys() & document.keys()
    body = bytearray(json.dumps(document, indent=indent).encode())
    deque(change(body, scanned(body, frozenset(taken_out)), taken_out, put_in))
    expected = {n: v for n, v in document.items() if n not in taken_out} | put_in
    assert json.loads(body) == expected


@given(
    DOCUMENTS,
    st.frozensets(st.sampled_from(["stream", "messages", "x"])),
    st.dictionaries(st.sampled_from(["stream", "messages", "y"]), st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["x", "messages", "z"]), st.integers(), max_size=2),
    st.sampled_from([None, "up"]),
)
def test_a_large_body_gets_the_shape_of_a_small_one(document, drop, defaults, sets, model) -> None:
    """The same decision, carried out in two ways."""
    shape = RequestOverrides(drop=drop, defaults=defaults, sets=sets, model=model)
    body = json.dumps(document).encode()
    large = bytearray(body)
    deque(override_in_place(shape, large, scanned(body, shape.touched)))
    assert json.loads(large) == json.loads(with_overrides(shape, body) or b"")


@given(st.binary(max_size=200) | st.text('{}[]",:\\ml ').map(str.encode))
def test_any_bytes_are_survived(data: bytes) -> None:
    """Garbage gives an answer or none, never an exception, and not an endless search."""
    scanned(data)


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        (b'{"model":"a","model":"b"}', {"model": b'"b"'}),
        (b'{"x":{"model":"a"},"y":[{"model":"b"}]}', {}),
        (b'{"x":"\\"model\\":\\"a\\"","model":"b"}', {"model": b'"b"'}),
        (b'{"x":"\\\\","model":"b"}', {"model": b'"b"'}),
        (b'{"x":"model","stream":true}', {"stream": b"true"}),
        (b'{"m\\u006fdel":"a"}', {"model": b'"a"'}),
        (b'{"model": ["a"] }', {"model": b'["a"]'}),
        (b'{"x":[' + b'"",' * 5000 + b'""],"model":"a"}', {"model": b'"a"'}),
        (b'{"model":"a"', None),
        (b'{"x":"\\', None),
        (b'{"x":"\\"', None),
        (b"[]", None),
        (b"", None),
        (b'{"x":' + b"[" * (MAX_DEPTH + 9) + b"]" * (MAX_DEPTH + 9) + b"}", None),
        (b"{" + b'"":0,' * (MAX_FIELDS + 1) + b'"model":"a"}', None),
    ],
)
def test_cases(body: bytes, texts) -> None:
    """What counts, what does not, and where there is nothing to be found."""
    assert found(body) == texts


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (b'{"stream":1,"model":2,"x":3}', b'{                     "x":3}'),
        (b'{"x":3,"stream":1,"model":2}', b'{"x":3                     }'),
        (b'{"stream":1,"x":3,"model":2}', b'{           "x":3          }'),
        (b'{"stream":1, "stream":2}', b"{                      }"),
    ],
)
def test_what_goes_leaves_blanks(body: bytes, left: bytes) -> None:
    """And takes one comma along, so that nothing else has to move."""
    changed = bytearray(body)
    deque(change(changed, scanned(body), NAMES, {}))
    assert changed == left
    deque(change(changed, scanned(changed), (), {"y": [1]}))
    assert json.loads(changed) == {**json.loads(left), "y": [1]}


@pytest.mark.parametrize(
    "part", [b'"a\\"b",', b"1,", b'{"a":"b"},', b'[[[[["x"]]]]],', b"  ", b'"",']
)
def test_no_step_takes_long(part: bytes) -> None:
    """A body of many little parts takes many steps, each of which looks at a bounded piece."""
    body = b'{"x":[' + part * (2_000_000 // len(part)) + b'1],"model":"a"}'
    scanner, steps = FieldScanner(body, NAMES), 1
    while not scanner.step():
        steps += 1
    assert scanner.text_of("model") == b'"a"'
    assert len(body) / steps < 64 * 1024


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","x":"' + b"A" * (20 * SEARCHED_BYTES) + b'"}',
        b'{"model":"a","x":"' + b"A" * (20 * SEARCHED_BYTES) + b'\\n"}',
    ],
    ids=["plain", "escape"],
)
def test_a_long_string_takes_several_steps(body: bytes) -> None:
    """Its end is not looked for in all of it at once."""
    scanner, steps = FieldScanner(body, NAMES), 1
    while not scanner.step():
        steps += 1
    assert scanner.text_of("model") == b'"a"'
    assert steps >= 20


def test_a_large_field_goes_in_several_steps() -> None:
    """Sixty megabytes are not blanked at once."""
    body = bytearray(b'{"model":"a","x":"' + b"A" * (10 * BLANKED_BYTES) + b'"}')
    steps = list(change(body, scanned(body, frozenset("x")), {"x"}, {"y": 1}))
    assert len(steps) == 10
    assert json.loads(body) == {"model": "a", "y": 1}


def test_blanks_behind_the_object_make_room() -> None:
    """What is put in does not move megabytes of them."""
    body = bytearray(b'{"model":"a"}' + b" " * 100)
    deque(change(body, scanned(body), (), {"y": 1}))
    assert body == b'{"model":"a","y":1}' + b" " * 94


def test_something_behind_the_object_is_refused() -> None:
    """It would have to be moved, and no backend takes it."""
    body = bytearray(b'{"model":"a"} x')
    with pytest.raises(RequestError, match="behind the object"):
        deque(change(body, scanned(body), (), {"y": 1}))


@pytest.mark.parametrize("kind", [b"", b"application/json", b"text/plain"])
@pytest.mark.parametrize(
    "body",
    [
        b"{" + b'"":0,' * (MAX_FIELDS + 1) + b'"model":"a"}',
        b'{"model":"a","x":' + b"[" * (MAX_DEPTH + 9) + b"]" * (MAX_DEPTH + 9) + b"}",
    ],
    ids=["fields", "levels"],
)
def test_too_many_parts_are_refused(kind: bytes, body: bytes) -> None:
    """No decoder sees them, whatever the client says that they are."""
    scanner = field_scanner(body, kind, TARGET_FIELDS)
    assert scanner is not None
    while not scanner.step():
        pass
    with pytest.raises(RequestError, match="more than 1024 fields"):
        request_target(body, kind, scanner=scanner)


def test_too_many_fields_of_a_small_body_are_refused_as_well() -> None:
    """Where requests are shaped, every field is taken apart."""
    body = json.dumps({f"x{i}": 0 for i in range(MAX_FIELDS + 1)}).encode()
    with pytest.raises(RequestError, match="more than 1024 fields"):
        with_overrides(RequestOverrides(sets={"a": 1}), body)


def test_a_dense_body_is_scanned_where_overrides_may_apply() -> None:
    """A decoder that returns all fields takes ten times as long as one that skips them."""
    dense, plain = b'"a":0,' * 20_000, b'"aaaaaa",' * 20_000
    assert needs_scan(dense, has_overrides=True)
    assert not needs_scan(dense, has_overrides=False)
    assert not needs_scan(plain, has_overrides=True)


def test_a_large_body_that_is_no_object_goes_to_the_model_that_is_named_otherwise() -> None:
    """Nothing in it is looked at."""
    body = b"RIFF" + bytes(300_000)
    scanner = field_scanner(body, b"audio/wav", TARGET_FIELDS)
    assert request_target(body, b"audio/wav", query_model="a", scanner=scanner).model == "a"
    with pytest.raises(RequestError, match="no object"):
        request_target(body, b"audio/wav", scanner=scanner)


def ask(document: Any) -> str:
    body = bytearray(json.dumps(document).encode())
    scanner = field_scanner(body, b"application/json", TARGET_FIELDS)
    assert scanner is not None
    while not scanner.step():
        pass
    return request_target(body, b"", scanner=scanner).model


def test_a_large_body_is_asked_like_a_small_one() -> None:
    """Pictures before or behind the name make no difference; nor does a wrong type."""
    picture = "A" * 1_000_000
    assert ask({"model": "a", "x": picture}) == ask({"x": [picture], "model": "a"}) == "a"
    for wrong in ({"model": 1, "x": picture}, {"x": picture}, {"model": ["a"], "x": picture}):
        with pytest.raises(RequestError) as caught:
            ask(wrong)
        assert caught.value.param == "model"
    with pytest.raises(RequestError):
        ask({"model": picture})


def test_a_large_body_that_is_cut_off_is_refused() -> None:
    """The client is told so, without a look at the rest of it by a decoder."""
    body = bytearray(b'{"model":"a","x":"' + b"A" * 1_000_000)
    scanner = field_scanner(body, b"", TARGET_FIELDS)
    assert scanner is not None
    assert scanner.step()
    with pytest.raises(RequestError, match="cut off"):
        request_target(body, b"", scanner=scanner)
