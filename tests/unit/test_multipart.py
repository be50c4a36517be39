"""Fields of multipart forms, found while the form arrives."""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.requests.multipart import (
    MAX_HEAD_BYTES,
    MAX_NEAR_DELIMITERS,
    MAX_PARAMETERS,
    MAX_PARTS,
    MAX_VALUE_BYTES,
    STEPS,
    FormScanner,
    boundary_of,
)
from llama_router.errors.requests import RequestError

NAMES = frozenset((b"model", b"stream"))


def part(name: str, value: bytes, *, file: str | None = None) -> bytes:
    """Return one part of a form, without its delimiter."""
    filename = "" if file is None else f'; filename="{file}"'
    head = f'Content-Disposition: form-data; name="{name}"{filename}\r\n'
    if file is not None:
        head += "Content-Type: application/octet-stream\r\n"
    return head.encode() + b"\r\n" + value


def form(*parts: bytes, boundary: bytes = b"XX", preamble: bytes = b"") -> bytes:
    """Return a whole form."""
    body = preamble + b"".join(b"--" + boundary + b"\r\n" + p + b"\r\n" for p in parts)
    return body + b"--" + boundary + b"--\r\n"


def look(search: FormScanner, body: bytes | bytearray, size_bytes: int) -> int:
    """Look at all that is new, in as many steps as it takes; return how many that were."""
    steps = 1
    while not search.scan(body, size_bytes):
        steps += 1
    return steps


def fields(body: bytes, *pieces: int, boundary: bytes = b"XX") -> dict[bytes, bytes | None]:
    """Return what is found in *body* when it arrives in pieces that end at these offsets."""
    search = FormScanner(boundary, NAMES)
    for end in sorted(pieces):
        look(search, bytearray(body), min(end, len(body)))
    look(search, body, len(body))
    search.finish()
    return search.values


WORDS = [b"\r\n", b"--XX", b"--", b"-", b"\r", b"\n", b"X", b'name="model"', b"\r\n\r\n"]
CONTENT = st.binary(max_size=40) | st.lists(st.sampled_from(WORDS), max_size=8).map(b"".join)


@given(
    st.lists(st.tuples(st.sampled_from(["model", "stream", "file", "x"]), CONTENT), max_size=5),
    st.lists(st.integers(0, 600), max_size=12),
)
def test_pieces_make_no_difference(parts, pieces) -> None:
    """Whatever the content is, and wherever the network cuts it."""
    body = form(*(part(name, value) for name, value in parts))

    def result(*at: int) -> object:
        try:
            return fields(body, *at)
        except RequestError as exc:
            return str(exc)

    assert result(*pieces) == result() == result(*range(len(body)))


@given(
    st.lists(st.tuples(st.sampled_from(["stream", "file", "x"]), CONTENT), max_size=4),
    st.text(min_size=1, max_size=20).filter(lambda s: "\r" not in s and "\n" not in s),
    st.integers(0, 4),
)
def test_the_field_is_found_wherever_it_stands(parts, name, place) -> None:
    """Between files and other fields; what only looks like a delimiter is content."""
    others = [part(n, v, file="f") for n, v in parts if b"\r\n--XX" not in b"\r\n" + v]
    others.insert(place, part("model", name.encode()))
    assert fields(form(*others)) == {b"model": name.encode()}


@given(st.lists(st.tuples(st.sampled_from(["model", "x"]), st.binary(max_size=30)), max_size=4))
def test_another_parser_agrees(parts) -> None:
    """The standard library's parser for e-mail finds the same values."""
    safe = [(n, v.replace(b"\r", b"").replace(b"\n", b"")) for n, v in parts]
    unique = dict(safe)
    body = form(*(part(n, v) for n, v in unique.items()))
    head = b"Content-Type: multipart/form-data; boundary=XX\r\n\r\n"
    parsed = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    theirs = {
        message.get_param("name", header="content-disposition"): message.get_payload(decode=True)
        for message in (parsed.iter_parts() if unique else ())
    }
    assert fields(body).get(b"model") == theirs.get("model")


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_any_bytes_give_fields_or_a_sentence(body, pieces) -> None:
    """Nothing but RequestError is ever raised."""
    with contextlib.suppress(RequestError):
        fields(b"--XX" + body, *pieces)


def test_a_preamble_is_no_part() -> None:
    """Text before the first delimiter is skipped, also if it holds something like one."""
    body = form(part("model", b"m"), preamble=b"see --XX and\r\n--XXY\r\n")
    assert fields(body) == {b"model": b"m"}


def test_a_file_is_no_field() -> None:
    """A file that is called like the field does not name the model."""
    assert fields(form(part("model", b"evil", file="model"), part("model", b"m"))) == {
        b"model": b"m"
    }


def test_a_file_name_cannot_pretend_to_be_a_field_name() -> None:
    """Quoted strings are read as such."""
    body = form(part("file", b"x", file=r"a\"; name=model; b=\""), part("model", b"m"))
    assert fields(body) == {b"model": b"m"}


def test_an_empty_part_without_an_empty_line() -> None:
    """The line end before a delimiter may be that of the head. Source: RFC 2046, 5.1.1."""
    head = b'Content-Disposition: form-data; name="stream"\r\n'
    body = b"--XX\r\n" + head + b"\r\n--XX\r\n" + part("model", b"m") + b"\r\n--XX--"
    assert fields(body) == {b"stream": b"", b"model": b"m"}


def test_padding_behind_a_delimiter() -> None:
    """Blanks may stand there."""
    assert fields(form(part("model", b"m")).replace(b"--XX\r\n", b"--XX \t\r\n")) == {
        b"model": b"m"
    }


def test_two_different_values_are_refused() -> None:
    """The router and the backend could take different ones."""
    with pytest.raises(RequestError, match="two different values") as caught:
        fields(form(part("model", b"a"), part("model", b"b")))
    assert caught.value.param == "model"
    assert fields(form(part("model", b"a"), part("model", b"a"))) == {b"model": b"a"}


def test_a_long_value_is_not_kept() -> None:
    """It is known to be there, and too long."""
    assert fields(form(part("model", b"m" * (MAX_VALUE_BYTES + 1)))) == {b"model": None}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (form(*[part("x", b"")] * (MAX_PARTS + 1)), "more than"),
        (b"--XX\r\nA: " + b"a" * MAX_HEAD_BYTES, "head without end"),
        (b"--XX\r\nno field\r\n\r\nx\r\n--XX--", "malformed head"),
        (b"--XX\r\nA: b\r\n--XX\r\n\r\nx\r\n--XX--", "malformed head"),
        (b"--XX" + b" " * (2 * MAX_HEAD_BYTES), "malformed behind a boundary"),
        (form(part("model", b"m"))[:-6], "cut off"),
        (b"", "cut off"),
        (b"--XX\r\n\r\n\r\n" + b"\r\n--XXa" * (MAX_NEAR_DELIMITERS + 2), "malformed behind"),
        (
            b"--XX\r\nContent-Disposition: form-data"
            + b";a=b" * (MAX_PARAMETERS + 1)
            + b"\r\n\r\n",
            "parameters",
        ),
    ],
    ids=range(9),
)
def test_what_is_refused(body: bytes, said: str) -> None:
    """Each limit and each mistake has its sentence."""
    with pytest.raises(RequestError, match=said):
        fields(body)


def test_a_large_file_is_neither_copied_nor_looked_at_twice() -> None:
    """Memory stays flat while a file of some megabytes arrives in small pieces."""
    body = bytearray(form(part("file", b"\r\n-" * 2_000_000, file="f"), part("model", b"m")))
    search = FormScanner(b"XX", NAMES)
    tracemalloc.start()
    try:
        for end in range(0, len(body), 4096):
            look(search, body, end)
            assert end - search._at <= max(200, len(b"\r\n--XX"))
        look(search, body, len(body))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert search.values == {b"model": b"m"}
    assert peak_bytes < 64 * 1024


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=XX", b"XX"),
        (b'Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        (b"multipart/form-data", None),
        (b"multipart/form-data; boundary=", None),
        (b'multipart/form-data; boundary=""', None),
        (b"multipart/form-data; boundary=" + b"x" * 200, b"x" * 200),
        (b"multipart/form-data; boundary=" + b"x" * 201, None),
        (b'multipart/form-data; boundary="' + b"x" * 201 + b'"', None),
        (b"multipart/mixed; boundary=XX", None),
        (b"application/json", None),
    ],
)
def test_the_boundary(content_type: bytes, boundary: bytes | None) -> None:
    """Only a form has one."""
    assert boundary_of(content_type) == boundary


def test_no_step_takes_long() -> None:
    """A form of many parts that arrives at once takes many steps, of a bounded number of parts."""
    body = form(*[part("x", b"1")] * MAX_PARTS)
    assert look(FormScanner(b"XX", NAMES), body, len(body)) >= 2 * MAX_PARTS // STEPS


def test_a_boundary_far_behind_is_none() -> None:
    """A media type of many kilobytes is not searched to its end."""
    assert boundary_of(b"multipart/form-data;" + b"a=b;" * 2000 + b" boundary=XX") is None
