"""Reading the logs of models from their files, across rotations."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.model_logs.log_files import (
    FileFollower,
    append_rotating,
    log_path,
    read_tail,
    record_line,
)
from llama_router.model_logs.record import LogRecord

TS = "2026-11-25T18:00:00.000Z"


def write(path: Path, *texts: str, max_bytes: int = 300, backups: int = 50) -> None:
    """Append lines as a router does."""
    lines = deque(record_line(LogRecord(TS, text), "m") for text in texts)
    append_rotating(path, lines, max_bytes=max_bytes, backups=backups)


def texts(records: list[LogRecord]) -> list[str]:
    return [record.line for record in records]


@pytest.mark.parametrize("lines", [0, 1, 5, 37, 100, 1000])
def test_the_tail_reaches_into_older_files(tmp_path: Path, lines: int) -> None:
    """It is the same as of one long file."""
    path = tmp_path / "m.jsonl"
    everything = [f"line {number}" for number in range(100)]
    write(path, *everything)
    assert (tmp_path / "m.jsonl.9").exists()
    assert texts(read_tail(path, lines)) == (everything[-lines:] if lines else [])


def test_long_lines_are_read_in_pieces(tmp_path: Path) -> None:
    """A line may be longer than what is read at once."""
    path = tmp_path / "m.jsonl"
    everything = ["x" * 200_000, "short", "y" * 70_000, "", "z" * 65_536]
    write(path, *everything, max_bytes=10**6)
    for lines in range(1, 6):
        assert texts(read_tail(path, lines)) == everything[-lines:]


def test_what_is_no_record_is_left_out(tmp_path: Path) -> None:
    """A torn line costs only itself, and an unfinished one is not there yet."""
    path = tmp_path / "m.jsonl"
    path.write_bytes(
        b'{"ts":"half\n' + record_line(LogRecord(TS, "whole"), "m") + b'{"ts":"unfinished'
    )
    assert texts(read_tail(path, 5)) == ["whole"]


def test_there_may_be_no_file(tmp_path: Path) -> None:
    """Nothing was printed yet."""
    assert read_tail(tmp_path / "m.jsonl", 5) == []
    assert FileFollower(tmp_path / "m.jsonl").read() == []


def test_names_of_models_are_safe_names_of_files(tmp_path: Path) -> None:
    """No name leads out of the folder, and no two names to one file."""
    names = ["a/b", "../a", "..", ".", "a:b", "A", "x" * 300, "x" * 301, "\udcff"]
    paths = [log_path(tmp_path, name) for name in names]
    assert all(path.parent == tmp_path for path in paths)
    assert len({path.name for path in paths}) == len(names)


@given(st.lists(st.lists(st.sampled_from(["a", "bb" * 40, "c" * 200]), max_size=12), max_size=8))
def test_a_follower_hears_every_line_once(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]]
) -> None:
    """However the files are rotated between two looks."""
    path = tmp_path_factory.mktemp("logs") / "m.jsonl"
    follower = FileFollower(path)
    heard: list[str] = []
    for batch in batches:
        write(path, *batch)
        heard += texts(follower.read())
    assert heard == [text for batch in batches for text in batch]


def test_a_follower_begins_at_the_end(tmp_path: Path) -> None:
    """What was there is left out; what is appended to it, or to a new file, is heard."""
    path = tmp_path / "m.jsonl"
    write(path, "old")
    follower = FileFollower(path)
    follower.skip_to_end()
    assert follower.read() == []
    write(path, "new", "x" * 400, "newer")
    assert texts(follower.read()) == ["new", "x" * 400, "newer"]


def test_a_follower_outlives_its_file(tmp_path: Path) -> None:
    """Somebody removes or truncates it, and it goes on from the start of the next."""
    path = tmp_path / "m.jsonl"
    write(path, "1", "2")
    follower = FileFollower(path)
    assert texts(follower.read()) == ["1", "2"]
    path.unlink()
    assert follower.read() == []
    write(path, "3")
    assert texts(follower.read()) == ["3"]
    path.write_bytes(b"")
    assert follower.read() == []
    write(path, "4")
    assert texts(follower.read()) == ["4"]
