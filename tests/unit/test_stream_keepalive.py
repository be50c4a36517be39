"""Keepalives of a silent stream: when one is due, and where in the bytes it may stand."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llama_router.core.apis.dialect import StreamDialect, StreamInfo
from llama_router.core.apis.event_stream import KEEPALIVE, ends_with_event
from llama_router.core.apis.model_names import ModelNameRewriter
from llama_router.core.apis.openai import CHAT
from llama_router.gateway.body import (
    BodyEncoder,
    ModelNameEncoder,
    chunk,
    encoder_for_stream,
)
from llama_router.gateway.silence import Silence
from llama_router.http1 import Dechunker, ResponseHead, parse_response_head

EVENT = b'data: {"n": 1}\n\n'
CHUNKED = b"transfer-encoding: chunked\r\n"
LENGTH = b"content-length: 1000\r\n"


def head(framing: bytes, content_type: bytes = b"text/event-stream") -> ResponseHead:
    """Return the head of a stream."""
    text = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n" % (content_type, framing)
    parsed = parse_response_head(text, request_method=b"POST")
    assert parsed is not None
    return parsed


# Texts with everything that could be taken for the end of an event, or for a chunk's head.
TEXTS = st.lists(
    st.sampled_from([b"data: x", b"5", b"a", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r", b";"]),
    min_size=1,
    max_size=5,
).map(b"".join)


@given(st.lists(TEXTS, min_size=1, max_size=8), st.integers(0, 60))
@example([b"\r\n5", b"\n"], 0)
def test_it_is_never_wrong_about_the_end_of_an_event(payloads, cut) -> None:
    """However strange the payload, and wherever the part that is known begins."""
    stream = b"".join(map(chunk, payloads))
    plain = b"".join(payloads)
    tail = stream[min(cut, max(0, len(stream) - 40)) :]
    if ends_with_event(tail, chunked=True):
        assert plain.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
    assert ends_with_event(plain, chunked=False) is plain.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))


@pytest.mark.parametrize("ending", [b"\n\n", b"\r\n\r\n", b"\r\r"])
@pytest.mark.parametrize("size", [0, 1, 3, 200, 5000])
def test_it_knows_every_usual_event(ending, size) -> None:
    """One or more whole events in a chunk, of any size and with any line breaks."""
    event = b"data: " + b"5" * size + ending
    stream = chunk(EVENT) + chunk(event)
    assert ends_with_event(stream, chunked=True)
    assert ends_with_event(stream[-2048:], chunked=True)
    assert not ends_with_event(chunk(event[:-1]), chunked=True)


def test_nothing_is_the_end_of_an_event() -> None:
    """A comment may stand before the first one."""
    assert ends_with_event(b"", chunked=True)
    assert ends_with_event(b"", chunked=False)


class TestEncoders:
    """`BodyEncoder.keepalive`, by framing of the backend and of the client."""

    def test_between_two_chunks(self) -> None:
        """It is a chunk of its own."""
        encoder = BodyEncoder(head(CHUNKED), http10=False)
        tail = chunk(EVENT)
        assert encoder.encode(tail, len(tail)) == tail
        assert encoder.keepalive(tail, between_chunks=True) == chunk(KEEPALIVE)

    def test_not_inside_a_chunk(self) -> None:
        """Neither the held part nor the client's stream would be whole."""
        encoder = BodyEncoder(head(CHUNKED), http10=False)
        tail = chunk(EVENT) + chunk(EVENT)[:-5]
        encoder.encode(tail, len(chunk(EVENT)))
        assert encoder.keepalive(tail, between_chunks=False) == b""

    def test_not_inside_an_event(self) -> None:
        """The comment's blank line would end it."""
        encoder = BodyEncoder(head(CHUNKED), http10=False)
        tail = chunk(b"data: half")
        encoder.encode(tail, len(tail))
        assert encoder.keepalive(tail, between_chunks=True) == b""

    def test_for_http10_it_is_not_framed(self) -> None:
        """The chunks of the backend are decoded for it."""
        encoder = BodyEncoder(head(CHUNKED), http10=True)
        tail = chunk(EVENT)
        assert encoder.encode(tail, len(tail)) == EVENT
        assert encoder.keepalive(tail, between_chunks=True) == KEEPALIVE

    def test_until_the_end_of_the_connection(self) -> None:
        """As the rest of that body."""
        encoder = BodyEncoder(head(b""), http10=False)
        assert encoder.keepalive(EVENT, between_chunks=False) == KEEPALIVE

    def test_not_in_a_body_with_a_length(self) -> None:
        """It would be too long then."""
        encoder = BodyEncoder(head(LENGTH), http10=False)
        assert encoder.keepalive(EVENT, between_chunks=False) == b""

    def test_not_in_another_body(self) -> None:
        """A download has no comments."""
        encoder = BodyEncoder(head(CHUNKED, b"text/plain"), http10=False)
        assert encoder.keepalive(chunk(EVENT), between_chunks=True) == b""

    @pytest.mark.parametrize("in_chunks", [True, False])
    def test_where_the_name_is_replaced(self, in_chunks) -> None:
        """In the framing of the client."""
        rewriter = ModelNameRewriter("other", events=True)
        encoder = ModelNameEncoder(head(CHUNKED), rewriter, in_chunks=in_chunks)
        expected = chunk(KEEPALIVE) if in_chunks else KEEPALIVE
        assert encoder.keepalive(chunk(EVENT), between_chunks=True) == expected


DIALECT = StreamDialect(CHAT, StreamInfo(id="1", created_s=0, model="m", path="/v1/x"))


@pytest.mark.parametrize("model_name", [None, "other"])
@pytest.mark.parametrize("framing", [CHUNKED, LENGTH, b""])
def test_a_stream_without_chunks_gets_any_body(framing, model_name) -> None:
    """For HTTP/1.0: payload only, errors and keepalives included."""
    encoder = encoder_for_stream(head(framing), DIALECT, model_name=model_name, in_chunks=False)
    data = chunk(EVENT) if framing == CHUNKED else EVENT
    assert encoder.encode(data, len(data)) == EVENT
    assert encoder.keepalive(data, between_chunks=framing == CHUNKED) == KEEPALIVE
    assert encoder.error_ending(b"data: error\n\n") == b"\n\ndata: error\n\n"
    assert encoder.finish() == b""


@pytest.mark.parametrize("framing", [CHUNKED, LENGTH, b""])
def test_an_answer_that_is_no_stream_becomes_an_event_without_chunks(framing) -> None:
    """As with chunks: the error event is the whole body."""
    plain = encoder_for_stream(
        head(framing, b"text/plain"), DIALECT, model_name=None, in_chunks=False
    )
    chunked = encoder_for_stream(
        head(framing, b"text/plain"), DIALECT, model_name=None, in_chunks=True
    )
    data = chunk(b"no") if framing == CHUNKED else b"no"
    assert plain.encode(data, len(data)) == chunked.encode(data, len(data)) == b""
    event = plain.finish()
    assert event.startswith(b"data: {")
    assert Dechunker().feed(chunked.finish()) == event


def test_a_silence_is_cut_into_steps() -> None:
    """The last one is as long as the rest."""
    silence = Silence(10, 4)
    assert (silence.has_steps, silence.next_s) == (True, 4)
    assert silence.step()
    assert silence.step()
    assert (silence.next_s, silence.left_s) == (2, 2)
    assert not silence.step()
    silence.broken()
    assert silence.next_s == 4


@pytest.mark.parametrize("keepalive_s", [0, 10, 20])
def test_without_keepalives_there_is_one_step(keepalive_s) -> None:
    """The whole silence; also if keepalives would come later."""
    silence = Silence(10, keepalive_s)
    assert (silence.has_steps, silence.next_s) == (False, 10)
    assert not silence.step()
