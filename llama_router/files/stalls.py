"""Timeouts for work on files: a file system that does not answer cannot block it for ever.

A system call on a dead network mount never returns, and only a signal that kills the process
interrupts it. So the work runs on a thread. If one of its looks (a block of `look_at`) takes too
long, the thread is abandoned, and the work is repeated on another thread, where looks below that
path fail at once.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

T = TypeVar("T")

#: Seconds for one look: a sleeping disk needs about 10 to spin up.
LOOK_TIMEOUT_S = 15.0

#: The same after the first look that was given up, so that a start does not take much longer.
FURTHER_LOOK_TIMEOUT_S: Final = 0.5

#: Time is counted in pieces of this many seconds. Each counts as this, however long it really
#: takes, so time in which the process was stopped does not count.
PIECE_S: Final = 0.25

#: Prefixes of the types of file systems that another machine or program serves.
_REMOTE: Final = (
    "9p", "afs", "autofs", "beegfs", "ceph", "cifs", "davfs", "fuse", "gfs", "gluster",
    "lustre", "ncp", "nfs", "smb", "virtiofs",
)  # fmt: skip

_thread = threading.local()


class StalledError(OSError):
    """A file system does not answer. ``errno`` is ETIMEDOUT."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ETIMEDOUT, "its file system does not answer", path)


class _GivenUpError(BaseException):
    """Ends abandoned work when its look returns after all."""


class _Attempt(Generic[T]):
    """One run of the work on a thread, and its current look."""

    def __init__(self, work: Callable[[], T], stalled: Iterable[str]) -> None:
        self._stalled = tuple(stalled)
        self.undo: list[Callable[[], object]] = []
        self._work = work
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._looking_at: str | None = None
        self._looks = 0
        self._given_up = False
        self._result: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run the work; the target of the thread."""
        _thread.attempt = self
        try:
            self._result.append(self._work())
        except BaseException as exc:  # noqa: BLE001 -- `result` raises it
            self._error = exc
        self._over.set()

    def result(self) -> T:
        """Return the result of the work, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result[0]

    def begin(self, path: str) -> str | None:
        """Begin a look at *path*; return the path of the enclosing look, if there is one.

        Raises:
            StalledError: if a look at it or above it was given up before.
        """
        if self._stalled and any(is_below(_absolute(path), each) for each in self._stalled):
            raise StalledError(path)
        with self._lock:
            before, self._looking_at = self._looking_at, path
            self._looks += 1
        return before

    def end(self, before: str | None) -> None:
        """End a look; the look at *before* continues."""
        with self._lock:
            if self._given_up:
                raise _GivenUpError
            self._looking_at = before
            self._looks += 1

    def stalled_at(self, timeout_s: float) -> str | None:
        """Wait for the end of the work; return None, or the path of a look that takes too long.

        In the latter case the work is given up.
        """
        look, left_s = self._looks, timeout_s
        while not self._over.wait(min(PIECE_S, left_s)):
            if self._looks != look or self._looking_at is None:
                look, left_s = self._looks, timeout_s
            elif (left_s := left_s - PIECE_S) <= 0 and (path := self._give_up(look)):
                return path
            left_s = max(left_s, 0.001)
        return None

    def _give_up(self, look: int) -> str | None:
        """Give up the work if *look* is still its current look; return the path."""
        with self._lock:
            if self._looks != look or self._looking_at is None:
                return None
            self._given_up = True
        for undo in self.undo:
            with suppress(OSError):
                undo()
        return self._looking_at


def despite_stalls(work: Callable[[], T], *, timeout_s: float | None = None) -> T:
    """Return the result of *work*, or raise its exception. Blocks.

    Args:
        work: Uses `llama_router.files`. It may be run several times, on several threads; an
            abandoned run ends when the look that hangs returns. If this is called within other
            such work, *work* becomes a part of that.
        timeout_s: Seconds for one look; `LOOK_TIMEOUT_S` by default.
    """
    if getattr(_thread, "attempt", None) is not None:
        return work()
    stalled: dict[str, None] = {}
    parents: set[str] = set()
    while True:
        attempt = _Attempt(work, stalled)
        try:
            threading.Thread(target=attempt.run, name="files", daemon=True).start()
        except RuntimeError:  # the system refuses a thread: work without a timeout
            return work()
        limit_s = LOOK_TIMEOUT_S if timeout_s is None else timeout_s
        path = attempt.stalled_at(min(limit_s, FURTHER_LOOK_TIMEOUT_S) if stalled else limit_s)
        if path is None:
            return attempt.result()
        path = _absolute(path)
        stalled[mount_of(path) or path] = None
        # A second file of one folder: the whole folder counts as stalled.
        if (parent := str(Path(path).parent)) in parents and parent != "/":
            stalled[parent] = None
        parents.add(parent)


class look_at:  # noqa: N801 -- it reads as a function; a generator would take twice as long
    """A context manager: its block is a look at *path*, which may hang.

    Raises:
        StalledError: on entry, if a look at it or above it was given up before.
    """

    __slots__ = ("_attempt", "_before", "_path")

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._attempt: _Attempt[object] | None = getattr(_thread, "attempt", None)
        self._before: str | None = None

    def __enter__(self) -> None:
        if self._attempt is not None:
            self._before = self._attempt.begin(os.fspath(self._path))

    def __exit__(self, *_: object) -> None:
        if self._attempt is not None:
            self._attempt.end(self._before)


@contextmanager
def undone_if_given_up(undo: Callable[[], object]) -> Iterator[None]:
    """Call *undo*, on another thread, if the work is given up within the block."""
    attempt: _Attempt[object] | None = getattr(_thread, "attempt", None)
    if attempt is None:
        yield
        return
    attempt.undo.append(undo)
    try:
        yield
    finally:
        attempt.undo.remove(undo)


def mount_of(path: str, table: str = "/proc/self/mounts") -> str | None:
    """Return the mount point above *path*, if another machine or program serves it; else None."""
    found: tuple[str, str] = ("/", "")
    with suppress(OSError, ValueError), open(table, encoding="utf-8") as lines:  # noqa: PTH123 -- scans start quickly
        for line in lines:
            _, point, kind, *_ = line.split(" ")
            # Spaces and the like are written in octal. Source: getmntent(3).
            point = point.encode().decode("unicode_escape") if "\\" in point else point
            if is_below(path, point) and len(point) >= len(found[0]):
                found = (point, kind)
    return found[0] if found[1].startswith(_REMOTE) and found[0] != "/" else None


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 -- resolve() would access it, and hang


def is_below(path: str, folder: str) -> bool:
    """Return whether *path* is *folder* or inside it, by their names. Both are absolute."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")
