"""An incomplete file of a download: written as bytes arrive, and hashed by a thread."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Final, Self

from ..errors.downloads import HubAnswerError
from .references import RepoFile

#: Bytes that are hashed at once.
_HASH_BYTES: Final = 2**20


class PartialFile:
    """The part of a file that has arrived. Its name is the hash, so any process can resume it.

    The hash covers the bytes on the disk, including those of an earlier process.

    Attributes:
        size_bytes: Bytes that have arrived.
    """

    def __init__(self, path: os.PathLike[str], file: RepoFile) -> None:
        """Open or create *path*.

        Raises:
            OSError: if that is not possible.
        """
        self._file = file
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.size_bytes = os.fstat(self._descriptor).st_size
        if self.size_bytes > file.size_bytes:
            self._truncate()
        self._changed = threading.Condition()
        self._starts = 0  # number of restarts
        self._complete = False
        self._abandoned = False
        self._digest = ""
        self._hasher = threading.Thread(target=self._follow, name="hash", daemon=True)
        self._hasher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._abandoned = True
            self._changed.notify()
        self._hasher.join()
        os.close(self._descriptor)

    def start_at(self, offset: int) -> None:
        """Continue at *offset*: the end of the file, or 0, which discards its content."""
        if offset == self.size_bytes:
            return
        with self._changed:
            self._truncate()
            self._starts += 1
            self._changed.notify()

    def write(self, piece: bytes) -> None:
        """Append *piece*.

        Raises:
            HubAnswerError: if the file becomes larger than it should be.
            OSError: if the disk is full, or broken.
        """
        if self.size_bytes + len(piece) > self._file.size_bytes:
            raise HubAnswerError(
                f"the hub announced {self._file.size_bytes} bytes for {self._file.path}, "
                "but sends more"
            )
        rest = memoryview(piece)
        while rest:
            written = os.pwrite(self._descriptor, rest, self.size_bytes)
            self.size_bytes += written
            rest = rest[written:]
        if self.size_bytes % _HASH_BYTES < len(piece):
            with self._changed:
                self._changed.notify()

    def is_valid(self) -> bool:
        """Return whether all bytes are on the disk with the expected hash. Blocks for the hash."""
        with self._changed:
            self._complete = True
            self._changed.notify()
        self._hasher.join()
        return self.size_bytes == self._file.size_bytes and self._digest == self._file.blob

    def _truncate(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self.size_bytes = 0

    def _follow(self) -> None:
        """Hash the file as it grows."""
        starts, hashed, digest = -1, 0, self._new_digest()
        while not self._abandoned:
            with self._changed:
                if starts != self._starts:
                    starts, hashed, digest = self._starts, 0, self._new_digest()
                if self.size_bytes - hashed < _HASH_BYTES and not self._complete:
                    self._changed.wait()
                    continue
            data = os.pread(self._descriptor, min(_HASH_BYTES, self.size_bytes - hashed), hashed)
            digest.update(data)
            hashed += len(data)
            if self._complete and starts == self._starts and hashed == self.size_bytes:
                self._digest = digest.hexdigest()
                return
            if self._complete and not data:
                return  # another process truncated it

    def _new_digest(self) -> hashlib._Hash:
        if len(self._file.blob) == 64:
            return hashlib.sha256()
        # A file that is not in LFS has git's hash as its name.
        # Source: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        return hashlib.sha1(b"blob %d\0" % self._file.size_bytes, usedforsecurity=False)
