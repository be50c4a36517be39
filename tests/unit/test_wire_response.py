"""Response heads and framing: where an answer ends, and what the client gets to see."""

from __future__ import annotations

import pytest

from llama_router.errors.backends import UpstreamError
from llama_router.http1 import (
    Dechunker,
    Framing,
    ResponseFraming,
    ResponseHead,
    client_response_head,
    parse_response_head,
)


def parse(
    *fields: bytes, line: bytes = b"HTTP/1.1 200 OK", method: bytes = b"POST"
) -> ResponseHead:
    """Parse a response head made of *fields*."""
    head = parse_response_head(b"\r\n".join([line, *fields]) + b"\r\n\r\n", request_method=method)
    assert head is not None
    return head


def feed_bytewise(framing: ResponseFraming, data: bytes) -> None:
    """Feed *data* one byte at a time."""
    for i in range(len(data)):
        framing.feed(data[i : i + 1])


CHUNKED = parse(b"Transfer-Encoding: chunked")


# ---------------------------------------------------------------- heads


def test_a_plain_response_is_taken_apart() -> None:
    """Names are lower-cased, order and lines kept, the body not touched."""
    data = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length:  3 \r\n\r\n"
    assert parse_response_head(data + b"abc", request_method=b"GET") == ResponseHead(
        status=404,
        reason=b"Not Found",
        version_minor=1,
        fields=[(b"content-type", b"text/plain"), (b"content-length", b"3")],
        lines=[b"Content-Type: text/plain", b"Content-Length:  3 "],
        size=len(data),
        framing=Framing.LENGTH,
        content_length=3,
        keep_alive=True,
        is_event_stream=False,
        connection_options=frozenset(),
    )


@pytest.mark.parametrize(
    ("line", "method", "fields", "framing", "content_length"),
    [
        (b"HTTP/1.1 200 OK", b"GET", [b"Content-Length: 0"], Framing.LENGTH, 0),
        (b"HTTP/1.1 200 OK", b"GET", [b"Content-Length: 5"] * 2, Framing.LENGTH, 5),
        (b"HTTP/1.1 200 OK", b"GET", [b"Transfer-Encoding: Chunked"], Framing.CHUNKED, None),
        (b"HTTP/1.1 200 OK", b"GET", [], Framing.CLOSE, None),
        (b"HTTP/1.0 200 OK", b"GET", [], Framing.CLOSE, None),
        (b"HTTP/1.1 200 OK", b"HEAD", [b"Content-Length: 5"], Framing.NONE, 5),
        (b"HTTP/1.1 200 OK", b"HEAD", [b"Transfer-Encoding: chunked"], Framing.NONE, None),
        (b"HTTP/1.1 200 OK", b"HEAD", [], Framing.NONE, None),
        (b"HTTP/1.1 304 X", b"GET", [b"Content-Length: 5"], Framing.NONE, 5),
        (b"HTTP/1.1 204 X", b"GET", [b"Content-Length: 5"], Framing.NONE, None),
        (b"HTTP/1.1 100 Continue", b"POST", [], Framing.NONE, None),
        (b"HTTP/1.1 103 X", b"POST", [b"Transfer-Encoding: chunked"], Framing.NONE, None),
    ],
)
def test_framing(
    line: bytes, method: bytes, fields: list[bytes], framing: Framing, content_length: int | None
) -> None:
    """RFC 9112, 6.3: method and status come first, then the coding, then the length."""
    head = parse(*fields, line=line, method=method)
    assert (head.framing, head.content_length) == (framing, content_length)


@pytest.mark.parametrize(
    ("line", "fields", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK", [b"Content-Length: 0"], True),
        (b"HTTP/1.1 200 OK", [b"Content-Length: 0", b"Connection: Close"], False),
        (b"HTTP/1.1 200 OK", [], False),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 0"], False),
        (b"HTTP/1.0 200 OK", [b"Content-Length: 0", b"Connection: keep-alive"], True),
        (b"HTTP/1.0 200 OK", [b"Connection: keep-alive"], False),
        (b"HTTP/1.1 101 X", [b"Connection: upgrade"], False),
    ],
)
def test_reuse_of_the_connection(line: bytes, fields: list[bytes], keep_alive: bool) -> None:  # noqa: FBT001 -- a column of the table
    """A connection is used again only if the response has an end and nobody objects."""
    assert parse(*fields, line=line).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"text/event-stream", True),
        (b"Text/Event-Stream ; charset=utf-8", True),
        (b"text/event-streams", False),
        (b"application/json", False),
    ],
)
def test_event_streams_are_recognised(content_type: bytes, expected: bool) -> None:  # noqa: FBT001 -- a column of the table
    """The media type counts, not its case or parameters."""
    assert parse(b"Content-Type: " + content_type).is_event_stream is expected


@pytest.mark.parametrize("line", [b"HTTP/1.1 200", b"HTTP/1.1 200 "])
def test_the_reason_may_be_missing(line: bytes) -> None:
    """Servers that leave the reason out, with or without the space, are understood."""
    assert parse(line=line).reason == b""


def test_blanks_before_the_colon_are_removed() -> None:
    """RFC 9112, 5.1: a proxy takes them away, and such a field counts."""
    head = parse(b"Transfer-Encoding : chunked", b"A \t: b")
    assert head.framing is Framing.CHUNKED
    assert head.get(b"a") == b"b"


def test_an_interim_response_leaves_the_next_one_alone() -> None:
    """``100 Continue`` is a head of its own; what follows starts behind its size."""
    first = b"HTTP/1.1 100 Continue\r\n\r\n"
    data = first + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    head = parse_response_head(data, request_method=b"POST")
    assert head is not None
    assert (head.status, head.size) == (100, len(first))
    assert ResponseFraming(head).done


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 OK\rX\r\n\r\n",
        b"HTTP/1.1 200 OK\nA: b\r\n\r\n",
        b"HTTP/1.1 200 OK\n",
        b"http/1.1 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"<html>\n",
        b"HTTP/1.1 200 OK\r\nA\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n A: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\rC: d\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    """What cannot be read in exactly one way is a bad gateway, never forwarded."""
    with pytest.raises(UpstreamError):
        parse_response_head(data, request_method=b"GET")


def test_the_limit_is_exact() -> None:
    """A head of just the allowed size passes, one byte more does not."""
    data = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
    assert parse_response_head(data, request_method=b"GET", max_head_bytes=len(data)) is not None
    for piece in (data, data[:-1]):
        with pytest.raises(UpstreamError):
            parse_response_head(piece, request_method=b"GET", max_head_bytes=len(data) - 1)


# ---------------------------------------------------------------- to the client


def test_the_client_gets_end_to_end_fields_only() -> None:
    """Hop-by-hop fields and the backend's CORS answer stay here; the framing is kept."""
    head = parse(
        b"Server: s",
        b"Connection: keep-alive, X-Hop",
        b"X-Hop: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Authenticate: Basic",
        b"Upgrade: h2c",
        b"Access-Control-Allow-Origin: *",
        b"access-control-allow-credentials: true",
        b"Set-Cookie: a",
        b"Set-Cookie: b",
        b"Transfer-Encoding: chunked",
    )
    assert client_response_head(head, close=False, add_headers=[(b"x-id", b"7")]) == (
        b"HTTP/1.1 200 OK\r\nServer: s\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nx-id: 7\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("head", "close", "http10", "expected"),
    [
        (CHUNKED, False, False, [b"Transfer-Encoding: chunked"]),
        (CHUNKED, True, False, [b"Transfer-Encoding: chunked", b"Connection: close"]),
        (CHUNKED, False, True, [b"Connection: close"]),
        (parse(b"Content-Length: 5"), False, False, [b"Content-Length: 5"]),
        (parse(*[b"Content-Length: 5"] * 2), False, False, [b"Content-Length: 5"]),
        (parse(b"Content-Length: 5"), True, False, [b"Content-Length: 5", b"Connection: close"]),
        (parse(b"Content-Length: 5"), True, True, [b"Content-Length: 5", b"Connection: close"]),
        (
            parse(b"Content-Length: 5"),
            False,
            True,
            [b"Content-Length: 5", b"Connection: keep-alive"],
        ),
        (parse(), False, False, [b"Connection: close"]),
        (parse(), False, True, [b"Connection: close"]),
        (parse(b"Content-Length: 5", method=b"HEAD"), False, False, [b"Content-Length: 5"]),
        (parse(b"Transfer-Encoding: chunked", method=b"HEAD"), False, False, []),
        (parse(b"Content-Length: 0", line=b"HTTP/1.1 204 OK"), False, False, []),
        (parse(b"Connection: close", line=b"HTTP/1.1 103 OK"), True, False, []),
    ],
)
def test_framing_for_the_client(
    head: ResponseHead,
    close: bool,  # noqa: FBT001 -- a column of the table
    http10: bool,  # noqa: FBT001 -- a column of the table
    expected: list[bytes],
) -> None:
    """The client can always tell where the body ends, and whether the connection lives on."""
    lines = client_response_head(head, close=close, http10=http10).split(b"\r\n")
    assert lines[1:] == [*expected, b"", b""]


# ---------------------------------------------------------------- where the body ends


def test_chunked_framing_finds_the_end() -> None:
    """The end, the chunk count and the boundary are known; the next response is not eaten."""
    framing = ResponseFraming(CHUNKED)
    data = b"3\r\nabc\r\n4;x\r\nde"
    assert framing.feed(data) == len(data)
    assert (framing.boundary, framing.chunks, framing.done) == (8, 1, False)
    assert framing.feed(b"fg\r\n0\r\nT: 1\r\n\r\nHTTP/1.1") == 15
    assert (framing.boundary, framing.chunks, framing.done) == (15, 2, True)
    assert framing.feed(b"HTTP/1.1") == 0
    assert framing.boundary == 0


def test_no_boundary_inside_a_chunk() -> None:
    """A read that completes no chunk reports none."""
    framing = ResponseFraming(CHUNKED)
    framing.feed(b"5\r\n")
    framing.feed(b"abc")
    assert (framing.boundary, framing.chunks) == (0, 0)
    framing.feed(b"de\r")
    assert (framing.boundary, framing.chunks) == (0, 0)
    framing.feed(b"\n1")
    assert (framing.boundary, framing.chunks) == (1, 1)


def test_the_last_chunk_alone_is_no_boundary() -> None:
    """Something could still be put before the trailers, but not behind the last chunk."""
    framing = ResponseFraming(CHUNKED)
    framing.feed(b"1\r\na\r\n0\r\nT: 1\r\n")
    assert (framing.boundary, framing.done) == (6, False)


def test_the_length_is_counted_down() -> None:
    """Bytes behind the announced length do not belong to the message."""
    framing = ResponseFraming(parse(b"Content-Length: 5"))
    assert (framing.feed(b"abc"), framing.boundary, framing.remaining) == (3, 3, 2)
    assert not framing.done
    assert (framing.feed(b"defg"), framing.boundary, framing.remaining) == (2, 2, 0)
    assert framing.done
    assert framing.feed(b"x") == 0


@pytest.mark.parametrize(
    "head", [parse(b"Content-Length: 0"), parse(b"Content-Length: 5", method=b"HEAD")]
)
def test_an_empty_body_is_done_at_once(head: ResponseHead) -> None:
    """Nothing is waited for where nothing comes."""
    framing = ResponseFraming(head)
    assert framing.done
    assert framing.remaining == 0
    assert framing.feed(b"next") == 0
    assert framing.eof()


def test_until_close_takes_everything() -> None:
    """Without length or chunks the end of the connection is the end of the body."""
    framing = ResponseFraming(parse())
    assert (framing.feed(b"abc"), framing.boundary, framing.done) == (3, 3, False)
    assert framing.eof()
    assert framing.done


@pytest.mark.parametrize(
    ("head", "data"),
    [
        (parse(b"Content-Length: 5"), b"abcd"),
        (CHUNKED, b""),
        (CHUNKED, b"1\r\na\r\n"),
        (CHUNKED, b"1\r\na\r\n0\r\n"),
    ],
)
def test_a_body_cut_short_is_not_a_legal_end(head: ResponseHead, data: bytes) -> None:
    """A backend that dies in the middle is noticed."""
    framing = ResponseFraming(head)
    framing.feed(data)
    assert not framing.eof()
    assert not framing.done


@pytest.mark.parametrize(
    "data",
    [
        b"<html>\r\n",
        b"1_0\r\n",
        b"+1\r\na\r\n",
        b"1\na\n",
        b"1\r\nab\r\n",
        b"1\r\na\rb",
        b"11111111111111111\r\n",
        b"1" * 300,
        b"0\r\nbad\r\n\r\n",
        b"0\r\n\n",
    ],
)
def test_broken_chunking_is_an_upstream_error(data: bytes) -> None:
    """The relay hears of it in whatever pieces it comes, instead of waiting forever."""
    with pytest.raises(UpstreamError):
        ResponseFraming(CHUNKED).feed(data)
    with pytest.raises(UpstreamError):
        feed_bytewise(ResponseFraming(CHUNKED), data)


def test_dechunker_decodes() -> None:
    """An HTTP/1.0 client gets the payload alone."""
    dechunker = Dechunker()
    assert dechunker.feed(b"3\r\nabc\r\n2\r\nd") == b"abcd"
    assert dechunker.feed(b"e\r\n0\r\n\r\n") == b"e"
    assert dechunker.done
    with pytest.raises(UpstreamError):
        Dechunker().feed(b"x\r\n")
