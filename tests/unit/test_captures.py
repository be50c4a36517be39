"""Captures of requests and responses: what is kept, and for how long."""

from __future__ import annotations

import gzip
import json

import pytest

from llama_router.dispatch.captures import Capture, Captures, masked_body, response_of

LIMIT = 4000


def begin(
    captures: Captures, number: int = 1, body: bytes | None = b"{}", **fields: str
) -> Capture:
    pairs = [(name.encode(), value.encode()) for name, value in fields.items()]
    return captures.begin(number, "POST", "/v1/x", pairs, body, limit_bytes=LIMIT)


def sent(*pieces: bytes, method: str = "POST"):
    """Return what is found in a response that was sent in *pieces*."""
    captures = Captures()
    capture = captures.begin(1, method, "/", [], b"", limit_bytes=LIMIT)
    for piece in pieces:
        captures.add(capture, piece)
    return response_of(capture)


def test_old_ones_make_room() -> None:
    """The memory that all of them take is bounded."""
    captures = Captures()
    for number in range(1, 8):
        captures.add(begin(captures, number, b"x" * 500), b"y" * 300)
    kept = [number for number in range(1, 8) if captures.find(number) is not None]
    assert kept == [3, 4, 5, 6, 7]
    captures.limit(0)
    assert captures.find(7) is None


def test_one_does_not_take_all_the_memory() -> None:
    """The rest of a large body is left out, and told to be missing."""
    captures = Captures()
    small = begin(captures, 1)
    large = begin(captures, 2, b"x" * 100_000)
    captures.add(large, b"HTTP/1.1 200 OK\r\n\r\n" + b"y" * 100_000)
    assert captures.find(1) is small
    assert large.size_bytes <= LIMIT // 4
    assert large.body_bytes == 100_000
    assert not response_of(large).is_whole


def test_what_comes_after_it_left_takes_nothing() -> None:
    """A stream may outlive its capture."""
    captures = Captures()
    capture = begin(captures)
    captures.limit(0)
    captures.add(capture, b"x" * 100)
    assert captures.find(1) is None
    assert capture.sent == b""


@pytest.mark.parametrize("name", ["authorization", "cookie", "x-api-key", "x-admin-token"])
def test_secrets_in_fields_are_masked(name) -> None:
    """The rest is as it came."""
    captures = Captures()
    fields = [(name.encode(), b"secret"), (b"accept", b"*/*")]
    capture = captures.begin(
        1, "POST", "/v1/x?api_key=secret&model=a", fields, b"", limit_bytes=LIMIT
    )
    assert capture.fields == [(name.encode(), b"********"), (b"accept", b"*/*")]
    assert capture.target == "/v1/x?api_key=********&model=a"


def test_secrets_in_a_body_are_masked() -> None:
    """Texts with names of secrets; numbers of tokens are none."""
    body = json.dumps({"model": "a", "api_key": "sk-1", "max_tokens": 5, "token": 7}).encode()
    assert json.loads(masked_body(body)) == {
        "model": "a",
        "api_key": "********",
        "max_tokens": 5,
        "token": 7,
    }
    for other in (b"", b"[1]", b"\xff", b"{" * 100_000, b'{"a": 1}'):
        assert masked_body(other) == other


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"


@pytest.mark.parametrize(
    ("pieces", "body", "is_whole"),
    [
        ([HEAD + b"content-length: 3\r\n\r\n", b"abc"], b"abc", True),
        ([HEAD + b"content-length: 3\r\n\r\nab"], b"ab", False),
        ([HEAD + b"content-length: 3\r\n\r\nabcHTTP/1.1 500 Next\r\n\r\n"], b"abc", True),
        ([HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\na", b"bc\r\n0\r\n\r\n"], b"abc", True),
        ([HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"], b"abc", False),
        ([b"HTTP/1.1 103 Early\r\n\r\n", HEAD + b"content-length: 1\r\n\r\na"], b"a", True),
        ([HEAD + b"\r\nabc"], b"abc", True),
    ],
)
def test_the_body_is_taken_out_of_its_framing(pieces, body, is_whole) -> None:
    """In whatever pieces it was sent; the next response does not count."""
    found = sent(*pieces)
    assert (found.status, found.body, found.is_whole) == (200, body, is_whole)


def test_a_compressed_body_is_unpacked() -> None:
    """As the client does."""
    packed = gzip.compress(b"text")
    head = HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed)
    assert sent(head + packed).body == b"text"


@pytest.mark.parametrize("pieces", [[], [b"HTTP/1.1 200"], [b"nonsense\r\n\r\n"]])
def test_a_response_that_is_none_has_no_status(pieces) -> None:
    """The client left before, for example."""
    assert sent(*pieces).status == 0


def test_a_response_to_head_has_no_body() -> None:
    """Whatever its length says."""
    found = sent(HEAD + b"content-length: 3\r\n\r\n", method="HEAD")
    assert (found.body, found.is_whole) == (b"", True)
