"""Log files of models: their paths, appending, reading, following, removing old ones."""

from __future__ import annotations

import os
from collections import deque
from contextlib import ExitStack
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import attrs

from ..files import Unseen, check_regular, look, make_folder, open_file
from ..files.names import file_name_of
from ..logs.rendering import json_line
from . import record as log_record
from .record import LogRecord
from .retention import LogFile, to_remove

if TYPE_CHECKING:
    from collections.abc import Iterator

# Bytes that are read at once from the end of a file.
_BLOCK_BYTES: Final = 64 * 1024


def log_path(directory: Path, model: str) -> Path:
    """Return the path of the newest file of *model*; it may not exist."""
    return directory / f"{file_name_of(model)}.jsonl"


def record_line(record: LogRecord, model: str) -> bytes:
    """Return *record* as a line of a log file."""
    return json_line(log_record.as_json(record, model))


def append_rotating(path: Path, lines: deque[bytes], *, max_bytes: int, backups: int) -> bool:
    """Append *lines* to the file at *path*, and remove them from the deque.

    Returns True if a file was rotated.

    A file that would exceed *max_bytes* is renamed first: ``path.1`` is the newest of
    *backups*. The file is opened for each call, because it may be moved or removed in between.

    Raises:
        OSError: if not everything could be written. *lines* then has the unwritten rest, the
            beginning of which may be in the file.
    """
    rotated = False
    while lines:
        descriptor = _open(path)
        try:
            size_bytes = os.fstat(descriptor).st_size
            # A failed write, or a killed router, may have left an incomplete line.
            torn = size_bytes > 0 and os.pread(descriptor, 1, size_bytes - 1) != b"\n"
            chunk = bytearray(b"\n" if torn else b"")
            count = 0
            for line in lines:
                if size_bytes + len(chunk) + len(line) > max_bytes and (size_bytes or count):
                    break
                chunk += line
                count += 1
            if count > 0:
                _write_all(descriptor, chunk)
        finally:
            os.close(descriptor)
        for _ in range(count):
            lines.popleft()
        if lines:
            _rotate(path, backups)
            rotated = True
    return rotated


def _open(path: Path) -> int:
    # The log may contain prompts, so other users must not read it.
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags, 0o640)
    except FileNotFoundError:
        make_folder(path.parent, mode=0o755)
        descriptor = os.open(path, flags, 0o640)
    try:
        check_regular(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _write_all(descriptor: int, data: bytes | bytearray) -> None:
    rest = memoryview(data)
    while rest:
        written = os.write(descriptor, rest)
        rest = rest[written:]


def _rotate(path: Path, backups: int) -> None:
    names = [path, *(path.with_name(f"{path.name}.{number}") for number in range(1, backups + 1))]
    for newer, older in reversed(list(pairwise(names))):
        if newer.exists():
            newer.replace(older)
    if backups == 0:
        path.unlink()


# --- Reading --------------------------------------------------------------------------


def read_tail(path: Path, lines: int) -> list[LogRecord]:
    """Return the last records of the file at *path* and its older siblings, oldest first.

    Lines that are not records are skipped. May block.

    Raises:
        OSError: if a file that exists cannot be read.
    """
    found: deque[LogRecord] = deque()
    for name in _newest_first(path):
        try:
            found.extendleft(_records_backwards(name, lines - len(found)))
        except FileNotFoundError:
            break
        if len(found) >= lines:
            break
    return list(found)


def _newest_first(path: Path) -> Iterator[Path]:
    yield path
    for number in count(1):
        yield path.with_name(f"{path.name}.{number}")


def _records_backwards(path: Path, lines: int) -> Iterator[LogRecord]:
    """Yield up to *lines* records of one file, the last one first."""
    left = lines
    with open_file(path) as file:
        position = file.seek(0, os.SEEK_END)
        rest = b""
        while left > 0 and (position > 0 or rest):
            size_bytes = min(position, _BLOCK_BYTES)
            position -= size_bytes
            file.seek(position)
            head, *whole = (file.read(size_bytes) + rest).split(b"\n")
            rest = head if position > 0 else b""
            if position == 0:
                whole = [head, *whole]
            for line in reversed(whole):
                if left > 0 and (record := log_record.from_json(line)) is not None:
                    left -= 1
                    yield record


@attrs.define(eq=False)
class FileFollower:
    """Reads new records from the files of a log, across rotations; needs no running router.

    Attributes:
        path: The newest file; it may not exist.
    """

    path: Path
    _identity: tuple[int, int] | None = attrs.field(default=None, init=False)
    _position: int = attrs.field(default=0, init=False)
    _rest: bytes = attrs.field(default=b"", init=False)

    def skip_to_end(self) -> None:
        """Skip the present content of the file."""
        status = look(self.path)
        if isinstance(status, Unseen):
            return
        self._identity = (status.st_dev, status.st_ino)
        self._position = status.st_size

    def read(self) -> list[LogRecord]:
        """Return the records that are new since the last call.

        Raises:
            OSError: if a file that exists cannot be read.
        """
        found: list[LogRecord] = []
        with ExitStack() as stack:
            for file in self._unread(stack):
                status = os.fstat(file.fileno())
                if self._identity != (status.st_dev, status.st_ino) or (
                    status.st_size < self._position
                ):
                    self._identity = (status.st_dev, status.st_ino)
                    self._position, self._rest = 0, b""
                file.seek(self._position)
                data = file.read()
                self._position += len(data)
                *lines, self._rest = (self._rest + data).split(b"\n")
                found += filter(None, map(log_record.from_json, lines))
        return found

    def _unread(self, stack: ExitStack) -> list[BinaryIO]:
        """Open the files with new records, oldest first: the one read last, and all later ones.

        All are opened before the first is read, so that a rotation in between has no effect.
        """
        files: list[BinaryIO] = []
        for path in _newest_first(self.path):
            try:
                file = stack.enter_context(open_file(path))
            except FileNotFoundError:
                break
            files.append(file)
            status = os.fstat(file.fileno())
            if self._identity == (status.st_dev, status.st_ino):
                break
        return files[::-1]


# --- Removing -------------------------------------------------------------------------


def remove_old_files(
    directory: Path, *, now_s: float, keep_s: float | None, total_bytes: int | None
) -> list[str]:
    """Remove the files that `retention.to_remove` selects; return their names. May block.

    Errors are ignored: a file that cannot be removed stays.
    """
    files: list[LogFile] = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if ".jsonl" in entry.name and entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    files.append(LogFile(entry.name, status.st_size, status.st_mtime))
    except OSError:
        return []
    removed: list[str] = []
    for name in to_remove(files, now_s=now_s, keep_s=keep_s, total_bytes=total_bytes):
        try:
            (directory / name).unlink()
        except OSError:
            continue
        removed.append(name)
    return removed
