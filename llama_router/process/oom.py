"""What the kernel says about processes that it killed because memory ran out.

Two sources, each of which may be unreadable: the counters of the process's control group,
and the kernel's own log. Everything here may block on a file system: call it on a thread.

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

# One record of the kernel's log is never longer.
_RECORD_BYTES: Final = 8192

# Most records that are read: more than the log of an ordinary kernel holds.
_MAX_RECORDS: Final = 50_000

# That clock and the one of process start times differ by less.
_CLOCKS_DIFFER_S: Final = 1.0


@attrs.frozen(kw_only=True)
class OomDetector:
    """Where to ask.

    Attributes:
        proc: The proc file system.
        cgroups: Where control groups are mounted.
        log: The kernel's log.
    """

    proc: Path = Path("/proc")
    cgroups: Path = Path("/sys/fs/cgroup")
    log: Path = Path("/dev/kmsg")

    def oom_counters(self, pid: int) -> dict[Path, int]:
        """Return the counters of killed processes that count for *pid*, with their values.

        They are those of the control group that it is in now; none if they cannot be read.
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

    def oom_killed(self, pid: int, before: dict[Path, int], *, since_s: float) -> bool:
        """Return whether the kernel killed *pid*, or one in its control group, since then.

        Args:
            pid: The process, which may be gone.
            before: What `oom_counters` said when it started.
            since_s: When it started, in seconds since boot.
        """
        for path, value in before.items():
            now = _oom_kills(path)
            if now is not None and now > value:
                return True
        # The clock of the kernel's log stands still while the machine sleeps.
        asleep_s = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        return self._logged(pid, since_s - asleep_s - _CLOCKS_DIFFER_S)

    def _logged(self, pid: int, since_s: float) -> bool:
        wanted = re.compile(rb"Killed process %d[ ,(]" % pid)
        try:
            descriptor = os.open(self.log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            for _ in range(_MAX_RECORDS):
                try:
                    record = os.read(descriptor, _RECORD_BYTES)
                except BrokenPipeError:  # it was overwritten while we read: go on behind it
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
    """Return the time of a record of the kernel's log, in seconds since boot."""
    try:
        return int(head.split(b",")[2]) / 1e6
    except (IndexError, ValueError):
        return 0.0
