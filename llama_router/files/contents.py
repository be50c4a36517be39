"""Reading and replacing regular files. Nothing here raises anything but `OSError`.

Opening never waits for the writer of a named pipe, and never takes over a terminal. Each
call can be given up (`files.stalls`).
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from .looks import is_folder, reason_of
from .stalls import look_at

#: Bytes that are read beyond the size of a file: it may grow, and those of the kernel have none.
_GROWTH_BYTES: Final = 64 * 1024


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[int, int]]:
    """Open the regular file *path* for reading; yield its descriptor and its size in bytes.

    Raises:
        OSError: if it cannot be opened or is no regular file; ``strerror`` has the reason.
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
    """Return the content of the regular file *path*.

    Raises:
        OSError: as `opened`, or if it is larger than *max_bytes*.
    """
    data, _ = read_with_stat(path, max_bytes)
    return data


def read_with_stat(path: str | Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Return the content of the regular file *path*, and its status just before it was read.

    Raises:
        OSError: as `read_up_to`.
    """
    with opened(path) as (descriptor, size_bytes):
        if size_bytes > max_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {max_bytes} bytes")
        found = os.fstat(descriptor)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            # Not max_bytes: Python takes memory for as much as it is asked for.
            return file.read(min(size_bytes + _GROWTH_BYTES, max_bytes)), found


def _open(path: str | Path) -> int:
    """Open a regular file.

    Raises:
        OSError: if that is not possible, or if it is no regular file.
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
    """Check that *descriptor* is of a regular file.

    Raises:
        OSError: if it is not.
    """
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "it is not a file")


def make_folder(path: Path, *, mode: int = 0o700) -> None:
    """Create a folder and its missing parents, each with *mode* less the umask.

    Raises:
        OSError: if that is not possible, or if *path* exists and is no folder.
    """
    try:
        with look_at(path):
            os.mkdir(path, mode)  # noqa: PTH102 -- mkdir(parents=True) gives the mode to the last only
    except FileExistsError:
        if not is_folder(path):
            raise
    except FileNotFoundError:
        # Some places can have no new folder, /proc for example, and say so in this way.
        if path.parent == path or is_folder(path.parent):
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


def remove_temporaries(path: Path) -> None:
    """Remove the temporary files of writers of *path* that were killed; none may run now.

    Raises:
        OSError: if one cannot be removed.
    """
    with look_at(path):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            left.unlink(missing_ok=True)


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
        path: Must not exist. Nothing is left there after an error.
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
    descriptor = os.open(path, flags, mode if like is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if like is not None:
                _copy_permissions(like, file.fileno())
            if sync:
                os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _copy_permissions(source: Path, descriptor: int) -> None:
    with suppress(FileNotFoundError):
        found = source.stat()
        with suppress(PermissionError):
            os.fchown(descriptor, found.st_uid, found.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
