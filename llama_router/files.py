"""Files and folders that others put there: whatever is wrong with one is a value or one error.

A look may fail in any way: a folder that may not be entered, a network file system that is
stale or gone, a broken disk, a name that no file can have. `look`, `list_folder` and `resolved`
return an `Unseen` then, `opened` and what builds on it raise `OSError` only. Nothing here waits
for a writer or takes over a terminal, and each look can be given up (`llama_router.stalls`).
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import attrs

from .stalls import look_at

T = TypeVar("T")

_NOTHING_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}

#: What is wrong with something else in the place of a folder.
NOT_A_FOLDER: Final = "not a folder"

#: Rights of others than the owner's group to change what is in a folder.
_WRITABLE_FOR_ALL: Final = stat.S_IWOTH


@attrs.frozen
class Unseen:
    """A look that found nothing.

    Attributes:
        reason: Why, as the system says it: "Permission denied".
        is_missing: Whether there is surely nothing. Otherwise there may be something.
        is_circle: Whether links lead nowhere but to each other.
    """

    reason: str
    is_missing: bool = False
    is_circle: bool = False


def reason_of(error: OSError | ValueError) -> str:
    """Return why a look at a path, or the use of a file, failed."""
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return "it is not a file name"


def unseen(error: OSError | ValueError) -> Unseen:
    """Return *error* as the result of a look."""
    if isinstance(error, OSError):
        missing = error.errno in _NOTHING_THERE
        return Unseen(reason_of(error), missing, is_circle=error.errno == errno.ELOOP)
    return Unseen(reason_of(error), is_missing=True)


def look(path: str | Path) -> os.stat_result | Unseen:
    """Return what is at *path*, behind all links. Blocks."""
    return _seen(path, lambda: os.stat(path))  # noqa: PTH116 -- it takes strings, too


def is_missing(path: str | Path) -> bool:
    """Say whether there is surely nothing at *path*. Blocks.

    What cannot be looked at may be there; opening it will tell what is wrong.
    """
    found = look(path)
    return isinstance(found, Unseen) and found.is_missing


def is_folder(path: str | Path) -> bool:
    """Say whether *path* is surely a folder, or leads to one. Blocks."""
    found = look(path)
    return not isinstance(found, Unseen) and stat.S_ISDIR(found.st_mode)


def may_be_folder(path: str | Path) -> bool:
    """Say whether *path* is a folder, or something that cannot be looked at. Blocks."""
    found = look(path)
    return not found.is_missing if isinstance(found, Unseen) else stat.S_ISDIR(found.st_mode)


def list_folder(path: str | Path) -> list[str] | Unseen:
    """Return the names in a folder, in order. Blocks."""
    return _seen(path, lambda: sorted(os.listdir(path)))  # noqa: PTH208 -- the names are enough


def list_entries(path: str | Path) -> list[os.DirEntry[str]] | Unseen:
    """Return what is in a folder, by name. Blocks."""

    def listed() -> list[os.DirEntry[str]]:
        with os.scandir(path) as listing:
            return sorted(listing, key=lambda entry: entry.name)

    return _seen(path, listed)


def resolved(path: Path) -> Path | Unseen:
    """Return *path* without links. Blocks."""
    try:
        return _seen(path, path.resolve)
    except RuntimeError:  # so says Python 3.11 and 3.12 of a circle of links
        return Unseen(os.strerror(errno.ELOOP), is_missing=True)


def folder_fault(path: str | Path) -> str | None:
    """Return what keeps this process from listing a folder and entering it. Blocks."""
    found = look(path)
    if isinstance(found, Unseen):
        return found.reason
    if not stat.S_ISDIR(found.st_mode):
        return NOT_A_FOLDER
    for each in (path, os.path.join(path, ".")):  # noqa: PTH118 -- Path drops the dot
        listed = list_entries(each)  # the second one needs the right to enter it, too
        if isinstance(listed, Unseen):
            return listed.reason
    return None


def _seen(path: str | Path, find: Callable[[], T]) -> T | Unseen:
    try:
        with look_at(path):
            return find()
    except (OSError, ValueError) as exc:
        return unseen(exc)


# --- Reading --------------------------------------------------------------------------


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[int, int]]:
    """Open the regular file *path* for reading; yield its descriptor and its size in bytes.

    Raises:
        OSError: if it cannot be opened or is something else; ``strerror`` says which.
    """
    with look_at(path):
        descriptor = _open(path)
        try:
            yield descriptor, os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)


def open_file(path: str | Path) -> BinaryIO:
    """Return the regular file *path*, open for reading.

    Raises:
        OSError: as `opened`.
    """
    with look_at(path):
        return os.fdopen(_open(path), "rb")


def read_up_to(path: str | Path, max_bytes: int) -> bytes:
    """Return what is in the regular file *path*.

    Raises:
        OSError: as `opened`, or if it is larger than *max_bytes*.
    """
    data, _ = read_with_stat(path, max_bytes)
    return data


def read_with_stat(path: str | Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Return what is in the regular file *path*, and its status just before it was read.

    Raises:
        OSError: as `read_up_to`.
    """
    with opened(path) as (descriptor, size_bytes):
        if size_bytes > max_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {max_bytes} bytes")
        found = os.fstat(descriptor)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(max_bytes), found


def _open(path: str | Path) -> int:
    """Open a regular file.

    Raises:
        OSError: if that is not possible, or if it is something else.
    """
    # Opening a FIFO would wait for a writer, opening a terminal could take it over.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except ValueError as exc:
        raise OSError(errno.ENOENT, reason_of(exc)) from exc
    try:
        check_regular(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_regular(descriptor: int) -> None:
    """Make sure that *descriptor* is of a regular file.

    Raises:
        OSError: if it is of something else.
    """
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "it is not a file")


# --- Writing --------------------------------------------------------------------------


def make_folder(path: Path, *, mode: int = 0o700) -> None:
    """Make a folder and those that it is in, unless they are there; umask cannot add rights.

    Raises:
        OSError: if that is not possible, or if something else is there.
    """
    try:
        with look_at(path):
            os.mkdir(path, mode)  # noqa: PTH102 -- mkdir(parents=True) gives the mode to the last only
    except FileExistsError:
        if not is_folder(path):
            raise
    except FileNotFoundError:
        if path.parent == path:
            raise
        make_folder(path.parent, mode=mode)
        make_folder(path, mode=mode)
    except ValueError as exc:
        raise OSError(errno.ENOENT, reason_of(exc)) from exc


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield an unused name beside *path*; what the body makes there replaces *path* in one step.

    If the body raises, *path* is as before, and the temporary file is removed. Concurrent
    writers have different names, so the last one to finish wins. A link at *path* is replaced,
    not the file that it points to.

    Raises:
        OSError: if *path* cannot be replaced.
    """
    temporary = _unused_name_beside(path)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _unused_name_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def replace_atomically(
    path: Path, data: bytes, *, mode: int = 0o600, like: Path | None = None, sync: bool = False
) -> None:
    """Replace the content of *path* in one step: readers see the old or the new content.

    Args:
        path: The file. A link there is replaced, not the file that it points to.
        data: The complete content.
        mode: Permissions of the new file; the umask may remove some of them.
        like: See `write_new`.
        sync: See `write_new`.

    Raises:
        OSError: if that is not possible; the file is as before then.
    """
    with look_at(path), replacing(path) as temporary:
        write_new(temporary, data, mode=mode, like=like, sync=sync)


def create_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Create *path* with *data* in one step, unless it exists.

    Raises:
        FileExistsError: if it exists; it is not changed then.
        OSError: if it cannot be written.
    """
    temporary = _unused_name_beside(path)
    try:
        write_new(temporary, data, mode=mode)
        os.link(temporary, path)  # unlike a rename, it never replaces an existing file
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_new(
    path: Path, data: bytes, *, mode: int = 0o600, like: Path | None = None, sync: bool = False
) -> None:
    """Create the file *path* with *data* in it.

    Args:
        path: Must not exist. What is left there after an error is incomplete.
        data: The complete content.
        mode: Its permissions; the umask may remove some of them.
        like: A file with the owner and the permissions to set, as far as this process may set
            them. Until then only the owner can read the new file: it may hold secrets. Ignored
            if it is missing.
        sync: Return only when the disk has the content.

    Raises:
        OSError: if it cannot be written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, mode if like is None else 0o600), "wb") as file:
        file.write(data)
        file.flush()
        if like is not None:
            _copy_permissions(like, file.fileno())
        if sync:
            os.fsync(file.fileno())


def _copy_permissions(source: Path, descriptor: int) -> None:
    with suppress(FileNotFoundError):
        found = source.stat()
        with suppress(PermissionError):
            os.fchown(descriptor, found.st_uid, found.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode))


def is_open_to_all(path: Path) -> bool:
    """Say whether every user of the machine may put files into this folder. Blocks."""
    found = look(path)
    return not isinstance(found, Unseen) and bool(found.st_mode & _WRITABLE_FOR_ALL)
