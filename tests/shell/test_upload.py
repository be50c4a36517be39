"""The body of a request on its way to a backend, in pieces of any size."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.errors.requests import RequestError
from llama_router.gateway.upload import Upload
from llama_router.http1 import ChunkedBody, parse_request_head

NEXT = b"GET / HTTP/1.1\r\n"


def sent(head: bytes, data: bytes, cuts: list[int]) -> tuple[bytes, bool]:
    """Return what goes up of *data*, which comes in pieces that end at *cuts*; and if it is all."""
    parsed = parse_request_head(b"POST /x HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n\r\n")
    assert parsed is not None
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    first, *pieces = [data[a:b] for a, b in pairwise(edges)]
    upload = Upload(parsed, first)
    result = bytes(upload.pending)
    for piece in pieces:
        if upload.done:
            break
        upload.take(piece)
        result += upload.pending
    return result, upload.done


@given(st.binary(max_size=50), st.lists(st.integers(0, 100), max_size=6))
def test_a_length_is_kept_to(body: bytes, cuts: list[int]) -> None:
    """Not a byte of what follows it goes up."""
    assert sent(b"content-length: %d" % len(body), body + NEXT, cuts) == (body, True)


@given(
    st.lists(st.binary(min_size=1, max_size=20), max_size=5),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_chunks_are_framed_anew(chunks: list[bytes], cuts: list[int]) -> None:
    """What goes up is chunked, has the same payload, and ends once."""
    data = b"".join(b"%X;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    data += b"0\r\nx-trailer: 1\r\n\r\n"
    up, done = sent(b"transfer-encoding: chunked", data + NEXT, cuts)
    assert done
    decoder = ChunkedBody()
    assert decoder.feed(up) == b"".join(chunks)
    assert decoder.done
    assert not decoder.excess


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=4))
def test_any_bytes_go_up_or_are_refused(data: bytes, cuts: list[int]) -> None:
    """Nothing but RequestError is ever raised."""
    with contextlib.suppress(RequestError):
        sent(b"transfer-encoding: chunked", data + b"0\r\n\r\n", cuts)


def test_an_abandoned_body() -> None:
    """Nothing more of it goes up."""
    parsed = parse_request_head(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
    assert parsed is not None
    upload = Upload(parsed, b"abc")
    assert not upload.done
    upload.abandon()
    assert upload.done
    assert not upload.pending


def test_a_broken_chunk() -> None:
    """It is refused where it is broken."""
    with pytest.raises(RequestError):
        sent(b"transfer-encoding: chunked", b"3\r\nabcd\r\n0\r\n\r\n", [])
