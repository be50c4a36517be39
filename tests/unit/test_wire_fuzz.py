"""HTTP/1.1 parsing under random input: splits, mutations, and h11 as a second opinion."""

from __future__ import annotations

import contextlib
import itertools
import string
from functools import partial
from typing import Any, cast

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_router.errors.backends import UpstreamError
from llama_router.errors.requests import RequestError
from llama_router.http1 import (
    ChunkedBody,
    Dechunker,
    Framing,
    RequestHead,
    ResponseFraming,
    ResponseHead,
    client_response_head,
    parse_request_head,
    parse_response_head,
    upstream_request_head,
)

TOKEN_CHARS = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
VISIBLE = "".join(map(chr, range(0x21, 0x7F)))
SPECIAL = {
    *(b"connection", b"content-length", b"expect", b"host", b"transfer-encoding", b"upgrade"),
    *(b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection"),
    *(b"te", b"trailer", b"content-type"),
}
_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED = cast("ResponseHead", parse_response_head(_HEAD, request_method=b"GET"))

fuzz = settings(deadline=None, max_examples=150)


def text_bytes(alphabet: str, **size: int) -> st.SearchStrategy[bytes]:
    """Return a strategy for bytes of *alphabet*."""
    return st.text(alphabet, **size).map(lambda text: text.encode("latin-1"))


tokens = text_bytes(TOKEN_CHARS, min_size=1, max_size=12)
names = tokens.filter(
    lambda name: name.lower() not in SPECIAL and not name.lower().startswith(b"access-control-")
)
values = text_bytes(VISIBLE + " \t\xe4\xff", max_size=20).map(lambda value: value.strip(b" \t"))
plain_fields = st.lists(st.tuples(names, values), max_size=8)
targets = text_bytes(VISIBLE.replace("#", ""), max_size=20).map(lambda rest: b"/" + rest)
payloads = st.lists(st.binary(min_size=1, max_size=40), max_size=5)


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes, list[int]]:
    """Return a chunked body, its payload, and where each of its data chunks ends."""
    chunks = draw(payloads)
    data, ends = b"", []
    for chunk in chunks:
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x"])) % len(chunk)
        extension = draw(st.sampled_from([b"", b";a", b';a="b c"']))
        data += size + extension + b"\r\n" + chunk + b"\r\n"
        ends.append(len(data))
    trailers = draw(st.lists(st.tuples(names, values), max_size=2))
    data += draw(st.sampled_from([b"0", b"000"])) + b"\r\n"
    data += b"".join(b"%b: %b\r\n" % field for field in trailers) + b"\r\n"
    return data, b"".join(chunks), ends


@st.composite
def messages(draw: st.DrawFn, first_line: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the head and the body of a valid message, and the body's payload."""
    fields = draw(plain_fields)
    body, payload = b"", b""
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    if kind == "length":
        body = payload = draw(st.binary(max_size=40))
        fields.append((b"Content-Length", b"%d" % len(body)))
    elif kind == "chunked":
        body, payload, _ = draw(chunked_bodies())
        fields.append((b"Transfer-Encoding", b"chunked"))
    fields.append((b"Host", b"h:1"))
    if draw(st.booleans()):
        fields.append((b"Connection", draw(st.sampled_from([b"close", b"keep-alive", b"x, y"]))))
    fields = draw(st.permutations(fields))
    blank = draw(st.sampled_from([b"", b" ", b"\t "]))
    lines = [b"%b:%b%b%b\r\n" % (name, blank, value, blank) for name, value in fields]
    return first_line + b"\r\n" + b"".join(lines) + b"\r\n", body, payload


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """Return head, body and payload of a valid request."""
    method = draw(tokens.filter(lambda method: method != b"CONNECT"))
    return draw(messages(b"%b %b HTTP/1.1" % (method, draw(targets))))


@st.composite
def responses(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """Return head, body and payload of a valid response that has a body."""
    status = draw(st.sampled_from([200, 201, 400, 404, 500, 503, 599]))
    reason = draw(text_bytes(VISIBLE + " ", max_size=10))
    return draw(messages(b"HTTP/1.1 %d %b" % (status, reason)))


cuts = st.lists(st.integers(0, 400), max_size=8)


def split(data: bytes, places: list[int]) -> list[bytes]:
    """Cut *data* at *places*."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def parse_pieces(parse: Any, pieces: list[bytes], **options: Any) -> tuple[Any, bytes]:
    """Parse a head that arrives in *pieces*; return it and all that was received."""
    buffer, searched, head = bytearray(), 0, None
    for piece in pieces:
        buffer += piece
        if head is None:
            head = parse(buffer, searched=searched, **options)
            searched = len(buffer)
    return head, bytes(buffer)


def walk(framing: ResponseFraming, pieces: list[bytes]) -> tuple[int, list[int]]:
    """Feed *pieces*; return the body's size and every boundary, as offsets in the whole."""
    position, used, boundaries = 0, 0, []
    for piece in pieces:
        taken = framing.feed(piece)
        assert 0 <= framing.boundary <= taken <= len(piece)
        assert taken == len(piece) or framing.done
        if framing.boundary:
            boundaries.append(position + framing.boundary)
        position += len(piece)
        used += taken
    return used, boundaries


# ---------------------------------------------------------------- splits


@given(requests(), cuts, st.integers(0, 3))
@fuzz
def test_request_heads_do_not_depend_on_the_reads(
    request: tuple[bytes, bytes, bytes], places: list[int], empty_lines: int
) -> None:
    """Any split of a request gives the head that one read gives."""
    head_bytes, body, _ = request
    data = b"\r\n" * empty_lines + head_bytes + body
    whole = parse_request_head(data)
    assert whole is not None
    assert data[whole.size :] == body
    assert parse_pieces(parse_request_head, split(data, places)) == (whole, data)


@given(responses(), cuts)
@fuzz
def test_response_heads_do_not_depend_on_the_reads(
    response: tuple[bytes, bytes, bytes], places: list[int]
) -> None:
    """Any split of a response gives the head that one read gives."""
    data = response[0] + response[1]
    whole = parse_response_head(data, request_method=b"POST")
    assert whole is not None
    assert data[whole.size :] == response[1]
    pieces = split(data, places)
    assert parse_pieces(parse_response_head, pieces, request_method=b"POST") == (whole, data)


@given(chunked_bodies(), cuts, st.binary(max_size=10))
@fuzz
def test_chunked_bodies_do_not_depend_on_the_reads(
    body: tuple[bytes, bytes, list[int]], places: list[int], rest: bytes
) -> None:
    """Any split decodes to the same payload, and the bytes behind are kept apart."""
    data, payload, _ = body
    for pieces in (split(data + rest, places), [bytes([b]) for b in data + rest]):
        decoder = ChunkedBody()
        assert b"".join(map(decoder.feed, pieces)) == payload
        assert decoder.done
        assert decoder.excess == rest
        assert b"".join(map(Dechunker().feed, pieces)) == payload


@given(chunked_bodies(), cuts, st.binary(max_size=10))
@fuzz
def test_chunked_framing_does_not_depend_on_the_reads(
    body: tuple[bytes, bytes, list[int]], places: list[int], rest: bytes
) -> None:
    """Any split finds the same end and chunk count, and only true boundaries."""
    data, _, ends = body
    for pieces in (split(data + rest, places), [bytes([b]) for b in data + rest]):
        framing = ResponseFraming(CHUNKED)
        used, boundaries = walk(framing, pieces)
        assert (used, framing.chunks, framing.done) == (len(data), len(ends), True)
        assert set(boundaries) <= {*ends, len(data)}
        assert boundaries[-1] == len(data)
    assert boundaries == [*ends, len(data)]  # byte by byte none is skipped


@given(st.binary(max_size=60), st.integers(0, 60), cuts)
@fuzz
def test_length_framing_does_not_depend_on_the_reads(
    data: bytes, length: int, places: list[int]
) -> None:
    """Exactly the announced bytes belong to the message, however they come."""
    head = parse_response_head(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length, request_method=b"GET"
    )
    assert head is not None
    framing = ResponseFraming(head)
    used, _ = walk(framing, split(data, places))
    assert used == min(length, len(data))
    assert framing.remaining == length - used
    assert framing.done is framing.eof() is (used == length)


# ---------------------------------------------------------------- garbage


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[tuple[bytes, bytes, bytes]]) -> bytes:
    """Return a valid message with some bytes replaced, removed or put in."""
    head, body, _ = draw(valid)
    data = bytearray(head + body)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 3))
        data[place : place + length] = draw(
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from([b"\r", b"\n", b"\r\n", b"\r\n ", b" :", b"\x00", b"\x0b", b"-1"]),
            )
        )
    return bytes(data)


@given(st.one_of(st.binary(max_size=100), mutated(requests())), cuts)
@example(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [])
@fuzz
def test_garbage_requests_raise_request_errors_only(data: bytes, places: list[int]) -> None:
    """Whatever arrives is a head, incomplete, or a `RequestError`; and a head can be sent on."""
    with contextlib.suppress(RequestError):
        head, buffer = parse_pieces(parse_request_head, split(data, places))
        if head is None:
            return
        assert isinstance(head, RequestHead)
        sent = upstream_request_head(head, target=head.target, host=b"b", content_length=None)
        assert parse_request_head(sent) is not None
        if head.chunked:
            ChunkedBody(max_body_bytes=1000).feed(buffer[head.size :])


@given(st.one_of(st.binary(max_size=100), mutated(responses())), cuts)
@fuzz
def test_garbage_responses_raise_upstream_errors_only(data: bytes, places: list[int]) -> None:
    """Whatever arrives is a head, incomplete, or an `UpstreamError`; and a head can be sent on."""
    pieces = split(data, places)
    with contextlib.suppress(UpstreamError):
        head, buffer = parse_pieces(parse_response_head, pieces, request_method=b"GET")
        if head is None:
            return
        assert isinstance(head, ResponseHead)
        sent = client_response_head(head, close=False)
        assert parse_response_head(sent, request_method=b"GET") is not None
        walk(ResponseFraming(head), split(buffer[head.size :], places))


@given(st.binary(max_size=80), cuts)
@fuzz
def test_garbage_chunks_fail_in_the_same_way_in_any_split(data: bytes, places: list[int]) -> None:
    """A broken body is refused or waited for, whatever the reads."""

    def outcome(pieces: list[bytes]) -> tuple[bool, int] | None:
        framing = ResponseFraming(CHUNKED)
        try:
            used, _ = walk(framing, pieces)
        except UpstreamError:
            return None
        return framing.done, used

    for beginning in (b"", b"3\r\nabc\r\n", b"0\r\n"):
        pieces = split(beginning + data, places)
        assert outcome(pieces) == outcome([beginning + data])


def test_byte_by_byte_costs_no_more_than_linear_copies() -> None:
    """A head at the limit that trickles in one byte per read is searched once, not per read."""

    class Counting(bytearray):
        """A buffer that counts the bytes that were searched in it."""

        searched_bytes = 0

        def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
            found = super().find(sub, start, end)
            stop = len(self) if end is None else min(end, len(self))
            Counting.searched_bytes += max(0, (stop if found < 0 else found) - start)
            return found

    buffer = Counting()
    data = b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 20_000 + b"\r\n\r\n"
    for searched, byte in enumerate(data):
        buffer.append(byte)
        head = parse_request_head(buffer, searched=searched)
        assert (head is None) is (searched + 1 < len(data))
    assert Counting.searched_bytes < 10 * len(data)


# ---------------------------------------------------------------- a second opinion


def events(connection: h11.Connection, data: bytes) -> tuple[Any, bytes]:
    """Return the head and the payload that h11 finds in *data*."""
    connection.receive_data(data)
    head = connection.next_event()
    payload = b""
    while isinstance(event := connection.next_event(), h11.Data):
        payload += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return head, payload


@given(requests())
@fuzz
def test_h11_reads_the_same_request(request: tuple[bytes, bytes, bytes]) -> None:
    """Method, target, fields and body of a valid request are those that h11 sees."""
    head_bytes, body, payload = request
    head = parse_request_head(head_bytes)
    assert head is not None
    theirs, their_payload = events(h11.Connection(h11.SERVER), head_bytes + body)
    assert (theirs.method, theirs.target) == (head.method, head.target)
    assert list(theirs.headers) == head.fields
    decoded = ChunkedBody().feed(body) if head.chunked else body
    assert decoded == payload == their_payload
    assert head.content_length in (None, len(body))


@given(responses())
@fuzz
def test_h11_reads_the_same_response(response: tuple[bytes, bytes, bytes]) -> None:
    """Status, reason, fields, body and its end are those that h11 sees."""
    head_bytes, body, payload = response
    head = parse_response_head(head_bytes, request_method=b"GET")
    assert head is not None
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    connection.send(h11.EndOfMessage())
    if head.framing is Framing.CLOSE:
        connection.receive_data(head_bytes)
        theirs = connection.next_event()
    else:
        theirs, their_payload = events(connection, head_bytes + body)
        assert their_payload == payload
        assert ResponseFraming(head).feed(body + b"next") == len(body)
    assert isinstance(theirs, h11.Response)
    assert (theirs.status_code, theirs.reason) == (head.status, head.reason)
    assert list(theirs.headers) == head.fields


@given(requests())
@fuzz
def test_h11_accepts_what_is_sent_to_the_backend(request: tuple[bytes, bytes, bytes]) -> None:
    """The rewritten request is valid, and says the same without what was hop by hop."""
    head = parse_request_head(request[0])
    assert head is not None
    payload = request[2]
    sent = upstream_request_head(head, target=b"/t", host=b"b:1", content_length=len(payload))
    theirs, their_payload = events(h11.Connection(h11.SERVER), sent + payload)
    assert (theirs.method, theirs.target, their_payload) == (head.method, b"/t", payload)
    options = head.connection_options
    kept = [f for f in head.fields if f[0] not in SPECIAL and f[0] not in options]
    assert list(theirs.headers) == [
        (b"host", b"b:1"),
        *kept,
        (b"content-length", b"%d" % len(payload)),
    ]


@given(mutated(requests()))
@settings(deadline=None, max_examples=400)
def test_nothing_is_accepted_that_h11_frames_differently(data: bytes) -> None:
    """Where both accept a damaged request, both see the same body length."""
    try:
        head = parse_request_head(data)
    except RequestError:
        return
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(data)
        theirs = connection.next_event()
    except h11.RemoteProtocolError:
        return
    if head is None or not isinstance(theirs, h11.Request):
        return
    assert head.target == theirs.target
    fields = dict(theirs.headers)
    assert head.chunked is (b"transfer-encoding" in fields)
    assert head.content_length == (
        int(fields[b"content-length"]) if b"content-length" in fields else None
    )


def our_reading(data: bytes, parse: Any, walker: Any) -> tuple[bytes, bytes] | None:
    """Return the payload that we find in *data*, and what is behind; None if it is not whole."""
    try:
        head = parse(data)
        if head is None:
            return None
        rest = data[head.size :]
        if getattr(head, "chunked", False) or getattr(head, "framing", None) is Framing.CHUNKED:
            pieces: list[bytes] = []
            chunks = walker()
            used = chunks.walk(rest, pieces)
            return (b"".join(pieces), rest[used:]) if chunks.done else None
    except (RequestError, UpstreamError):
        return None
    if getattr(head, "framing", None) is Framing.CLOSE:
        return None
    length = head.content_length or 0
    return (rest[:length], rest[length:]) if len(rest) >= length else None


def their_reading(connection: h11.Connection, data: bytes) -> tuple[bytes, bytes] | None:
    """Return the same as h11 sees it."""
    payload = b""
    try:
        connection.receive_data(data)
        if not isinstance(connection.next_event(), h11.Request | h11.Response):
            return None
        while isinstance(event := connection.next_event(), h11.Data):
            payload += bytes(event.data)
    except h11.RemoteProtocolError:
        return None
    return (payload, connection.trailing_data[0]) if isinstance(event, h11.EndOfMessage) else None


@given(mutated(requests()))
@settings(deadline=None, max_examples=400)
def test_h11_finds_the_same_end_of_a_damaged_request(data: bytes) -> None:
    """Where both see a whole message, payload and next message are the same bytes."""
    ours = our_reading(data, parse_request_head, ChunkedBody)
    theirs = their_reading(h11.Connection(h11.SERVER), data)
    if ours is not None and theirs is not None:
        assert ours == theirs


@given(mutated(responses()))
@settings(deadline=None, max_examples=400)
def test_h11_finds_the_same_end_of_a_damaged_answer(data: bytes) -> None:
    """Where both see a whole message, payload and next message are the same bytes."""
    ours = our_reading(data, partial(parse_response_head, request_method=b"GET"), Dechunker)
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    connection.send(h11.EndOfMessage())
    theirs = their_reading(connection, data)
    if ours is not None and theirs is not None:
        assert ours == theirs


@pytest.mark.parametrize("split_at", range(1, 22))
def test_every_split_of_an_sse_chunk(split_at: int) -> None:
    """Whichever byte of a chunk a read ends with, the boundary behind it is found."""
    data = b'd;x=y\r\ndata: {"a"}\n\n\r\n'
    framing = ResponseFraming(CHUNKED)
    used, boundaries = walk(framing, split(data, [split_at]))
    assert (used, boundaries, framing.chunks) == (len(data), [len(data)], 1)
