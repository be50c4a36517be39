"""Opening files that somebody else put there: nothing is waited for, nothing is taken over."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[int, int]]:
    """Open the regular file *path* for reading; yield its descriptor and its size in bytes.

    Raises:
        OSError: if it cannot be opened or is something else; ``strerror`` says which.
        ValueError: if *path* is not a file name.
    """
    # Opening a FIFO would wait for a writer, opening a terminal could take it over.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = os.open(path, flags)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        yield descriptor, found.st_size
    finally:
        os.close(descriptor)


def read_up_to(path: str | Path, max_bytes: int) -> bytes:
    """Return what is in the regular file *path*.

    Raises:
        OSError: as `opened`, or if it is larger than *max_bytes*.
        ValueError: if *path* is not a file name.
    """
    with opened(path) as (descriptor, size_bytes):
        if size_bytes > max_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {max_bytes} bytes")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read(max_bytes)
