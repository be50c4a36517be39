"""Bytes of output become lines that are safe to show."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.logs.lines import Line, LineSplitter

# Bytes that matter to the splitter, often; any others, sometimes.
OUTPUT = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\n", b"\r", b"\r\n", b"a", b"bcd", b"\xc3", "é€😀".encode(), b"\x1b[31m", b"\x07"]
        ),
        st.binary(max_size=6),
    ),
    max_size=40,
).map(b"".join)


def split(data: bytes, *, max_line_bytes: int = 16_384) -> list[Line]:
    """Return the lines of a whole output."""
    splitter = LineSplitter(max_line_bytes)
    return splitter.feed(data) + splitter.flush()


def texts(data: bytes) -> list[str]:
    """Return their texts."""
    return [line.text for line in split(data)]


@given(OUTPUT, st.lists(st.integers(0, 120)), st.integers(1, 12))
def test_reads_may_fall_anywhere(data: bytes, cuts: list[int], max_line_bytes: int) -> None:
    """Any division of the output into reads gives the same lines."""
    splitter = LineSplitter(max_line_bytes)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    lines = [
        line for start, end in itertools.pairwise(edges) for line in splitter.feed(data[start:end])
    ]
    assert lines + splitter.flush() == split(data, max_line_bytes=max_line_bytes)


@given(st.text(st.characters(blacklist_categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_printable_text_is_kept_whole(text: str) -> None:
    """What a backend meant for people arrives unchanged."""
    assert texts(f"{text}\n".encode()) == [text]


@given(OUTPUT, st.integers(1, 12))
def test_nothing_unsafe_comes_out(data: bytes, max_line_bytes: int) -> None:
    """No line holds a character that could end it or steer a terminal."""
    for line in split(data, max_line_bytes=max_line_bytes):
        assert not any(
            ord(char) < 32 or 127 <= ord(char) < 160 for char in line.text if char != "\t"
        )


@given(OUTPUT)
def test_a_taken_partial_line_can_be_given_back(data: bytes) -> None:
    """`take_partial` loses nothing: fed again, it is the same unfinished line."""
    splitter = LineSplitter()
    lines = splitter.feed(data)
    partial = splitter.take_partial()
    assert splitter.flush() == []
    assert lines + splitter.feed(partial) + splitter.flush() == split(data)


def test_partial_line_waits_for_its_end() -> None:
    """A line is delivered once, when it is complete."""
    splitter = LineSplitter()
    assert splitter.feed(b"load") == []
    assert splitter.feed(b"ing\nnext") == [Line("loading")]
    assert splitter.flush() == [Line("next")]
    assert splitter.flush() == []


def test_carriage_return_newline_is_one_line_end() -> None:
    """Windows-style line ends are not progress updates, also when a read splits them."""
    splitter = LineSplitter()
    assert splitter.feed(b"a\r") == []
    assert splitter.feed(b"\nb\r\r\n") == [Line("a"), Line("b")]


@pytest.mark.parametrize(
    "output", [b"\r10%\r20%\rdone\n", b"10%\r20%\rdone\n", b"10%\r\r20%\rdone\n"]
)
def test_lone_carriage_return_ends_a_progress_update(output: bytes) -> None:
    """Updates that overwrite each other are marked, whichever end the return is at."""
    assert split(output) == [Line("10%", progress=True), Line("20%", progress=True), Line("done")]


def test_last_update_without_a_successor_is_flushed() -> None:
    """An update that nothing followed is still an update."""
    assert split(b"99%\r") == [Line("99%", progress=True)]


def test_invalid_utf8_is_shown_as_escapes() -> None:
    """Bytes that are no text stay visible."""
    assert texts(b"a\xff\xc3(\n") == [r"a\xff\xc3("]


def test_character_split_across_reads_is_whole() -> None:
    """Decoding happens on lines, not on reads."""
    splitter = LineSplitter()
    euro = "€".encode()
    assert splitter.feed(euro[:1]) == []
    assert splitter.feed(euro[1:2]) == []
    assert splitter.feed(euro[2:] + b"\n") == [Line("€")]


def test_over_long_line_comes_in_pieces_between_characters() -> None:
    """Pieces are bounded and no character is torn."""
    assert [line.text for line in split("aé€😀b".encode(), max_line_bytes=4)] == [
        "aé",
        "€",
        "😀",
        "b",
    ]
    assert [line.text for line in split(b"abcdefgh\n", max_line_bytes=4)] == ["abcd", "efgh"]


def test_memory_is_bounded_for_a_line_that_never_ends() -> None:
    """Only the limit's worth of an endless line is held back."""
    splitter = LineSplitter(max_line_bytes=100)
    for _ in range(50):
        splitter.feed(b"x" * 333)
    assert len(splitter.take_partial()) <= 100


def test_empty_lines_are_lines() -> None:
    """Blank lines that a backend prints are kept."""
    assert texts(b"a\n\nb\n") == ["a", "", "b"]


def test_colours_and_cursor_moves_are_dropped() -> None:
    """Terminal sequences vanish; they carry no content."""
    assert texts(b"\x1b[1;31mred\x1b[0m\x1b[2K \x1b]0;title\x07plain\n") == ["red plain"]


def test_other_control_characters_are_escaped() -> None:
    """What could forge a line or steer a terminal is shown, not sent; tabs are harmless."""
    output = "a\x1b(0\x07\x7f\x9b\u2028\u202eb\tc\n".encode()
    assert texts(output) == [r"a\x1b(0\x07\x7f\x9b\u2028\u202eb" + "\tc"]
