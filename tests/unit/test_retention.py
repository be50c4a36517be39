"""Old logs go, and never one that is in use."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from llama_router.model_logs.log_files import remove_old_files
from llama_router.model_logs.retention import IN_USE_S, LogFile, to_remove

NOW_S = 1_000_000.0


def file(name: str, age_s: float, size_bytes: int = 10) -> LogFile:
    return LogFile(name, size_bytes, NOW_S - age_s)


def test_what_is_too_old_goes() -> None:
    """By the time of the last line, oldest first."""
    files = [file("a", 500), file("b", 100), file("c", 900)]
    assert to_remove(files, now_s=NOW_S, keep_s=200, total_bytes=None) == ["c", "a"]


def test_what_is_too_much_goes() -> None:
    """The oldest, until the rest is within the limit."""
    files = [file("a", 500), file("b", 100), file("c", 900)]
    assert to_remove(files, now_s=NOW_S, keep_s=None, total_bytes=25) == ["c"]


def test_without_limits_everything_stays() -> None:
    """Age and size are nobody's business then."""
    assert to_remove([file("a", 1e6, 10**12)], now_s=NOW_S, keep_s=None, total_bytes=None) == []


@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.integers(0, 100)), max_size=20),
    st.floats(0, 1e4),
    st.integers(0, 500),
)
def test_the_rest_is_within_the_limits(
    drawn: list[tuple[float, int]], keep_s: float, total_bytes: int
) -> None:
    """Whatever there is: what stays is in use, or neither too old nor too much."""
    files = [file(str(index), age, size) for index, (age, size) in enumerate(drawn)]
    removed = to_remove(files, now_s=NOW_S, keep_s=keep_s, total_bytes=total_bytes)
    left = [f for f in files if f.name not in removed]
    idle = [f for f in left if NOW_S - f.modified_s >= IN_USE_S]
    assert all(NOW_S - f.modified_s <= keep_s for f in idle)
    assert not idle or sum(f.size_bytes for f in left) <= total_bytes
    assert all(NOW_S - f.modified_s >= IN_USE_S for f in files if f.name in removed)


def test_only_logs_are_removed(tmp_path: Path) -> None:
    """What somebody else put there stays, and so does what a link leads to."""
    for name in ("m.jsonl", "m.jsonl.1", "notes.txt"):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "notes.txt")
    removed = remove_old_files(tmp_path, now_s=NOW_S, keep_s=1, total_bytes=None)
    assert sorted(removed) == ["m.jsonl", "m.jsonl.1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.jsonl", "notes.txt"]


def test_a_missing_folder_has_nothing_to_remove(tmp_path: Path) -> None:
    """Before the first line there is none."""
    assert remove_old_files(tmp_path / "logs", now_s=NOW_S, keep_s=1, total_bytes=1) == []
