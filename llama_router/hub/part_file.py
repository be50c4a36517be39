"""An incomplete file: appended to as bytes arrive, and hashed in their wake by a thread."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import Final, Self

from ..errors.downloads import HubAnswerError
from .names import RepoFile

#: Bytes that are hashed at once.
_HASH_BYTES: Final = 2**20


class PartFile:
    """What of a file is here. Its name says what it will be, so it can be resumed by anybody.

    The hash covers what is on the disk, including what an earlier process left there.

    Attributes:
        size_bytes: How much of it is here.
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
        self._news = threading.Condition()
        self._starts = 0  # how often it was begun anew
        self._complete = False
        self._abandoned = False
        self._digest = ""
        self._hasher = threading.Thread(target=self._follow, name="hash", daemon=True)
        self._hasher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._news:
            self._abandoned = True
            self._news.notify()
        self._hasher.join()
        os.close(self._descriptor)

    def start_at(self, offset: int) -> None:
        """Go on at *offset*: where the file ends, or at 0, which discards it."""
        if offset == self.size_bytes:
            return
        with self._news:
            self._truncate()
            self._starts += 1
            self._news.notify()

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
            with self._news:
                self._news.notify()

    def is_right(self) -> bool:
        """Return whether all is here and its hash is the expected one; then it is on the disk."""
        with self._news:
            self._complete = True
            self._news.notify()
        self._hasher.join()
        return self.size_bytes == self._file.size_bytes and self._digest == self._file.blob

    def _truncate(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self.size_bytes = 0

    def _follow(self) -> None:
        """Hash the file as it grows."""
        starts, hashed, digest = -1, 0, self._new_digest()
        while not self._abandoned:
            with self._news:
                if starts != self._starts:
                    starts, hashed, digest = self._starts, 0, self._new_digest()
                if self.size_bytes - hashed < _HASH_BYTES and not self._complete:
                    self._news.wait()
                    continue
            data = os.pread(self._descriptor, min(_HASH_BYTES, self.size_bytes - hashed), hashed)
            digest.update(data)
            hashed += len(data)
            if self._complete and starts == self._starts and hashed == self.size_bytes:
                self._digest = digest.hexdigest()
                return
            if self._complete and not data:
                return  # somebody else truncated it

    def _new_digest(self) -> hashlib._Hash:
        if len(self._file.blob) == 64:
            return hashlib.sha256()
        # A file that is not stored apart is named as git names it.
        # Source: https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
        return hashlib.sha1(b"blob %d\0" % self._file.size_bytes, usedforsecurity=False)
