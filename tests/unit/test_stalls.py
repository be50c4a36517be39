"""Work on files goes on where a file system hangs."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llama_router.files import Unseen, look, stalls
from llama_router.files.stalls import despite_stalls, is_below, mount_of
from llama_router.models import found_file
from tests.broken_files import break_folder


class Hung:
    """A folder below which every look waits for `wake`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.wake = threading.Event()
        self.looks: list[str] = []

    def wait(self, path: str) -> None:
        """Be looked at."""
        self.looks.append(path)
        self.wake.wait()


@pytest.fixture
def hung(tmp_path, monkeypatch) -> Iterator[Hung]:
    """A folder that hangs; what waits for it is let go at the end."""
    monkeypatch.setattr(stalls, "PIECE_S", 0.01)
    found = Hung(tmp_path / "hung")
    found.folder.mkdir()
    break_folder(monkeypatch, found.folder, found.wait)
    yield found
    found.wake.set()
    for thread in threading.enumerate():
        if thread.name == "files":
            thread.join()


def patiently(work: Callable[[], object]) -> object:
    return despite_stalls(work, timeout_s=0.02)


def test_what_hangs_is_a_reason_and_the_rest_is_done(tmp_path, hung) -> None:
    """The work is begun anew, and the look that hung fails in it."""
    found = patiently(lambda: (look(tmp_path), look(hung.folder / "a")))
    assert isinstance(found, tuple)
    assert not isinstance(found[0], Unseen)
    assert found[1] == Unseen("its file system does not answer")


def test_a_folder_in_which_two_files_hang_is_left_alone(hung) -> None:
    """A thousand files cost no thousand waits."""
    patiently(lambda: [look(hung.folder / str(n)) for n in range(1000)])
    assert len(hung.looks) == 2


def test_what_is_below_a_path_that_hangs_is_not_looked_at(hung) -> None:
    """Its folder said enough."""
    patiently(lambda: [look(hung.folder), look(hung.folder / "a" / "b")])
    assert hung.looks == [str(hung.folder)]


def test_work_that_was_given_up_does_nothing_more(hung) -> None:
    """When the file system is back, the old thread ends at the look that it was at."""
    done: list[str] = []

    def work() -> None:
        look(hung.folder)
        done.append(threading.current_thread().name)

    patiently(work)
    hung.wake.set()
    for thread in threading.enumerate():
        if thread.name == "files":
            thread.join()
    assert len(done) == 1


def test_a_lock_is_not_kept_by_what_was_given_up(tmp_path, hung) -> None:
    """Else the next attempt would wait for the last one for ever."""

    def work() -> str:
        with found_file.locked(tmp_path / "state"):
            look(hung.folder)
            return "done"

    assert patiently(work) == "done"
    with (tmp_path / "state" / "models.toml.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_long_row_of_quick_looks_is_no_stall(tmp_path, monkeypatch) -> None:
    """Only one look that takes long is."""
    monkeypatch.setattr(stalls, "PIECE_S", 0.0001)
    assert len(despite_stalls(lambda: [look(tmp_path) for _ in range(5000)])) == 5000


def test_work_fails_as_it_would_without(tmp_path) -> None:
    """Its own error comes out."""
    with pytest.raises(ZeroDivisionError):
        despite_stalls(lambda: 1 // 0)
    assert despite_stalls(lambda: despite_stalls(lambda: 5)) == 5


def test_without_a_thread_it_is_done_nevertheless(monkeypatch) -> None:
    """The system may refuse one."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert despite_stalls(lambda: 5) == 5


def test_a_mount_of_another_machine_is_known(tmp_path: Path) -> None:
    """By its type; local disks answer for themselves."""
    table = tmp_path / "mounts"
    table.write_text(
        "/dev/sda1 / ext4 rw 0 0\n"
        "/dev/sdb1 /srv ext4 rw 0 0\n"
        "nas:/x /srv/my\\040models nfs4 rw 0 0\n"
        "rclone /home/u/cloud fuse.rclone rw 0 0\n"
    )
    assert mount_of("/srv/my models/a.gguf", str(table)) == "/srv/my models"
    assert mount_of("/home/u/cloud", str(table)) == "/home/u/cloud"
    assert mount_of("/home/u/cloudy", str(table)) is None
    assert mount_of("/srv/a", str(table)) is None
    assert mount_of("/a", str(tmp_path / "none")) is None


def test_a_path_is_below_a_folder_by_whole_names() -> None:
    """Not by the letters that they begin with."""
    assert is_below("/a/b", "/a")
    assert is_below("/a", "/a")
    assert is_below("/a", "/")
    assert not is_below("/ab", "/a")
