"""Looks at paths: a value or a reason; and reading and replacing files without a wait."""

import errno
import os
import stat
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_router.files import (
    Unseen,
    create_atomically,
    folder_fault,
    is_folder,
    is_missing,
    list_entries,
    list_folder,
    look,
    make_folder,
    may_be_folder,
    open_file,
    read_up_to,
    replace_atomically,
    replacing,
    resolved,
)
from tests.broken_files import ERRNOS, break_with
from tests.privileges import like_anybody


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_file_that_is_there_is_not_missing(tmp_path: Path) -> None:
    """Nor is a folder."""
    (tmp_path / "a").touch()
    assert not is_missing(tmp_path / "a")
    assert not is_missing(str(tmp_path))


@pytest.mark.parametrize("name", ["a", "a/b", "file/b", "loop", "\0"])
def test_what_cannot_be_there_is_missing(tmp_path: Path, name: str) -> None:
    """Also below something that is no folder, and behind a link to itself."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert is_missing(f"{tmp_path}/{name}")


def test_what_cannot_be_looked_at_may_be_there(tmp_path: Path) -> None:
    """An error of the file system is no news about the file, and is not raised."""
    assert not is_missing(tmp_path / ("x" * 300))


@pytest.mark.parametrize("number", ERRNOS)
def test_every_look_ends_with_a_reason(tmp_path, monkeypatch, number: int) -> None:
    """Whatever the system says: no look raises, and none takes it for proof of absence."""
    break_with(monkeypatch, tmp_path, number)
    for see in (look, list_folder, list_entries):
        assert see(tmp_path / "a") == Unseen(os.strerror(number))
    assert not is_missing(tmp_path)
    assert not is_folder(tmp_path)
    assert may_be_folder(tmp_path)
    assert folder_fault(tmp_path) == os.strerror(number)


@pytest.mark.parametrize("name", ["a\0b", "a\udcff\ud800"])
def test_a_name_that_no_file_can_have_is_no_error(name: str) -> None:
    """A null byte, or what cannot be encoded: nothing is there."""
    assert is_missing(name)
    assert isinstance(found := list_folder(name), Unseen)
    assert found.is_missing
    with pytest.raises(OSError, match="not a file name"):
        read_up_to(name, 10)


def test_a_circle_of_links_resolves_to_a_reason(tmp_path: Path) -> None:
    """Python 3.11 raises RuntimeError for it."""
    (tmp_path / "loop").symlink_to("loop")
    found = resolved(tmp_path / "loop" / "x")
    assert isinstance(found, Path | Unseen)


def test_a_folder_that_may_be_listed_but_not_entered_has_a_fault(tmp_path: Path) -> None:
    """The names in it are of no use."""
    (tmp_path / "a").mkdir(mode=0o600)
    with like_anybody():
        assert folder_fault(tmp_path / "a") == "Permission denied"
    (tmp_path / "a").chmod(0o700)
    with like_anybody():
        assert folder_fault(tmp_path / "a") is None


def test_neither_a_fifo_nor_a_device_is_waited_for(tmp_path: Path) -> None:
    """They are refused at once, also behind a link."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("fifo", "zero"):
        with pytest.raises(OSError, match="it is not a file"):
            read_up_to(tmp_path / name, 10)
        with pytest.raises(OSError, match="it is not a file"):
            open_file(tmp_path / name)


@pytest.mark.usefixtures("_open_umask")
def test_no_umask_opens_a_folder_to_others(tmp_path: Path) -> None:
    """Nor those that it is made in."""
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a", tmp_path / "a" / "b")]
    assert modes == [0o700, 0o700]


def test_a_file_in_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    """It is not taken for one."""
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "a")


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    """However large it could be."""
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100_000)
    tracemalloc.start()
    try:
        assert len(read_up_to(path, 2**30)) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_place_without_new_folders_is_an_error() -> None:
    """The kernel says there that the folder to be made does not exist."""
    with pytest.raises(FileNotFoundError):
        make_folder(Path("/proc/self/llama-router/state"))


def test_a_fifo_is_replaced_by_a_file(tmp_path: Path) -> None:
    """No reader is waited for."""
    os.mkfifo(tmp_path / "a")
    replace_atomically(tmp_path / "a", b"text")
    assert (tmp_path / "a").read_bytes() == b"text"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_file_that_cannot_be_replaced_stays(tmp_path, monkeypatch) -> None:
    """And nothing is left beside it."""
    (tmp_path / "a").write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="Input/output"):
        replace_atomically(tmp_path / "a", b"new", sync=True)
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_replaced_file_has_the_permissions_of_another_one(tmp_path: Path) -> None:
    """Those of *like* count, whatever the umask."""
    (tmp_path / "like").touch()
    (tmp_path / "like").chmod(0o664)
    replace_atomically(tmp_path / "a", b"new", like=tmp_path / "like")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o664


def test_concurrent_replacements_have_different_temporary_names(tmp_path: Path) -> None:
    """The last one to finish wins, and nothing is left of the other."""
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_an_existing_file_is_not_created_again(tmp_path: Path) -> None:
    """Its content stays, and nothing is left beside it."""
    create_atomically(tmp_path / "a", b"old")
    with pytest.raises(FileExistsError):
        create_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
