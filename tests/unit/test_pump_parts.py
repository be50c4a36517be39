"""What the pump decides with: whole chunks, encoders that pass them through, the tail of a body."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.apis.usage import HEAD_BYTES, TAIL_BYTES
from llama_router.gateway.body import BodyEncoder, chunk
from llama_router.gateway.pump import LEAST_PIECE_BYTES, MOST_PIECE_BYTES, MOST_PIECES, Tail
from llama_router.http1 import ResponseFraming, ResponseHead, parse_response_head

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

payloads = st.binary(min_size=1, max_size=40)
pieces = st.one_of(
    payloads.map(chunk),
    payloads.map(lambda payload: chunk(payload)[:-1]),
    payloads.map(lambda payload: b"0" + chunk(payload).replace(b"\r\n", b";x=1\r\n", 1)),
    st.sampled_from([b"0\r\n\r\n", b"0\r\n", b"5\r\nhello", b"x", b"\r\n", b""]),
)


def head_of(text: bytes) -> ResponseHead:
    """Return *text* parsed."""
    head = parse_response_head(text, request_method=b"POST")
    assert head is not None
    return head


class TestWhole:
    """`ChunkWalker.whole`, against `ResponseFraming.feed`."""

    @given(st.lists(pieces, min_size=1, max_size=4).map(b"".join))
    def test_it_says_yes_to_what_feed_takes_as_whole_chunks(self, data) -> None:
        """All of it is used, ends with a chunk, and is not the end of the body."""
        framing, other = ResponseFraming(head_of(STREAM)), ResponseFraming(head_of(STREAM))
        if framing.take_whole_chunks(data):
            assert other.feed(data) == other.boundary == len(data)
            assert other.between_chunks
            assert framing.chunks == other.chunks

    @given(st.lists(payloads, min_size=1, max_size=5))
    def test_chunks_are_recognised(self, several) -> None:
        """One or many, in one piece; otherwise no stream would ever be pumped."""
        assert ResponseFraming(head_of(STREAM)).take_whole_chunks(b"".join(map(chunk, several)))

    @given(st.lists(pieces, min_size=1, max_size=4).map(b"".join), payloads)
    def test_what_is_refused_is_not_taken_in(self, data, payload) -> None:
        """The walk goes on from where it was."""
        framing = ResponseFraming(head_of(STREAM))
        framing.take_whole_chunks(data)
        assert framing.between_chunks
        assert framing.feed(chunk(payload)) == len(chunk(payload))

    def test_single_chunks_of_every_size(self) -> None:
        """Those that are recognised by their length, and longer ones; no damaged one."""
        for size in range(1, 1100):
            data = chunk(b"x" * size)
            framing = ResponseFraming(head_of(STREAM))
            assert framing.take_whole_chunks(data)
            assert framing.chunks == 1
            for damaged in (data[:-1], data + b"x", data[:-1] + b"x", b"f" + data, data[1:]):
                other, walker = (ResponseFraming(head_of(STREAM)) for _ in range(2))
                if other.take_whole_chunks(damaged):
                    assert walker.feed(damaged) == walker.boundary == len(damaged)

    def test_other_framings_are_never_between_chunks(self) -> None:
        """A length or the connection's end is nothing that the pump knows."""
        for field in (b"content-length: 5\r\n", b""):
            head = head_of(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n")
            assert not ResponseFraming(head).between_chunks

    def test_the_end_is_not_between_chunks(self) -> None:
        """Nothing may follow it."""
        framing = ResponseFraming(head_of(STREAM))
        framing.feed(b"0\r\n\r\n")
        assert not framing.between_chunks


class TestPassing:
    """`BodyEncoder.passes_through`."""

    def test_not_while_a_beginning_is_held_back(self) -> None:
        """The next bytes would overtake it."""
        encoder = BodyEncoder(head_of(STREAM), http10=False)
        assert encoder.passes_through
        encoder.encode(b"5\r\nhel", 0)
        assert not encoder.passes_through
        encoder.encode(b"lo\r\n", 4)
        assert encoder.passes_through

    def test_not_where_chunks_are_decoded(self) -> None:
        """HTTP/1.0 knows none."""
        assert not BodyEncoder(head_of(STREAM), http10=True).passes_through


class TestTail:
    """`Tail`."""

    @given(
        st.lists(
            st.one_of(
                st.integers(0, 3 * TAIL_BYTES),
                st.integers(LEAST_PIECE_BYTES, MOST_PIECE_BYTES),
                st.integers(LEAST_PIECE_BYTES, LEAST_PIECE_BYTES + 2),
                st.integers(0, LEAST_PIECE_BYTES + 1),
            ),
            max_size=100,
        )
    )
    def test_it_keeps_both_ends(self, sizes) -> None:
        """Whatever pieces the body came in."""
        tail, body = Tail(), b""
        for number, size in enumerate(sizes):
            piece = bytes([number]) * size
            tail.add(piece)
            body += piece
        assert tail.last() == body[-TAIL_BYTES:]
        assert tail.first() == body[:HEAD_BYTES]

    def test_events_are_kept_without_a_copy(self) -> None:
        """Pieces of a usual size are kept as they are, and not for ever."""
        tail, pieces = Tail(), [bytes([number]) * 200 for number in range(250)]
        for piece in pieces:
            tail.add(piece)
        assert tail.pieces[-1] is pieces[-1]
        assert len(tail.pieces) <= MOST_PIECES
