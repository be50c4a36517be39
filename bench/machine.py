"""What the kernel knows of processes and processors: CPU time, memory, pinning."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import attrs

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

#: The stub and the client need one descriptor per connection, a proxy up to three.
_DESCRIPTORS = 16384


@attrs.frozen
class Pinning:
    """On which processors the parts of a measurement run; None is: anywhere.

    Attributes:
        proxy: Where the proxy runs.
        stub: Where the upstream runs.
        load: Where the client runs.
    """

    proxy: int | None = None
    stub: int | None = None
    load: int | None = None


def choose_pinning(*, pin: bool | None) -> Pinning:
    """Give the proxy a processor of its own, and with three or more the stub, too.

    Args:
        pin: False: pin nothing. None: pin if there are two processors.

    Raises:
        ValueError: if *pin* is True, and there is only one processor.
    """
    processors = sorted(os.sched_getaffinity(0))
    if pin is False or (pin is None and len(processors) < 2):
        return Pinning()
    if len(processors) < 2:
        raise ValueError("--pin needs two processors")
    return Pinning(
        proxy=processors[0], stub=processors[1], load=processors[min(2, len(processors) - 1)]
    )


@contextlib.contextmanager
def running_on(processor: int | None) -> Iterator[None]:
    """Start programs in here, and they run on that *processor* only."""
    before = os.sched_getaffinity(0)
    if processor is not None:
        os.sched_setaffinity(0, {processor})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def allow_descriptors() -> None:
    """Let the programs of this benchmark have enough open files, if the hard limit does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def tree(root: int, *, without: Collection[Path] = ()) -> list[int]:
    """Return *root* and all its descendants, except those that run a program of *without*."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        todo += parents.get(pid, [])
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/exe").readlink() not in without:
                found.append(pid)
    return found


def cpu_s(pids: Collection[int]) -> float:
    """Return the seconds of CPU that these processes and their reaped children have used.

    Of the processes themselves in nanoseconds (utime + stime in /proc is rounded to ticks),
    of the children what /proc says: cutime + cstime.

    Source: clock_getcpuclockid(3); proc_pid_stat(5).
    """
    total_s = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = _stat(pid)
            total_s += time.clock_gettime(_process_clock(pid))
            total_s += (int(fields[13]) + int(fields[14])) / _TICKS_PER_S
    return total_s


def rss_mib(pids: Collection[int]) -> float:
    """Return the resident memory of these processes; what they share counts each time."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * _PAGE_BYTES / 2**20


def busy_s() -> float:
    """Return the seconds that all processors together have been busy since the start."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq = map(int, first[1:8])
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def _process_clock(pid: int) -> int:
    """Return the clock that counts the CPU time of a process, all threads included.

    Source: linux/posix-timers.h: the inverted pid above three bits; 2 is CPUCLOCK_SCHED.
    """
    return (~pid << 3) | 2


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from "state" on; the name before may have spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
