"""The lock of a state directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from llama_router.errors.config import ConfigError
from llama_router.supervisor.state_dir import StateDirLock
from tests.privileges import like_anybody


def test_a_second_router_with_the_same_directory_is_refused(tmp_path: Path) -> None:
    """It names the first one, the directory, and what to set."""
    first, second = StateDirLock(), StateDirLock()
    first.hold(tmp_path / "state")
    with pytest.raises(ConfigError) as refused:
        second.hold(tmp_path / "state")
    (problem,) = refused.value.problems
    assert problem.location == "router.state_dir"
    assert f"another router, pid {os.getpid()}, uses the state directory {tmp_path}/state" in (
        problem.message
    )
    first.release()
    second.hold(tmp_path / "state")
    second.release()


def test_the_lock_is_taken_once(tmp_path: Path) -> None:
    """A preparation that is repeated does not meet its own lock."""
    lock = StateDirLock()
    lock.hold(tmp_path)
    lock.hold(tmp_path)
    lock.release()


def test_a_directory_without_locks_is_used_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without locks, or a directory that may not be written, is no mistake here."""

    def unsupported(_descriptor: int, _operation: int) -> None:
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as without:
        without.setattr(fcntl, "flock", unsupported)
        StateDirLock().hold(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o500)
    with like_anybody():
        StateDirLock().hold(tmp_path / "closed")
