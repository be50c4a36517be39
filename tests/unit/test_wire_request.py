"""Request heads and chunked request bodies: what is accepted, refused, and sent on."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from llama_router.errors.requests import (
    BodyTooLargeError,
    HeaderTooLargeError,
    RequestError,
)
from llama_router.http1 import (
    ChunkedBody,
    LengthBody,
    RequestHead,
    parse_request_head,
    upstream_request_head,
)
from llama_router.http1.fields import _MAX_PARSED, _PARSED
from llama_router.http1.request import MAX_FIELDS


def parse(*fields: bytes, line: bytes = b"POST /v1/x HTTP/1.1", host: bool = True) -> RequestHead:
    """Parse a head made of *fields*, with a Host unless told otherwise."""
    lines = [line, *([b"Host: h"] if host else []), *fields]
    head = parse_request_head(b"\r\n".join(lines) + b"\r\n\r\n")
    assert head is not None
    return head


def refusal(data: bytes) -> HTTPStatus:
    """Return the status with which *data* is refused."""
    with pytest.raises(RequestError) as caught:
        parse_request_head(data)
    return caught.value.status


def refused_fields(*fields: bytes, version: bytes = b"1.1") -> HTTPStatus:
    """Return the status with which a POST with *fields* is refused."""
    lines = [b"POST /v1/x HTTP/" + version, b"Host: h", *fields]
    return refusal(b"\r\n".join(lines) + b"\r\n\r\n")


def decode_bytewise(data: bytes) -> bytes:
    """Return the payload of the chunked *data*, decoded one byte at a time."""
    body = ChunkedBody()
    return b"".join(body.feed(data[i : i + 1]) for i in range(len(data)))


# ---------------------------------------------------------------- what is read


def test_a_plain_request_is_taken_apart() -> None:
    """Names are lower-cased, values trimmed, lines kept as they came; the body is not touched."""
    data = (
        b"POST /v1/chat/completions?a=1&b=?2 HTTP/1.1\r\n"
        b"Host: 127.0.0.1:8080\r\nX-Odd:\t spaced  out \t\r\nX-Empty:\r\nCONTENT-LENGTH: 12\r\n\r\n"
    )
    head = parse_request_head(data + b"rest of body")
    assert head == RequestHead(
        method=b"POST",
        target=b"/v1/chat/completions?a=1&b=?2",
        path=b"/v1/chat/completions",
        query=b"a=1&b=?2",
        version_minor=1,
        fields=[
            (b"host", b"127.0.0.1:8080"),
            (b"x-odd", b"spaced  out"),
            (b"x-empty", b""),
            (b"content-length", b"12"),
        ],
        lines=[
            b"Host: 127.0.0.1:8080",
            b"X-Odd:\t spaced  out \t",
            b"X-Empty:",
            b"CONTENT-LENGTH: 12",
        ],
        size=len(data),
        content_length=12,
        chunked=False,
        keep_alive=True,
        expect_continue=False,
        upgrade=False,
        connection_options=frozenset(),
        has_cookies=False,
    )


def test_get_returns_the_first_value() -> None:
    """A repeated field answers with its first line, an absent one with None."""
    head = parse(b"A: 1", b"a: 2")
    assert head.get(b"a") == b"1"
    assert head.get(b"b") is None


def test_values_may_hold_obs_text() -> None:
    """Bytes above 127 in a value are opaque and pass."""
    assert parse(b"X: \xe4\xff").get(b"x") == b"\xe4\xff"


def test_a_head_without_fields_is_fine_in_http_1_0() -> None:
    """HTTP/1.0 needs no Host, and its connection closes by default."""
    head = parse_request_head(b"GET / HTTP/1.0\r\n\r\n")
    assert head is not None
    assert (head.version_minor, head.fields, head.keep_alive) == (0, [], False)


def test_a_newer_minor_version_is_read_as_1_1() -> None:
    """RFC 9110, 2.5: a higher minor version is processed as the highest known one."""
    assert parse(line=b"GET / HTTP/1.7").version_minor == 1


def test_empty_lines_before_the_request_are_skipped() -> None:
    """A few CRLFs are ignored and count into the size."""
    data = b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"
    head = parse_request_head(data + b"GET")
    assert head is not None
    assert head.size == len(data)


def test_endless_empty_lines_are_refused() -> None:
    """A stream of CRLFs is no request."""
    assert refusal(b"\r\n" * 9) == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    ("line", "path", "query"),
    [
        (b"GET / HTTP/1.1", b"/", b""),
        (b"GET /? HTTP/1.1", b"/", b""),
        (b"GET //admin/x HTTP/1.1", b"//admin/x", b""),
        (b"GET /a%20b?c=/d HTTP/1.1", b"/a%20b", b"c=/d"),
        (b"OPTIONS * HTTP/1.1", b"*", b""),
        (b"GET http://example.com:80/a?b HTTP/1.1", b"/a", b"b"),
        (b"GET HTTPS://[::1]:80 HTTP/1.1", b"/", b""),
        (b"GET http://h?q=1 HTTP/1.1", b"/", b"q=1"),
        (b"OPTIONS http://h:1 HTTP/1.1", b"*", b""),
    ],
)
def test_target_forms(line: bytes, path: bytes, query: bytes) -> None:
    """Origin, absolute and asterisk form all end in a path and a query."""
    head = parse(line=line)
    assert (head.path, head.query) == (path, query)


def test_a_uri_as_target_replaces_the_host_field() -> None:
    """RFC 9112, 3.2.2: the host of the URI wins over what the field says."""
    head = parse(b"A: b", line=b"GET http://real:81/ HTTP/1.1")
    assert head.fields == [(b"host", b"real:81"), (b"a", b"b")]


@pytest.mark.parametrize(
    ("line", "fields", "keep_alive"),
    [
        (b"GET / HTTP/1.1", [], True),
        (b"GET / HTTP/1.1", [b"Connection: keep-alive"], True),
        (b"GET / HTTP/1.1", [b"Connection: CLOSE"], False),
        (b"GET / HTTP/1.1", [b"Connection: x , Close,"], False),
        (b"GET / HTTP/1.1", [b"Connection: x", b"Connection: close"], False),
        (b"GET / HTTP/1.1", [b"Connection: keep-alive, close"], False),
        (b"GET / HTTP/1.1", [b"Connection: closed"], True),
        (b"GET / HTTP/1.0", [], False),
        (b"GET / HTTP/1.0", [b"Connection: Keep-Alive"], True),
        (b"GET / HTTP/1.0", [b"Connection: close, keep-alive"], False),
    ],
)
def test_keep_alive(line: bytes, fields: list[bytes], keep_alive: bool) -> None:  # noqa: FBT001 -- a column of the table
    """Version and all Connection fields together decide whether the connection lives on."""
    assert parse(*fields, line=line).keep_alive is keep_alive


def test_chunked_is_recognised_in_any_case() -> None:
    """Transfer coding names are case-insensitive."""
    head = parse(b"Transfer-Encoding: Chunked")
    assert head.chunked
    assert head.content_length is None


def test_expectation() -> None:
    """``100-continue`` is recognised in any case, and ignored from HTTP/1.0 clients."""
    assert parse(b"Expect: 100-Continue").expect_continue
    assert not parse(b"Expect: 100-continue", line=b"POST / HTTP/1.0").expect_continue


def test_an_unknown_expectation_is_refused() -> None:
    """Nobody should believe that an expectation was met that was only dropped."""
    assert refused_fields(b"Expect: 200-ok") == HTTPStatus.EXPECTATION_FAILED


@pytest.mark.parametrize(
    ("line", "fields", "upgrade"),
    [
        (b"GET / HTTP/1.1", [b"Upgrade: websocket", b"Connection: keep-alive, Upgrade"], True),
        (b"GET / HTTP/1.1", [b"Upgrade: websocket"], False),
        (b"GET / HTTP/1.1", [b"Connection: upgrade"], False),
        (b"GET / HTTP/1.0", [b"Upgrade: websocket", b"Connection: upgrade"], False),
    ],
)
def test_upgrade(line: bytes, fields: list[bytes], upgrade: bool) -> None:  # noqa: FBT001 -- a column of the table
    """An upgrade needs both fields and HTTP/1.1."""
    assert parse(*fields, line=line).upgrade is upgrade


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        # one length in the head, another one in the body
        ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], 400),
        ([b"Transfer-Encoding: chunked", b"Content-Length: 5"], 400),
        ([b"Transfer-Encoding: identity", b"Content-Length: 5"], 400),
        # codings that one parser takes for chunked and another one does not
        ([b"Transfer-Encoding: xchunked"], 501),
        ([b"Transfer-Encoding: chunked, chunked"], 501),
        ([b"Transfer-Encoding: gzip, chunked"], 501),
        ([b"Transfer-Encoding: chunked, identity"], 501),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"], 501),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], 501),
        ([b"Transfer-Encoding: identity"], 501),
        ([b"Transfer-Encoding:"], 501),
        ([b'Transfer-Encoding: "chunked"'], 501),
        ([b"Transfer-Encoding: chunked;q=1"], 501),
        ([b"Transfer-Encoding: \x0bchunked"], 400),
        ([b"Transfer-Encoding: chunked\x00"], 400),
        ([b"Transfer-Encoding : chunked"], 400),
        ([b"Transfer-Encoding\t: chunked"], 400),
        ([b" Transfer-Encoding: chunked"], 400),
        ([b"X: y", b" Transfer-Encoding: chunked"], 400),
        ([b"Transfer-Encoding:\r\n chunked"], 400),
        ([b"X: y\nTransfer-Encoding: chunked"], 400),
        ([b"X: y\rTransfer-Encoding: chunked"], 400),
        ([b"Transfer-Encoding: chunked\n"], 400),
        # lengths
        ([b"Content-Length: +5"], 400),
        ([b"Content-Length: -5"], 400),
        ([b"Content-Length: 5 5"], 400),
        ([b"Content-Length: 5, 5"], 400),
        ([b"Content-Length: 5, 6"], 400),
        ([b"Content-Length: 0x5"], 400),
        ([b"Content-Length: 1_0"], 400),
        ([b"Content-Length: 5.0"], 400),
        ([b"Content-Length: \xb2"], 400),
        ([b"Content-Length:"], 400),
        ([b"Content-Length: " + b"9" * 19], 400),
        ([b"Content-Length: 5", b"Content-Length: 6"], 400),
        ([b"Content-Length: 5", b"Content-Length: 5"], 400),
        ([b"Content-Length : 5"], 400),
        # fields
        ([b"X: a\x00b"], 400),
        ([b"X: a\x7fb"], 400),
        ([b"X: a\rb"], 400),
        ([b"X: a\nb"], 400),
        ([b"X: a\r\n b"], 400),
        ([b"X: a\r\n\tb"], 400),
        ([b"X"], 400),
        ([b": x"], 400),
        ([b"X Y: z"], 400),
        ([b"X(: z"], 400),
        ([b"X\xe4: z"], 400),
        ([b"X\x00: z"], 400),
        # Host
        ([b"Host: h"], 400),
        ([b"Host: other"], 400),
    ],
)
def test_ambiguous_fields_are_refused(fields: list[bytes], status: int) -> None:
    """Whatever two parsers could read differently goes no further."""
    assert refused_fields(*fields) == status


@pytest.mark.parametrize("coding", [b"chunked", b"identity"])
def test_transfer_encoding_is_refused_in_http_1_0(coding: bytes) -> None:
    """HTTP/1.0 knows no transfer codings: old intermediaries forward them blindly."""
    refused = refused_fields(b"Transfer-Encoding: " + coding, version=b"1.0")
    assert refused == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET http://h/ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: \xe4\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (b"GET / HTTP/2\r\nHost: h\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\n\r\n", 505),
        (b"GET / HTTP/1\r\n\r\n", 505),
        (b"GET / HTTP/1.10\r\n\r\n", 505),
        (b"GET / HTTP/01.1\r\n\r\n", 505),
        (b"GET / http/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET / HTTP/1.x\r\nHost: h\r\n\r\n", 400),
        (b"GET / ICY/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /  HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n", 400),
        (b" GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /a\tb HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /a\x00b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /a\x7f HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET /a?b#c HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"OPTIONS *x HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET http:/// HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET http://:80/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET http://u:p@h/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"GET http://h\\x/ HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"G\xe4T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        (b"CONNECT /x HTTP/1.1\r\nHost: h\r\n\r\n", 501),
        (b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        (b"\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    ],
)
def test_bad_request_lines_are_refused(data: bytes, status: int) -> None:
    """Each malformed or unsupported request line gets the status that tells why."""
    assert refusal(data) == status


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        b"\x80\x2e\x01",
        b"GET /\r\n",
        b"GET / HTTP/1.1\n",
        b"SSH-2.0-OpenSSH_9\r\n",
        b'{"model"}\r\n',
    ],
)
def test_hopeless_beginnings_are_refused_at_once(data: bytes) -> None:
    """A peer that speaks something else is not waited for."""
    assert refusal(data) == HTTPStatus.BAD_REQUEST


@pytest.mark.parametrize(
    "data", [b"", b"\r", b"\r\n", b"\r\n\r", b"G", b"GET / HTTP/1.1", b"GET / HTTP/1.1\r\nA: b\r\n"]
)
def test_an_incomplete_head_is_waited_for(data: bytes) -> None:
    """What may still become a request is neither refused nor returned."""
    assert parse_request_head(data) is None


def test_the_limit_is_exact() -> None:
    """A head of just the allowed size passes; one byte more is 431, complete or not."""
    data = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 100 + b"\r\n\r\n"
    assert parse_request_head(data + b"body", max_head_bytes=len(data)) is not None
    for piece in (data, data[:-1], data + b"body"):
        with pytest.raises(HeaderTooLargeError):
            parse_request_head(piece, max_head_bytes=len(data) - 1)


def test_too_many_fields_are_refused() -> None:
    """Thousands of tiny fields are as dear as one big head."""
    assert len(parse(*[b"a:"] * (MAX_FIELDS - 1)).fields) == MAX_FIELDS
    with pytest.raises(HeaderTooLargeError):
        parse(*[b"a:"] * MAX_FIELDS)


# ---------------------------------------------------------------- what is sent on


def test_hop_by_hop_fields_stay_here() -> None:
    """Only end-to-end fields travel; host, length and expectation are rewritten."""
    head = parse(
        b"Accept: */*",
        b"Connection: X-Mine, keep-alive",
        b"X-Mine: 1",
        b"Keep-Alive: timeout=5",
        b"Proxy-Connection: keep-alive",
        b"Proxy-Authenticate: Basic",
        b"Proxy-Authorization: Basic eA==",
        b"TE: trailers",
        b"Trailer: X-Sum",
        b"Transfer-Encoding: chunked",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
        b"Authorization: Bearer t",
    )
    assert upstream_request_head(head, target=b"/y", host=b"127.0.0.1:1", content_length=7) == (
        b"POST /y HTTP/1.1\r\nHost: 127.0.0.1:1\r\nAccept: */*\r\nAuthorization: Bearer t\r\n"
        b"Content-Length: 7\r\n\r\n"
    )


def test_a_client_cannot_remove_the_framing() -> None:
    """Naming Host or Content-Length in Connection does not take them from the backend."""
    head = parse(b"Connection: host, content-length", b"Content-Length: 3")
    sent = upstream_request_head(head, target=b"/", host=b"b", content_length=3)
    assert sent == b"POST / HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "announced"), [(b"GET", False), (b"HEAD", False), (b"PUT", True)]
)
def test_length_without_a_body(method: bytes, announced: bool) -> None:  # noqa: FBT001 -- a column of the table
    """Methods that mean content say that there is none; the others say nothing."""
    head = parse(line=method + b" / HTTP/1.1")
    sent = upstream_request_head(head, target=b"/", host=b"b", content_length=None)
    assert (b"Content-Length: 0\r\n" in sent) is announced
    assert sent.count(b"Content-Length") == announced


# ---------------------------------------------------------------- chunked bodies


def test_chunks_are_decoded() -> None:
    """Extensions and trailers are dropped; the next request is kept apart."""
    body = ChunkedBody()
    data = b'4;a=b;c="d e"\r\nWiki\r\n5 ;x\r\npedia\r\n0;last\r\nX-Sum: 1\r\n\r\nGET /'
    assert body.feed(data) == b"Wikipedia"
    assert body.done
    assert body.excess == b"GET /"


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_a_body_of_a_length_ends_there(size: int) -> None:
    """Whatever the pieces, what is behind it is dropped."""
    body, data = LengthBody(5), b"HelloGET"
    payload = b""
    for at in range(0, len(data), size):
        assert body.done == (at >= 5)
        payload += body.feed(data[at : at + size])
    assert (payload, body.done) == (b"Hello", True)


def test_no_body_is_done_at_once() -> None:
    """There is nothing to wait for."""
    assert LengthBody(0).done
    assert LengthBody(0).feed(b"GET") == b""


def test_what_comes_later_is_excess() -> None:
    """After the end every byte belongs to the next message."""
    body = ChunkedBody()
    assert body.feed(b"0\r\n\r\nA") == b""
    assert body.feed(b"B") == b""
    assert body.excess == b"AB"


def test_an_unfinished_body_is_not_done() -> None:
    """The empty line behind the last chunk is part of the message."""
    body = ChunkedBody()
    assert body.feed(b"1\r\na\r\n0\r\n") == b"a"
    assert not body.done
    body.feed(b"\r\n")
    assert body.done


@pytest.mark.parametrize(
    "data",
    [
        b"1_0\r\n",
        b"+5\r\n",
        b"-5\r\n",
        b" 5\r\n",
        b"5 \r\n",
        b"0x5\r\n",
        b"\r\n",
        b";a\r\n",
        b"g\r\n",
        b"5\n",
        b"5\r\r\n",
        b"5;a\nb\r\n",
        b"5;a\rb\r\n",
        b"5;a\x00\r\n",
        b"00000000000000005\r\n",
        b"1\r\naX\n",
        b"1\r\na\n",
        b"1\r\na\n5\r\n",
        b"1\r\nabc\r\n",
        b"1\r\na\r0\r\n",
        b"2\r\na\r\n0\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\n\n",
        b"0\r\nX: y\r\n z\r\n\r\n",
        b"5;" + b"x" * 253 + b"\r\n" + b"hello\r\n",
        b"5" * 257,
        b"0\r\n" + b"X: " + b"y" * 8192,
        b"0\r\n" + b"X: y\r\n" * 1400,
    ],
)
def test_broken_chunking_is_refused(data: bytes) -> None:
    """Sizes are plain hexadecimal, every line and every chunk ends with CRLF, all is bounded."""
    with pytest.raises(RequestError) as caught:
        ChunkedBody().feed(data)
    assert caught.value.status == HTTPStatus.BAD_REQUEST
    with pytest.raises(RequestError):
        decode_bytewise(data)


def test_the_longest_chunk_line_is_256_bytes() -> None:
    """Extensions fit in exactly that many bytes with the line end."""
    data = b"5;" + b"x" * 252 + b"\r\nhello\r\n"
    assert ChunkedBody().feed(data) == b"hello"
    assert decode_bytewise(data) == b"hello"


def test_a_chunk_that_cannot_fit_is_refused_when_announced() -> None:
    """The limit holds before the bytes are here."""
    body = ChunkedBody(max_body_bytes=10)
    assert body.feed(b"6\r\n123456\r\n") == b"123456"
    with pytest.raises(BodyTooLargeError):
        body.feed(b"5\r\n")


def test_a_body_of_just_the_limit_passes() -> None:
    """The limit is inclusive."""
    body = ChunkedBody(max_body_bytes=10)
    assert body.feed(b"6\r\n123456\r\n4\r\n1234\r\n0\r\n\r\n") == b"1234561234"
    assert body.done


# ---------------------------------------------------------------- field lines that were seen


def test_the_memory_of_field_lines_is_bounded_and_has_no_secrets() -> None:
    """Whatever lines come; long ones, and those with secrets, are parsed each time."""
    for number in range(3 * _MAX_PARSED // MAX_FIELDS):
        parse(*(b"X-%d: %d" % (number, each) for each in range(MAX_FIELDS - 1)))
    secrets = (b"Authorization: Bearer t", b"COOKIE: a=b", b"X-Api-Key: k", b"x-admin-token: t")
    for _ in range(2):
        head = parse(*secrets, b"X-Long: " + b"x" * 200, b"X-Short: y")
        assert head.get(b"authorization") == b"Bearer t"
        assert head.get(b"x-long") == b"x" * 200
    assert len(_PARSED) <= _MAX_PARSED
    assert b"X-Short: y" in _PARSED
    assert not {*secrets, b"X-Long: " + b"x" * 200} & _PARSED.keys()
