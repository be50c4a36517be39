"""CPU time and memory of processes, and their pinning to processors, from the kernel."""

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
    """The processors that the parts of a measurement run on; None means any.

    Attributes:
        proxy: Processor of the proxy.
        stub: Processor of the upstream.
        load: Processor of the client.
    """

    proxy: int | None = None
    stub: int | None = None
    load: int | None = None


def choose_pinning(*, pin: bool | None) -> Pinning:
    """Return a pinning with one processor for the proxy, and of three or more one for the stub.

    Args:
        pin: False pins nothing; None pins if there are two processors.

    Raises:
        ValueError: if *pin* is True and there is only one processor.
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
    """Pin the programs started within the block to *processor*."""
    before = os.sched_getaffinity(0)
    if processor is not None:
        os.sched_setaffinity(0, {processor})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def allow_descriptors() -> None:
    """Raise the soft limit of open files for the benchmark's programs, up to the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def tree(root: int, *, without: Collection[Path] = ()) -> list[int]:
    """Return *root* and its descendants, except processes that run a program of *without*."""
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
    """Return the CPU time of these processes and of their reaped children, in seconds.

    The clock of a process counts nanoseconds (utime + stime in /proc is rounded to ticks);
    for reaped children there is only cutime + cstime of /proc.

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
    """Return the resident memory of these processes; a shared page counts once per process."""
    pages = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * _PAGE_BYTES / 2**20


def busy_s() -> float:
    """Return how long all processors together have been busy since boot, in seconds."""
    first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq = map(int, first[1:8])
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def _process_clock(pid: int) -> int:
    """Return the clock of the CPU time of a process, with all its threads.

    Source: linux/posix-timers.h: the inverted pid above three bits; 2 is CPUCLOCK_SCHED.
    """
    return (~pid << 3) | 2


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from "state" on; the name before may have spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
