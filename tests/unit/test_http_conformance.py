"""The table of HTTP/1.1 cases on the parsers alone, each split at every byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from llama_router.errors.backends import UpstreamError
from llama_router.errors.requests import RequestError
from llama_router.http1 import (
    ChunkedBody,
    Dechunker,
    Framing,
    ResponseFraming,
    client_response_head,
    parse_request_head,
    parse_response_head,
    upstream_request_head,
)
from tests.http_cases import (
    ANSWERED,
    BROKEN,
    CUT,
    HOST,
    OK,
    REFUSED,
    SERVED,
    Cut,
    Request,
    Response,
)

#: Longer cases are not split at every byte.
SHORT_BYTES = 600

NEXT = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def readings(data: bytes) -> Iterator[list[bytes]]:
    """Return ways in which *data* may arrive: at once, in two pieces, in many."""
    yield [data]
    size = 1 if len(data) <= SHORT_BYTES else 1000
    yield [data[at : at + size] for at in range(0, len(data), size)]
    if len(data) <= SHORT_BYTES:
        yield from ([data[:at], data[at:]] for at in range(1, len(data)))


class Reader:
    """Takes a message in pieces; parses its head as soon as that is possible."""

    def __init__(self, pieces: list[bytes], parse: Callable[..., Any]) -> None:
        self._pieces = iter(pieces)
        self._parse = parse
        self._buffer = b""

    def head(self) -> Any:
        """Return the next head; fails if the pieces end before."""
        searched = 0
        while (head := self._parse(self._buffer, searched=searched)) is None:
            searched = len(self._buffer)
            self._buffer += next(self._pieces)
        self._buffer = self._buffer[head.size :]
        return head

    def rest(self) -> Iterator[bytes]:
        """Return what is behind the last head, in pieces."""
        yield self._buffer
        yield from self._pieces


def passed_up(pieces: list[bytes]) -> tuple[bytes, bool, bytes]:
    """Return what a backend gets, whether the connection lives on, and what is behind."""
    reader = Reader(pieces, parse_request_head)
    head = reader.head()
    if head.chunked:
        decoder = ChunkedBody()
        body = b"".join(map(decoder.feed, reader.rest()))
        assert decoder.done
        behind = decoder.excess
    else:
        rest = b"".join(reader.rest())
        body, behind = rest[: head.content_length or 0], rest[head.content_length or 0 :]
    has_body = head.chunked or head.content_length is not None
    sent = upstream_request_head(
        head, target=head.origin, host=HOST, content_length=len(body) if has_body else None
    )
    return sent + body, head.keep_alive, behind


def passed_down(pieces: list[bytes], case: Response) -> tuple[bytes, bool, bool]:
    """Return what a client gets, and whether its and the backend's connection live on."""
    reader = Reader(pieces, partial(parse_response_head, request_method=case.method))
    http10 = case.version == b"1.0"
    sent = b""
    while (head := reader.head()).status < 200:
        assert head.status != 101
        if head.status != 100 and not http10:
            sent += client_response_head(head, close=False)
    sent += client_response_head(head, close=http10, http10=http10)
    framing, surplus = ResponseFraming(head), b""
    decode = Dechunker().feed if http10 and head.framing is Framing.CHUNKED else bytes
    for piece in reader.rest():
        used = framing.feed(piece)
        sent += decode(piece[:used])
        surplus += piece[used:]
    assert framing.eof()
    kept = head.keep_alive and not surplus
    return sent, b"Connection: close\r\n" not in sent, kept


@pytest.mark.parametrize("case", SERVED, ids=str)
def test_a_good_request_is_passed_on(case: Request) -> None:
    """However it arrives, the backend gets the same bytes, and what follows stays apart."""
    for pieces in readings(case.data + NEXT):
        assert passed_up(pieces) == (case.upstream, not case.closes, NEXT)


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_a_bad_request_is_refused(case: Request) -> None:
    """However it arrives, it is refused for the same reason, although a good one follows."""
    for pieces in readings(case.data + NEXT):
        with pytest.raises(RequestError) as caught:
            passed_up(pieces)
        assert caught.value.status == case.status


@pytest.mark.parametrize("case", ANSWERED, ids=str)
def test_a_good_answer_is_passed_on(case: Response) -> None:
    """However it arrives, the client gets the same bytes, and both connections the same end."""
    for pieces in readings(case.data):
        assert passed_down(pieces, case) == (case.client, not case.closes, case.kept)


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_a_broken_answer_is_the_backends_fault(case: Response) -> None:
    """However it arrives, nothing of it gets to the client."""
    for pieces in readings(case.data):
        reader = Reader(pieces, partial(parse_response_head, request_method=b"POST"))
        with pytest.raises(UpstreamError):
            reader.head()


@pytest.mark.parametrize("case", CUT, ids=str)
def test_a_body_that_breaks_off_is_never_complete(case: Cut) -> None:
    """However it arrives, its end is not mistaken for the end of the message."""
    head_size = len(OK + case.framing) + 2
    for pieces in readings(case.data):
        reader = Reader(pieces, partial(parse_response_head, request_method=b"POST"))
        head = reader.head()
        assert head.size == head_size
        framing = ResponseFraming(head)
        try:
            for piece in reader.rest():
                assert framing.feed(piece) == len(piece)
        except UpstreamError:
            assert case.broken
        else:
            assert not case.broken
            assert not framing.eof()
