"""`FrameTracker`: where WebSocket frames end, and which of them are data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.gateway.websocket import (
    GOING_AWAY,
    FrameTracker,
    close_frame,
)

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", *, masked: bool = False) -> bytes:
    """Return one frame, with a mask that changes nothing if *masked*."""
    size, flag = len(payload), 0x80 if masked else 0
    if size < 126:
        head = bytes((0x80 | opcode, flag | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, flag | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, flag | 127)) + size.to_bytes(8, "big")
    return head + (bytes(4) if masked else b"") + payload


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
@pytest.mark.parametrize(
    ("opcode", "is_data"),
    [(TEXT, True), (BINARY, True), (CONTINUATION, True), (PING, False), (PONG, False)],
)
def test_each_frame_is_told_by_its_opcode(opcode, is_data, size, masked) -> None:
    """Every form of a length, with a mask and without one."""
    tracker = FrameTracker()
    assert tracker.feed(frame(opcode, bytes(size), masked=masked)) is is_data
    assert tracker.between_frames
    assert (tracker.frames, tracker.closed) == (1, False)


def test_a_piece_inside_a_data_frame_is_data() -> None:
    """Also if it has no header of its own; inside a ping it is not."""
    tracker = FrameTracker()
    whole = frame(BINARY, bytes(1000), masked=True)
    assert tracker.feed(whole[:20])
    assert not tracker.between_frames
    assert tracker.feed(whole[20:])
    assert tracker.between_frames
    whole = frame(PING, bytes(100), masked=True)
    assert not tracker.feed(whole[:20])
    assert not tracker.feed(whole[20:])


def test_half_a_header_is_no_boundary() -> None:
    """A frame of the router must not stand there."""
    tracker = FrameTracker()
    assert not tracker.feed(frame(TEXT, bytes(300))[:3])
    assert not tracker.between_frames


def test_nothing_counts_after_a_close_frame() -> None:
    """What follows it is no frame."""
    tracker = FrameTracker()
    assert not tracker.feed(frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"late"))
    assert tracker.closed
    assert not tracker.feed(frame(TEXT, b"later"))
    assert tracker.frames == 1


KINDS = st.sampled_from([TEXT, BINARY, CONTINUATION, PING, PONG])
FRAMES = st.lists(st.tuples(KINDS, st.integers(0, 300), st.booleans()), max_size=12)


@given(frames=FRAMES, cuts=st.lists(st.integers(1, 40), min_size=1))
def test_the_cuts_between_pieces_change_nothing(frames, cuts) -> None:
    """However the bytes arrive, the same frames are seen, and the same boundary at the end."""
    stream = b"".join(frame(kind, bytes(size), masked=masked) for kind, size, masked in frames)
    tracker = FrameTracker()
    seen, position, turn = False, 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        seen |= tracker.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert seen is any(kind in (TEXT, BINARY, CONTINUATION) for kind, _, _ in frames)
    assert tracker.frames == len(frames)
    assert tracker.between_frames


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_any_bytes_are_followed(pieces) -> None:
    """Nothing that is no WebSocket makes it fail."""
    tracker = FrameTracker()
    for piece in pieces:
        tracker.feed(piece)
        assert not tracker._header or tracker._left_bytes == 0


def test_a_close_frame_has_code_and_reason() -> None:
    """It is unmasked, complete, and never longer than a control frame may be."""
    whole = close_frame(GOING_AWAY, "model_unloaded")
    assert whole == b"\x88\x10\x03\xe9model_unloaded"
    assert len(close_frame(GOING_AWAY, "x" * 500)) == 2 + 125
