"""Figures of the router's own process, from the kernel. Blocks on /proc."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

from .exposition import Family, number

_CPU: Final = Family(
    "process_cpu_seconds_total", "counter", "Processor time of the router, without its backends."
)
_RESIDENT: Final = Family(
    "process_resident_memory_bytes", "gauge", "Resident memory of the router, without backends."
)
_OPEN_FDS: Final = Family("process_open_fds", "gauge", "Open file descriptors of the router.")
_MAX_FDS: Final = Family("process_max_fds", "gauge", "Most file descriptors that it may open.")
_START: Final = Family(
    "process_start_time_seconds", "gauge", "Start of the router, in seconds since 1970."
)

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def process_text(started_at: float) -> str:
    """Return the families of the process, under the names that all exporters use.

    Args:
        started_at: Its start, in seconds since 1970.
    """
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found: list[tuple[Family, float]] = [
        (_CPU, round(usage.ru_utime + usage.ru_stime, 3)),
        (_START, round(started_at, 3)),
        (_MAX_FDS, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    ]
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        found.append((_RESIDENT, pages * _PAGE_BYTES))
    with suppress(OSError):
        found.append((_OPEN_FDS, sum(1 for _ in Path("/proc/self/fd").iterdir())))
    return "".join(f"{family.head}{family.name} {number(value)}\n" for family, value in found)
