"""Heads that repeat: found again only where every byte but the digits of the length is the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_router.errors.backends import UpstreamError
from llama_router.errors.requests import RequestError
from llama_router.http1 import (
    RequestHeads,
    ResponseHeads,
    client_response_head,
    parse_request_head,
    parse_response_head,
    upstream_request_head,
)
from llama_router.http1.repeats import MAX_KEPT_BYTES

REQUEST = b"POST /v1/x HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: \t%b\r\nX-A: b\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nServer: a\r\nContent-Length:%b\r\nConnection: x\r\nX: b\r\n\r\n"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

HEADS = [
    REQUEST % b"12",
    b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST /x HTTP/1.1\r\nHost: a\r\nX: content-length: 5\r\nContent-Length: 5\r\n\r\n",
    b"\r\nPOST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
]
ANSWERS = [
    RESPONSE % b"12",
    CHUNKS,
    b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n",
]


@st.composite
def changed(draw: st.DrawFn, heads: list[bytes]) -> tuple[bytes, bytes]:
    """Return a head, and what may be taken for its repetition."""
    head = draw(st.sampled_from(heads))
    data = bytearray(head)
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(
            st.one_of(
                st.text("0123456789", max_size=3).map(str.encode),
                st.sampled_from([b"\r\n", b":", b" ", b"\r", b"\n", b"a", b"\x00"]),
            )
        )
    return head, bytes(data) + draw(st.sampled_from([b"", b"GET", b"\r\n\r\n", head]))


@settings(deadline=None, max_examples=500)
@given(changed(HEADS))
def test_a_known_request_is_what_the_parser_returns(pair: tuple[bytes, bytes]) -> None:
    """A request is known only if the parser accepts it, and then it is equal."""
    head, data = pair
    heads = RequestHeads()
    heads.parse(head)
    known = heads.known(data)
    if known is not None:
        parsed = parse_request_head(data)
        assert known == parsed
        assert upstream_request_head(known, target=b"/", host=b"b", content_length=3) == (
            upstream_request_head(parsed, target=b"/", host=b"b", content_length=3)
        )


@settings(deadline=None, max_examples=500)
@given(pair=changed(ANSWERS), close=st.booleans())
def test_a_known_response_is_what_the_parser_returns(
    *, pair: tuple[bytes, bytes], close: bool
) -> None:
    """A response is known only if the parser accepts it, and then it is equal."""
    head, data = pair
    heads = ResponseHeads()
    heads.parse(head, request_method=b"POST")
    known = heads.known(data)
    if known is not None:
        parsed = parse_response_head(data, request_method=b"GET")
        assert parsed is not None
        assert known == parsed
        for _ in range(2):
            assert client_response_head(known, close=close) == (
                client_response_head(parsed, close=close)
            )


@pytest.mark.parametrize("length", [b"0", b"12", b"13", b"0099", b"123456789012345678"])
def test_a_request_with_another_length_is_known(length: bytes) -> None:
    """Length, size, fields and lines are those of the new head, again and again."""
    heads = RequestHeads()
    heads.parse(REQUEST % b"12")
    for _ in range(2):
        data = REQUEST % length
        assert heads.known(data + b"rest") == parse_request_head(data) != None  # noqa: E711 -- both


@pytest.mark.parametrize("length", [b"", b" ", b"+1", b"1 ", b"-0", b"1_0", b"1234567890123456789"])
def test_a_request_with_a_doubtful_length_is_left_to_the_parser(length: bytes) -> None:
    """What is not 1 to 18 digits is not known."""
    heads = RequestHeads()
    heads.parse(REQUEST % b"12")
    assert heads.known(REQUEST % length) is None


def test_a_response_with_another_length_is_known() -> None:
    """Length, size, fields and lines are those of the new head."""
    heads = ResponseHeads()
    heads.parse(RESPONSE % b"12", request_method=b"POST")
    data = RESPONSE % b"7"
    assert heads.known(data) == parse_response_head(data, request_method=b"POST")


def test_a_response_to_head_is_not_kept() -> None:
    """Its length announces no body: the next response with that head may have one."""
    heads = ResponseHeads()
    heads.parse(RESPONSE % b"12", request_method=b"HEAD")
    assert heads.known(RESPONSE % b"12") is None


def test_a_long_head_is_not_kept() -> None:
    """A connection that is idle keeps no large head; and no older one either."""
    heads = RequestHeads()
    heads.parse(REQUEST % b"12")
    long = b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"x" * MAX_KEPT_BYTES)
    heads.parse(long)
    assert heads.known(long) is None
    assert heads.known(REQUEST % b"12") is None


def test_what_is_refused_leaves_the_kept_head() -> None:
    """A head that the parser refuses is not known afterwards."""
    requests, responses = RequestHeads(), ResponseHeads()
    with pytest.raises(RequestError):
        requests.parse(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(UpstreamError):
        responses.parse(b"HTTP/1.1 200 OK\r\n:\r\n\r\n", request_method=b"GET")
    assert requests.known(b"GET / HTTP/1.1\r\n\r\n") is None
    assert responses.known(b"HTTP/1.1 200 OK\r\n:\r\n\r\n") is None


def test_the_head_for_a_backend_follows_its_arguments() -> None:
    """Another target, host or field to leave out makes another head."""
    heads = RequestHeads()
    heads.parse(REQUEST % b"1")
    known = heads.known(REQUEST % b"1")
    parsed = parse_request_head(REQUEST % b"1")
    assert known is not None
    assert parsed is not None
    for target, host, strip, length in [
        *((b"/", b"a", b"x-b", 1), (b"/b", b"a", b"x-b", 2)),
        *((b"/b", b"b", b"x-b", 3), (b"/b", b"b", b"x-a", None)),
    ]:
        sent = [
            upstream_request_head(
                head,
                target=target,
                host=host,
                content_length=length,
                strip_headers=frozenset((strip,)),
            )
            for head in (known, parsed)
        ]
        assert sent[0] == sent[1]
