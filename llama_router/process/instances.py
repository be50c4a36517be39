"""The record of what one router runs, on disk, and the sweep that a later router does."""

from __future__ import annotations

import errno
import os
import threading
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import msgspec

from ..files import make_folder, reason_of
from . import procfs
from .treekill import Trees

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

#: Seconds that `sweep` waits for what it killed of one router.
SWEEP_TIMEOUT_S = 5.0

#: Largest record that `sweep` reads, in bytes: thousands of backends.
MAX_RECORD_BYTES = 4 * 1024 * 1024


class _Backend(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    start_time: int
    argv: list[str]
    model: str
    marker: str


class _Record(msgspec.Struct, kw_only=True):
    instance: str
    boot_id: str
    pid_namespace: str
    router_pid: int
    router_start_time: int
    backends: list[_Backend]


class Outcome(StrEnum):
    """What `sweep` made of one record."""

    #: Its router runs; nothing was touched.
    LIVING = "living"
    #: Its router is dead; whatever was left is gone, and so is the record.
    SWEPT = "swept"
    #: Its router is dead, and something it left survives SIGKILL; the record stays.
    SURVIVED = "survived"
    #: It is of an earlier boot, so nothing of it can run; the record is gone.
    OTHER_BOOT = "other_boot"
    #: It cannot be judged, see the reason; nothing was touched.
    SKIPPED = "skipped"


@attrs.frozen(kw_only=True)
class Swept:
    """What `sweep` did about one record.

    Attributes:
        path: The record's file.
        outcome: What became of it.
        reason: One sentence, for SKIPPED only; else empty.
        killed: The processes that were killed.
        survivors: Those that are still there.
        models: The models that were served by a backend that still ran.
    """

    path: Path
    outcome: Outcome
    reason: str = ""
    killed: frozenset[int] = frozenset()
    survivors: frozenset[int] = frozenset()
    models: tuple[str, ...] = ()


class InstanceRecord:
    """What this router runs, in ``<state_dir>/instances/<instance>.json``.

    The file is replaced as a whole at each change, so a reader never sees half of one.
    Safe to use from several threads.

    Args:
        state_dir: The router's state directory; made if missing.
        instance: This router's marker; a file name.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if *instance* is no plain file name.
    """

    def __init__(self, state_dir: Path, instance: str) -> None:
        if instance in {"", ".", ".."} or "/" in instance:
            raise ValueError(f"an instance needs a plain name, not {instance!r}")
        pid = os.getpid()
        self._lock = threading.Lock()
        self._record = _Record(
            instance=instance,
            boot_id=procfs.boot_id(),
            pid_namespace=_pid_namespace(),
            router_pid=pid,
            router_start_time=procfs.start_time(pid) or 0,
            backends=[],
        )
        self.path = state_dir / "instances" / f"{instance}.json"
        make_folder(self.path.parent)
        self._write()

    def add(
        self, pid: int, start_time: int, *, argv: Sequence[str], model: str, marker: str
    ) -> None:
        """Note that a backend runs.

        Raises:
            OSError: if the file cannot be written; the backend is noted for the next try.
        """
        backend = _Backend(
            pid=pid, start_time=start_time, argv=list(argv), model=model, marker=marker
        )
        with self._lock:
            self._record.backends.append(backend)
            self._write()

    def remove(self, pid: int) -> None:
        """Note that the backend *pid* and all it started are gone; harmless if unknown.

        Raises:
            OSError: if the file cannot be written.
        """
        with self._lock:
            kept = [backend for backend in self._record.backends if backend.pid != pid]
            if len(kept) < len(self._record.backends):
                self._record.backends = kept
                self._write()

    def close(self) -> None:
        """Remove the file: the router stops and leaves nothing behind.

        Raises:
            OSError: if it cannot be removed; that it is missing is fine.
        """
        with self._lock:
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        # Not synced to the disk: it need not outlive the boot.
        fresh = self.path.with_suffix(".tmp")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(self._record)))
        fresh.replace(self.path)


def sweep(state_dir: Path, *, timeout_s: float = SWEEP_TIMEOUT_S) -> list[Swept]:
    """End what dead routers left running, and remove their records.

    A backend is killed only if its pid and its start time both match, and with it its
    session, its descendants and all that carry its router's or its own marker. Blocks:
    call it in a thread.

    Args:
        state_dir: Where the records are.
        timeout_s: Seconds to wait per record until what was killed is gone.

    Returns:
        One entry per record, by file name. A record that cannot be read, or a whole
        directory that cannot, is an entry too.
    """
    folder = state_dir / "instances"
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return []
    except OSError as exc:
        return [_skipped(folder, f"cannot be listed: {reason_of(exc)}")]
    return [_sweep_one(path, timeout_s) for path in paths]


def _sweep_one(path: Path, timeout_s: float) -> Swept:
    try:
        record = _read(path)
        if record.boot_id != procfs.boot_id():
            path.unlink(missing_ok=True)
            return Swept(path=path, outcome=Outcome.OTHER_BOOT)
        if record.pid_namespace != _pid_namespace():
            return _skipped(path, "it is of another container, whose processes cannot be seen")
        if procfs.alive(record.router_pid, record.router_start_time):
            return Swept(path=path, outcome=Outcome.LIVING)
        return _end_leftovers(path, record, timeout_s)
    except OSError as exc:
        return _skipped(path, f"cannot be read or removed: {reason_of(exc)}")
    except (ValueError, RecursionError) as exc:  # not JSON, or not a record
        return _skipped(path, f"is no record of a router: {exc}")


def _end_leftovers(path: Path, record: _Record, timeout_s: float) -> Swept:
    running = [each for each in record.backends if procfs.alive(each.pid, each.start_time)]
    trees = Trees(
        # A backend that is gone is no root: its pid may long name another's session.
        {backend.pid: backend.start_time for backend in running},
        _markers(record),
    )
    survivors = trees.end(timeout_s=timeout_s)
    if not survivors:
        path.unlink(missing_ok=True)
        path.with_suffix(".tmp").unlink(missing_ok=True)  # it was killed while it wrote
    return Swept(
        path=path,
        outcome=Outcome.SURVIVED if survivors else Outcome.SWEPT,
        killed=frozenset(trees.killed),
        survivors=frozenset(survivors),
        models=tuple(backend.model for backend in running),
    )


def _markers(record: _Record) -> Collection[str]:
    # An empty marker would name every process with an empty variable.
    return {record.instance, *(each.marker for each in record.backends)} - {""}


def _read(path: Path) -> _Record:
    """Read one record.

    Raises:
        OSError: if it cannot be read, or is not this user's own regular file.
        ValueError: if it is no record.
    """
    # Not through a link, and without waiting for the writer of a named pipe.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if os.fstat(handle).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user")
        data = file.read(MAX_RECORD_BYTES + 1)
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError("it is too large")
    return msgspec.json.decode(data, type=_Record)


def _skipped(path: Path, reason: str) -> Swept:
    return Swept(path=path, outcome=Outcome.SKIPPED, reason=reason)


def _pid_namespace() -> str:
    """Name the set of processes that pids refer to: containers have their own."""
    return str(Path("/proc/self/ns/pid").readlink())
