"""One control group per backend, where systemd has delegated the router's own to it.

A control group knows every process that was ever started in it, whatever session, parent
or environment it has now; it ends all of them at once; and it counts their memory.
Everything here works on files of the kernel's, and may block: call it on a thread.

Where nothing is delegated, `ControlGroups.adopt` returns None and nothing is different.

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
import structlog

from . import procfs

log = structlog.get_logger()

#: The group that the router itself moves to: one with children must have no processes.
ROUTER: Final = "router"

#: What the names of backends' groups begin with.
PREFIX: Final = "backend-"

#: What is to be counted; the first is worth a warning if it cannot be.
_CONTROLLERS: Final = ("memory", "pids")

#: Set by systemd on a control group that it leaves to a service; the second by older ones,
#: for a root that may read it.
_DELEGATED: Final = ("user.delegate", "trusted.delegate")

#: Looks for processes that were started while their parent was moved.
_MAX_ENLISTMENTS: Final = 5


@attrs.frozen
class ControlGroup:
    """The group of one backend.

    Attributes:
        path: Its folder.
    """

    path: Path

    def enlist(self, pid: int) -> bool:
        """Move *pid* here, with what it has started already; later children begin here.

        Returns:
            Whether *pid* is here now. It may have ended before.
        """
        if not self._move(pid):
            return False
        for _ in range(_MAX_ENLISTMENTS):
            outside = procfs.descendants(pid) - self.members()
            if not outside:
                break
            for each in outside:
                self._move(each)
        return True

    def members(self) -> set[int]:
        """Return who is here."""
        try:
            return {int(pid) for pid in (self.path / "cgroup.procs").read_text().split()}
        except (OSError, ValueError):
            return set()

    def populated(self) -> bool:
        """Say whether anybody is here who has not ended, also in groups below this one."""
        try:
            return "populated 1" in (self.path / "cgroup.events").read_text().splitlines()
        except OSError:
            return False

    def kill(self) -> None:
        """Send SIGKILL to everybody here, whatever they start meanwhile."""
        try:
            _write(self.path / "cgroup.kill", "1")
        except OSError:  # before Linux 5.14; who forks now is found by the next look
            for pid in self.members():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)

    def memory_bytes(self) -> int | None:
        """Return how much memory is charged to this group now; None if nobody counts."""
        return _number(self.path / "memory.current")

    def peak_bytes(self) -> int | None:
        """Return the most that was ever charged to it; None if nobody counts (Linux 5.19)."""
        return _number(self.path / "memory.peak")

    def remove(self) -> None:
        """Remove the group, if nobody is in it any more."""
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
    """The control group that is the router's own.

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

        The process moves to a group of its own below. Call this before it starts others.

        Args:
            proc: What the kernel says about this process.
            is_delegated: Says whether a group was left to us.

        Returns:
            None if this process has no group that was delegated, or if it is of no use.
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
        for old in path.glob(f"{PREFIX}*/"):  # of an earlier life; kept if somebody is in it
            ControlGroup(old).remove()
        counted = [name for name in _CONTROLLERS if _enable(path, name)]
        log.info("cgroup.adopted", path=str(path), counted=counted)
        return cls(path, _CONTROLLERS[0] in counted)

    def make(self, serial: int, model: str) -> ControlGroup | None:
        """Return a new group for one run of *model*; None if there can be none."""
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", model)[:100]
        path = self.path / f"{PREFIX}{serial}-{name}"
        try:
            path.mkdir()
        except OSError as exc:
            log.warning("cgroup.unusable", path=str(path), reason=exc.strerror)
            return None
        if self.counts_memory:
            # When memory runs out, half a backend is of no use to anybody.
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
    """Let *controller* count for each group below; say whether it does."""
    try:
        _write(path / "cgroup.subtree_control", f"+{controller}")
    except OSError:  # it is not delegated, or a process other than the router is in the group
        return False
    return True


def _write(path: Path, text: str) -> None:
    """Write to a file that the kernel made; never make one."""
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
