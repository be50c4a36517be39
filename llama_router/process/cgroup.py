"""One control group per backend, where systemd has delegated the router's own to it.

A control group lists every process that was ever started in it, whatever session, parent or
environment it has now; it can kill all of them at once; and it counts their memory. Everything
here reads and writes files of the kernel and may block: call it on a thread.

Where nothing is delegated, `ControlGroups.adopt` returns None, and backends have no groups.

Source: kernel documentation, admin-guide/cgroup-v2; systemd.resource-control(5), Delegate=;
https://systemd.io/CGROUP_DELEGATION.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Final, Self

import attrs

from ..logs.events import log
from . import procfs

#: The group that the router itself moves to: a group with children must have no processes.
ROUTER: Final = "router"

#: Prefix of the names of backends' groups.
PREFIX: Final = "backend-"

#: The controllers to enable; without the first one no memory is counted.
_CONTROLLERS: Final = ("memory", "pids")

#: Attributes that systemd sets on a control group that is delegated to a service; the second
#: one is of older versions, and only root can read it.
_DELEGATED: Final = ("user.delegate", "trusted.delegate")

#: Scans for processes that were started while their parent was moved.
_MAX_SCANS: Final = 5


@attrs.frozen
class ControlGroup:
    """The group of one backend.

    Attributes:
        path: Its folder.
    """

    path: Path

    def add_tree(self, pid: int) -> bool:
        """Move *pid* and its descendants here; later children start here.

        Returns:
            False if *pid* could not be moved; it may have ended before.
        """
        if not self._move(pid):
            return False
        for _ in range(_MAX_SCANS):
            outside = procfs.descendants(pid) - self.members()
            if not outside:
                break
            for each in outside:
                self._move(each)
        return True

    def members(self) -> set[int]:
        """Return the processes of this group."""
        try:
            return {int(pid) for pid in (self.path / "cgroup.procs").read_text().split()}
        except (OSError, ValueError):
            return set()

    def populated(self) -> bool:
        """Return whether a process lives in this group or in one below it."""
        try:
            return "populated 1" in (self.path / "cgroup.events").read_text().splitlines()
        except OSError:
            return False

    def kill(self) -> None:
        """Send SIGKILL to every process of this group, and to those that they fork meanwhile."""
        try:
            _write(self.path / "cgroup.kill", "1")
        except OSError:  # before Linux 5.14; the next scan finds what is forked now
            for pid in self.members():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def memory_bytes(self) -> int | None:
        """Return the memory that is charged to this group now; None if it is not counted."""
        return _number(self.path / "memory.current")

    def peak_bytes(self) -> int | None:
        """Return the most that was ever charged to it; None if not counted (before Linux 5.19)."""
        return _number(self.path / "memory.peak")

    def remove(self) -> None:
        """Remove the group if it is empty."""
        with suppress(OSError):
            for below in self.path.glob("*/"):
                below.rmdir()
            self.path.rmdir()

    def _move(self, pid: int) -> bool:
        try:
            _write(self.path / "cgroup.procs", str(pid))
        except OSError:
            return False
        return True


@attrs.frozen
class ControlGroups:
    """The router's own control group, in which those of backends are made.

    Attributes:
        path: Its folder.
        counts_memory: Whether memory is counted for each backend.
    """

    path: Path
    counts_memory: bool

    @classmethod
    def adopt(
        cls,
        *,
        proc: Path = Path("/proc/self"),
        is_delegated: Callable[[Path], bool] | None = None,
    ) -> Self | None:
        """Prepare the control group of this process for groups below it.

        The process moves to a child group. Call this before it starts other processes.

        Args:
            proc: The folder of this process in /proc.
            is_delegated: Returns whether a group was delegated to this service.

        Returns:
            None if no usable group was delegated to this process.
        """
        path = _own_group(proc)
        if path is None or not (is_delegated or _is_delegated)(path):
            return None
        try:
            (path / ROUTER).mkdir(exist_ok=True)
            _write(path / ROUTER / "cgroup.procs", str(os.getpid()))
        except OSError as exc:
            log.warning("cgroup.unusable", path=str(path), reason=exc.strerror)
            return None
        for old in path.glob(f"{PREFIX}*/"):  # of an earlier run; kept if it is not empty
            ControlGroup(old).remove()
        counted = [name for name in _CONTROLLERS if _enable(path, name)]
        log.info("cgroup.adopted", path=str(path), counted=counted)
        return cls(path, _CONTROLLERS[0] in counted)

    def make(self, serial: int, model: str) -> ControlGroup | None:
        """Return a new group for one run of *model*; None if it cannot be created."""
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", model)[:100]
        path = self.path / f"{PREFIX}{serial}-{name}"
        try:
            path.mkdir()
        except OSError as exc:
            log.warning("cgroup.unusable", path=str(path), reason=exc.strerror)
            return None
        if self.counts_memory:
            # When memory runs out, the kernel kills the whole backend, not a part of it.
            with suppress(OSError):
                _write(path / "memory.oom.group", "1")
        return ControlGroup(path)


def _own_group(proc: Path) -> Path | None:
    """Return the folder of this process's group in the unified hierarchy."""
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return None
    group = next((PurePosixPath(line[3:]) for line in groups if line.startswith("0::/")), None)
    for line in mounts:  # "36 35 0:31 ROOT MOUNT_POINT OPTIONS ... - TYPE SOURCE OPTIONS"
        mount, _, kind = line.partition(" - ")
        fields = mount.split()
        if group is not None and kind.startswith("cgroup2 ") and group.is_relative_to(fields[3]):
            below = group.relative_to(fields[3])
            return None if ".." in below.parts else Path(fields[4]) / below
    return None


def _is_delegated(path: Path) -> bool:
    for name in _DELEGATED:
        with suppress(OSError):
            if os.getxattr(path, name) == b"1":
                return os.access(path / "cgroup.procs", os.W_OK)
    return False


def _enable(path: Path, controller: str) -> bool:
    """Enable *controller* for the groups below; return whether that succeeded."""
    try:
        _write(path / "cgroup.subtree_control", f"+{controller}")
    except OSError:  # it is not delegated, or a process other than the router is in the group
        return False
    return True


def _write(path: Path, text: str) -> None:
    """Write to a file of the kernel; never create one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
