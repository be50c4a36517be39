"""Bodies that some decoders accept and others refuse: one answer, whatever their size."""

from __future__ import annotations

import json
import time

import pytest

from llama_router.core.config.overrides import RequestOverrides
from llama_router.core.requests.body_overrides import override_in_place, with_overrides
from llama_router.core.requests.request_target import (
    SCANNED_BYTES,
    TARGET_FIELDS,
    RequestTarget,
    field_scanner,
    request_target,
)
from llama_router.core.requests.tolerated_json import strict_form
from llama_router.errors.requests import RequestError
from tests.limits import stretched_s

JSON = b"application/json"

TOLERATED = [
    rb'{"model":"m","x":"\ud83d","stream":true}',
    rb'{"model":"m","x":"\ude00\ud83d\ude00","stream":true}',
    rb'{"stream":true,"x":"\ud83d","model":"m"}',
    b'{"model":"m","x":NaN,"stream":true}',
    b'{"model":"m","x":[Infinity, -Infinity,NaN],"stream":true}',
    b'\xef\xbb\xbf{"model":"m","stream":true}',
    b'{"model":"m","x":"\xff","stream":true}',
    b'{"model":"m","x":"\xff\\ud83d","stream":true}',
    b'{"model":"m","\xff":1,"stream":true}',
    b'{"model":"m","x":"a\nb\x01","stream":true}',
    b'{"model":"n","model":"m","x":1,"x":2,"stream":true}',
]

LAST_COMMAS = [
    b'{"model":"m","x":[1,2,],"stream":true}',
    b'{"model":"m","x":[1, 2 , \n],"y":{"z":[{},],},"stream":true}',
    b'{"model":"m","stream":true,}',
    b'{"model":"m","x":"a,]","stream":true , }',
]

REFUSED = [
    (b'{"model":"\xff"}', "a string in it is not UTF-8"),
    (b'{"model":"m","x":[1', "cut off"),
    (rb'{"model":"m","x":"\u', "cut off"),
    (b'{"model":"m","x":"', "cut off"),
]


def large(body: bytes) -> bytes:
    """Return *body* with blanks before its end, so that it is scanned."""
    return body[:-1] + b" " * SCANNED_BYTES + body[-1:]


def scanned_target(body: bytes) -> RequestTarget:
    """Return what a large body requests."""
    scanner = field_scanner(body, JSON, TARGET_FIELDS)
    assert scanner is not None
    while not scanner.step():
        pass
    return request_target(body, JSON, scanner=scanner)


@pytest.mark.parametrize("body", [*TOLERATED, *LAST_COMMAS])
def test_the_backend_decides(body: bytes) -> None:
    """The model is found in a small body as in a large one."""
    wanted = RequestTarget("m", stream=True)
    assert request_target(body, JSON) == wanted
    assert scanned_target(large(body)) == wanted


@pytest.mark.parametrize(("body", "said"), REFUSED)
def test_what_hides_the_model_is_refused(body: bytes, said: str) -> None:
    """The sentence says what is wrong in words of JSON, not of a decoder."""
    with pytest.raises(RequestError, match=said):
        request_target(body, JSON)
    with pytest.raises(RequestError, match=said):
        scanned_target(large(body))


@pytest.mark.parametrize("body", TOLERATED)
def test_it_is_changed_in_place(body: bytes) -> None:
    """No decoder of the router can take it apart, so the rest of it stays as it is."""
    overrides = RequestOverrides(sets={"n": 7})
    changed = with_overrides(overrides, body)
    if changed is None:
        data = bytearray(body)
        scanner = field_scanner(data, JSON, overrides.touched)
        assert scanner is not None
        while not scanner.step():
            pass
        for _ in override_in_place(overrides, data, scanner):
            pass
        assert bytes(data) == body[:-1] + b',"n":7}'
    else:
        sent, got = (json.loads(each.decode("utf-8", "replace")) for each in (body, changed))
        assert got == {**sent, "n": 7}


@pytest.mark.parametrize("body", LAST_COMMAS)
def test_a_comma_behind_the_last_element_stays_one(body: bytes) -> None:
    """It separates a field that the router adds; no second one appears."""
    overrides = RequestOverrides(sets={"n": 7})
    assert with_overrides(overrides, body) is None
    data = bytearray(body)
    scanner = field_scanner(data, JSON, overrides.touched)
    assert scanner is not None
    while not scanner.step():
        pass
    for _ in override_in_place(overrides, data, scanner):
        pass
    separator = b"" if body.rstrip(b" }").endswith(b",") else b","
    assert bytes(data) == body[:-1] + separator + b'"n":7}'


@pytest.mark.parametrize(
    ("removed", "left"),
    [
        ({"x"}, {"y": 2, "n": 7}),
        ({"y"}, {"x": 1, "n": 7}),
        ({"x", "y"}, {"n": 7}),
    ],
)
def test_fields_before_a_last_comma_can_be_removed(removed: set[str], left: object) -> None:
    """What is left has a comma between its fields, and no other."""
    overrides = RequestOverrides(sets={"n": 7}, drop=frozenset(removed))
    data = bytearray(b'{"x":1,"y":2,}')
    scanner = field_scanner(data, JSON, overrides.touched)
    assert scanner is not None
    while not scanner.step():
        pass
    for _ in override_in_place(overrides, data, scanner):
        pass
    assert json.loads(data) == left


def test_commas_in_names_of_models_stay() -> None:
    """A comma in a string is no comma behind an element."""
    assert request_target(b'{"model":"a,]","x":[1,]}', JSON).model == "a,]"


def test_many_last_commas_take_linear_time() -> None:
    """The largest body that is decoded costs a few milliseconds, whatever is in it."""
    for unit in (b"[1,]", b'"a,",', b", ", b'"\\"', b"[,"):
        body = b'{"x":[' + unit * (SCANNED_BYTES // len(unit) - 10)
        begun_s = time.process_time()
        strict_form(body)
        assert time.process_time() - begun_s < stretched_s(0.1)


@pytest.mark.parametrize("body", [*TOLERATED, *LAST_COMMAS])
def test_the_strict_form_is_as_long(body: bytes) -> None:
    """So an error that a decoder finds in it is at the same place in the body."""
    assert len(strict_form(body)) == len(strict_form(body, ascii_only=True)) == len(body)


def test_names_of_models_stay() -> None:
    """A name that contains a number which JSON does not have is still that name."""
    body = rb'{"model":"org/Infinity-NaN","x":"\ud83d"}'
    assert request_target(body, JSON).model == "org/Infinity-NaN"


@pytest.mark.parametrize("value", [b'"' + b"x" * 10_000 + b'"', b" " * 10_000 + b"true"])
def test_a_value_that_is_too_long_is_not_called_cut_off(value: bytes) -> None:
    """The sentence names the field."""
    for name in (b"model", b"stream"):
        with pytest.raises(
            RequestError, match=f"the value of '{name.decode()}' is over 8192 bytes"
        ):
            scanned_target(large(b'{"model":"m","%b":%b}' % (name, value)))
