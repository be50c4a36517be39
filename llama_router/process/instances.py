"""The record on disk of the backends of one router, and the sweep after dead routers."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import msgspec

from ..core.config.containers import ContainerCommand, container_command
from ..files import make_folder, reason_of, remove_temporaries, replace_atomically
from . import procfs
from .treekill import Trees

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

#: Seconds that `sweep` waits for the killed processes of one router.
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


class SweepOutcome(StrEnum):
    """The result of the sweep of one record."""

    #: Its router runs; nothing was touched.
    LIVING = "living"
    #: Its router is dead; its processes and the record are gone.
    SWEPT = "swept"
    #: Its router is dead, and a process survives SIGKILL; the record stays.
    SURVIVED = "survived"
    #: It is of an earlier boot, so none of its processes can run; the record is gone.
    OTHER_BOOT = "other_boot"
    #: It is unusable, see the reason; nothing was touched.
    SKIPPED = "skipped"


@attrs.frozen(kw_only=True)
class SweptRecord:
    """One record, after the sweep.

    Attributes:
        path: The record's file.
        outcome: The result.
        reason: One sentence, for SKIPPED only; else empty.
        killed: The processes that were killed.
        survivors: The processes that still run.
        models: The models with a backend that still ran.
        containers: Names of containers that may still run: they could not be removed.
    """

    path: Path
    outcome: SweepOutcome
    reason: str = ""
    killed: frozenset[int] = frozenset()
    survivors: frozenset[int] = frozenset()
    models: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()


class InstanceRecord:
    """The running backends of this router, in ``<state_dir>/instances/<instance>.json``.

    The file is replaced atomically at each change. Safe to use from several threads.

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
        self._is_kept = False
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
        """Add a running backend.

        Raises:
            OSError: if the file cannot be written; the next write includes the backend.
        """
        backend = _Backend(
            pid=pid, start_time=start_time, argv=list(argv), model=model, marker=marker
        )
        with self._lock:
            self._record.backends.append(backend)
            self._write()

    def remove(self, pid: int) -> None:
        """Remove the backend *pid*: its whole tree is gone. No effect if it is unknown.

        Raises:
            OSError: if the file cannot be written.
        """
        with self._lock:
            kept = [backend for backend in self._record.backends if backend.pid != pid]
            if len(kept) < len(self._record.backends):
                self._record.backends = kept
                self._write()

    def keep(self) -> None:
        """Leave the file when the router stops: something that it started may still run."""
        self._is_kept = True

    def close(self) -> None:
        """Remove the file: the router stops, and all backends are gone. See `keep`.

        Raises:
            OSError: if it exists and cannot be removed.
        """
        with self._lock:
            if not self._is_kept:
                self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        # Not synced to the disk: it need not outlive the boot.
        replace_atomically(self.path, msgspec.json.format(msgspec.json.encode(self._record)))


EndContainer = Callable[[ContainerCommand], bool]
"""Removes the container of a command; returns whether it is certainly gone."""


def sweep(
    state_dir: Path,
    *,
    timeout_s: float = SWEEP_TIMEOUT_S,
    end_container: EndContainer = lambda _command: True,
) -> list[SweptRecord]:
    """Kill the processes that dead routers left running, and remove their records.

    A backend is killed only if both its pid and its start time match, together with its
    session, its descendants and every process with its router's marker or its own. Blocks:
    call it on a thread.

    Args:
        state_dir: Where the records are.
        timeout_s: Seconds to wait per record until the killed processes are gone.
        end_container: Called with each command of a backend that ran a container with a name.

    Returns:
        One entry per record, by file name. A record or folder that cannot be read is an
        entry, too.
    """
    folder = state_dir / "instances"
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except FileNotFoundError:
        return []
    except OSError as exc:
        return [_skipped(folder, f"cannot be listed: {reason_of(exc)}")]
    return [_sweep_one(path, timeout_s, end_container) for path in paths]


def _sweep_one(path: Path, timeout_s: float, end_container: EndContainer) -> SweptRecord:
    try:
        record = _read(path)
        if record.boot_id != procfs.boot_id():
            path.unlink(missing_ok=True)
            return SweptRecord(path=path, outcome=SweepOutcome.OTHER_BOOT)
        if record.pid_namespace != _pid_namespace():
            return _skipped(path, "it is of another container, whose processes cannot be seen")
        if procfs.alive(record.router_pid, record.router_start_time):
            return SweptRecord(path=path, outcome=SweepOutcome.LIVING)
        return _end_leftovers(path, record, timeout_s, end_container)
    except OSError as exc:
        return _skipped(path, f"cannot be read or removed: {reason_of(exc)}")
    except (ValueError, RecursionError) as exc:  # not JSON, or not a record
        return _skipped(path, f"is no record of a router: {exc}")


def _end_leftovers(
    path: Path, record: _Record, timeout_s: float, end_container: EndContainer
) -> SweptRecord:
    running = [each for each in record.backends if procfs.alive(each.pid, each.start_time)]
    trees = Trees(
        # A backend that is gone is no root: its pid may belong to another session by now.
        {backend.pid: backend.start_time for backend in running},
        _markers(record),
    )
    survivors = trees.end(timeout_s=timeout_s)
    # Their clients may be gone long since: a container does not end with its client.
    commands = (container_command(each.argv) for each in record.backends)
    containers = tuple(
        each.name
        for each in commands
        if each is not None and each.name is not None and not end_container(each)
    )
    if not survivors and not containers:
        path.unlink(missing_ok=True)
        remove_temporaries(path)  # it was killed while it wrote
    return SweptRecord(
        path=path,
        outcome=SweepOutcome.SURVIVED if survivors or containers else SweepOutcome.SWEPT,
        killed=frozenset(trees.killed),
        survivors=frozenset(survivors),
        models=tuple(backend.model for backend in running),
        containers=containers,
    )


def _markers(record: _Record) -> Collection[str]:
    # An empty marker would match every process with an empty variable.
    return {record.instance, *(each.marker for each in record.backends)} - {""}


def _read(path: Path) -> _Record:
    """Read one record.

    Raises:
        OSError: if it cannot be read, or is not this user's own regular file.
        ValueError: if it is no record.
    """
    # No link is followed, and no writer of a named pipe is waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if os.fstat(handle).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user")
        data = file.read(MAX_RECORD_BYTES + 1)
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError("it is too large")
    return msgspec.json.decode(data, type=_Record)


def _skipped(path: Path, reason: str) -> SweptRecord:
    return SweptRecord(path=path, outcome=SweepOutcome.SKIPPED, reason=reason)


def _pid_namespace() -> str:
    """Return the PID namespace of this process: each container has one."""
    return str(Path("/proc/self/ns/pid").readlink())
