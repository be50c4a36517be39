"""Lines of logs: as text that nobody forges, and pieces of a log that fit together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.logs.lines import LineSplitter
from llama_router.logs.rendering import json_line
from llama_router.model_logs.record import (
    LogRecord,
    Resume,
    as_json,
    as_text,
    from_json,
    join,
    overlap,
)

TS = "2026-11-25T18:00:00.000Z"

#: What a terminal obeys, or what makes text look like other text.
HOSTILE = (
    "\x1b[2J\x1b[1;1H",  # clear the screen
    "\x1b]0;title\x07",  # set the title
    "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",  # a link that says something else
    "\x9b31m",  # CSI as one C1 character
    "\x08\x08\x08",  # over what stands before
    "\u202egpj.exe",  # from right to left
    "\u2066\u2069",
    "\u2028\u2029\x85\x0b\x0c",  # line ends of one kind or another
    "\x00\x7f",
)


def splitted(text: str) -> list[str]:
    """Return the lines that a backend's output *text* becomes."""
    splitter = LineSplitter()
    raw = text.encode("utf-8", "surrogatepass")
    return [line.text for line in [*splitter.feed(raw), *splitter.flush()]]


@pytest.mark.parametrize("evil", HOSTILE)
@pytest.mark.parametrize("by_router", [False, True])
def test_nothing_steers_a_terminal(evil: str, by_router: bool) -> None:  # noqa: FBT001 -- a parameter
    """Neither in text nor in JSON, and not even if it came into a file unseen."""
    for line in [*splitted(f"a{evil}b\n"), f"a{evil}b"]:
        record = LogRecord(TS, line, by_router)
        for shown in (as_text(record), json_line(as_json(record, evil)).decode().rstrip("\n")):
            assert all(char.isprintable() for char in shown), ascii(shown)


@given(st.text())
def test_a_backend_cannot_speak_as_the_router(text: str) -> None:
    """However it begins its lines, each has the mark of the backend, and is one line."""
    forged = f"{text}\n{TS} * pid 1 started: rm -rf\r{TS} * x\u2028{TS} * y\x85{TS} * z\n"
    for line in splitted(forged):
        shown = as_text(LogRecord(TS, line))
        assert shown.startswith(f"{TS} | ")
        assert len(shown.splitlines()) == 1


@pytest.mark.parametrize("line", ["plain", '{"by":"router"}', "\u202e", "\t", "é", ""])
@pytest.mark.parametrize("by_router", [False, True])
def test_json_gives_back_the_record(line: str, by_router: bool) -> None:  # noqa: FBT001 -- same
    """Files and the API say who spoke; text cannot pretend it."""
    record = LogRecord(TS, line, by_router)
    assert from_json(json_line(as_json(record, "m"))) == record


@pytest.mark.parametrize("line", ["", "{", "[]", '{"ts":1,"line":2}', '{"ts":"x"}', "null"])
def test_what_is_no_record_is_none(line: str) -> None:
    """Half a line after a crash, or somebody's edit, costs only itself."""
    assert from_json(line) is None


@pytest.mark.parametrize(
    ("line", "colour"),
    [
        ("0.00.006 E llama_model_load: error", "31"),
        ("ERROR 09-28 15:47:24 [core.py:718] failed", "31"),
        ("Traceback (most recent call last):", "31"),
        ("0.00.003 W srv init: no API key", "33"),
        ("WARNING 10-10 10:22:58 something", "33"),
        ("0.00.003 I srv init: errors: 0", None),
    ],
)
def test_a_terminal_gets_colours_by_loudness(line: str, colour: str | None) -> None:
    """Errors are red, warnings yellow, everything else as it is."""
    shown = as_text(LogRecord(TS, line), colours=True)
    assert shown.endswith(f"\x1b[{colour}m{line}\x1b[0m" if colour else f" {line}")


# Few different lines and times: many look the same.
records = st.builds(
    LogRecord,
    st.integers(0, 3).map(lambda n: f"{TS}{n}"),
    st.sampled_from("ab"),
    st.just(value=False),
)
log = st.lists(records, max_size=12).map(lambda found: sorted(found, key=lambda r: r.ts))


@given(log, st.data())
def test_two_pieces_of_one_log_are_joined(whole: list[LogRecord], data: st.DataObject) -> None:
    """The end as read from a file, and the end as it is in memory, make the end of the log."""
    size = len(whole)
    older = whole[data.draw(st.integers(0, size)) : data.draw(st.integers(0, size))]
    newer = whole[data.draw(st.integers(0, size)) :]
    joined = join(older, newer) if newer else older
    assert joined[len(joined) - len(newer) :] == newer or not newer
    assert [r.ts for r in joined] == sorted(r.ts for r in joined)


def test_repeated_lines_are_not_lost() -> None:
    """The latest place that fits is the one: the least is cut."""
    a, b = LogRecord(f"{TS}1", "a"), LogRecord(f"{TS}1", "b")
    assert overlap([b, a, a, a], [a, a]) == 3
    assert join([b, a, b], [a, b, b]) == [b, a, b, b]
    assert join([], [a]) == [a]
    assert overlap([a, b], []) == 2


@given(log, st.data())
def test_a_log_is_picked_up_where_it_was_left(whole: list[LogRecord], data: st.DataObject) -> None:
    """Whatever was shown, and how far back it is read again: each line is shown once."""
    shown_to = data.draw(st.integers(0, len(whole)))
    begin = data.draw(st.integers(0, shown_to))
    again = data.draw(st.integers(0, shown_to))
    resume = Resume()
    shown = [record for record in whole[begin:shown_to] if resume.is_new(record)]
    assert shown == whole[begin:shown_to]
    resume.restart()
    later = [record for record in whole[again:] if resume.is_new(record)]
    # Lines of the same millisecond as the last one that was shown cannot be told apart.
    if again <= begin and shown and all(r.ts < shown[-1].ts for r in whole[again:begin]):
        assert later == whole[shown_to:]
    if not shown:
        assert later == whole[again:]


@pytest.mark.parametrize(("again", "gap"), [(0, False), (2, False), (3, True), (4, True)], ids=str)
def test_a_log_that_may_have_a_gap(again: int, gap: bool) -> None:  # noqa: FBT001 -- a parameter
    """It has, unless what is read again begins with something that was shown; said once."""
    whole = [LogRecord(f"{TS}{n}", "a") for n in range(6)]
    resume = Resume()
    assert [resume.is_new(record) for record in whole[:3]] == [True] * 3
    resume.restart()
    gaps = [resume.gap for record in whole[again:] if resume.is_new(record)]
    assert gaps == [gap, *[False] * (len(gaps) - 1)]


def test_a_log_that_was_read_without_a_break() -> None:
    """New lines only are no gap then."""
    resume = Resume()
    assert resume.is_new(LogRecord(f"{TS}1", "a"))
    resume.restart(complete=True)
    assert resume.is_new(LogRecord(f"{TS}2", "b"))
    assert not resume.gap
