"""Detects that the kernel killed a process because memory ran out.

Two sources, each of which may be unreadable: the counters of the process's control group,
and the kernel log. Everything here may block on a file system: call it on a thread.

Source: kernel documentation, admin-guide/cgroup-v2 (memory.events), cgroup-v1/memory
(memory.oom_control) and ABI/testing/dev-kmsg.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

# The longest record of the kernel log.
_RECORD_BYTES: Final = 8192

# Most records that are read; the log of an ordinary kernel holds fewer.
_MAX_RECORDS: Final = 50_000

# The clock of the kernel log and that of process start times differ by less.
_CLOCKS_DIFFER_S: Final = 1.0


@attrs.frozen(kw_only=True)
class OomDetector:
    """Reads the kernel's files about killed processes.

    Attributes:
        proc: The proc file system.
        cgroups: The mount point of control groups.
        log: The kernel log.
    """

    proc: Path = Path("/proc")
    cgroups: Path = Path("/sys/fs/cgroup")
    log: Path = Path("/dev/kmsg")

    def counters(self, pid: int) -> dict[Path, int]:
        """Return the counters of killed processes in the control group of *pid*, and their values.

        Empty if they cannot be read.
        """
        try:
            lines = (self.proc / str(pid) / "cgroup").read_text().splitlines()
        except OSError:
            return {}
        counters: dict[Path, int] = {}
        for line in lines:
            _, controllers, group = line.split(":", 2)
            if controllers == "":
                path = self.cgroups / group.lstrip("/") / "memory.events"
            elif "memory" in controllers.split(","):
                path = self.cgroups / "memory" / group.lstrip("/") / "memory.oom_control"
            else:
                continue
            if (value := _oom_kills(path)) is not None:
                counters[path] = value
        return counters

    def has_killed(self, pid: int, before: dict[Path, int], *, since_s: float) -> bool:
        """Return whether the kernel killed *pid*, or one of its control group, since *before*.

        Args:
            pid: The process, which may be gone.
            before: The result of `counters` at its start.
            since_s: Its start time, in seconds since boot.
        """
        for path, value in before.items():
            now = _oom_kills(path)
            if now is not None and now > value:
                return True
        # The clock of the kernel log stops while the machine sleeps.
        asleep_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        return self._is_logged(pid, since_s - asleep_s - _CLOCKS_DIFFER_S)

    def _is_logged(self, pid: int, since_s: float) -> bool:
        wanted = re.compile(rb"Killed process %d[ ,(]" % pid)
        try:
            descriptor = os.open(self.log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            for _ in range(_MAX_RECORDS):
                try:
                    record = os.read(descriptor, _RECORD_BYTES)
                except (
                    BrokenPipeError
                ):  # the record was overwritten meanwhile: continue with the next
                    continue
                except OSError:  # BlockingIOError: that was the last one
                    return False
                if not record:
                    return False
                head, _, message = record.partition(b";")
                if wanted.search(message) and _record_s(head) >= since_s:
                    return True
        finally:
            os.close(descriptor)
        return False


def _oom_kills(path: Path) -> int | None:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


def _record_s(head: bytes) -> float:
    """Return the time of a record of the kernel log, in seconds since boot."""
    try:
        return int(head.split(b",")[2]) / 1e6
    except (IndexError, ValueError):
        return 0.0
