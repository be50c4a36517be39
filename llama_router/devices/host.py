"""Host memory as a device: what the kernel says is available, and what control groups allow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

from ..core.memory.devices import HOST, DeviceKind, DeviceReading
from .cgroup_memory import memory_limits
from .port import DriverError, DriverReading
from .process_memory import (
    ProcessMemory,
    memory_of,
    proportional_memory_of,
    quick_memory_of,
)

#: Processes that are smaller are left out: they are many, and take nothing together.
_SMALLEST_MIB: Final = 1.0

#: With more memory of files or shared, it is worth to find out which of the two it is.
_MAY_BE_SHARED_MIB: Final = 64.0

#: A process of a backend with less than this is not worth an exact look.
_WORTH_A_LOOK_MIB: Final = 16.0


def host_memory_bytes(proc: Path = Path("/proc")) -> tuple[int, int]:
    """Return the bytes of host memory, and those that are available, within control groups. Blocks.

    What the kernel can take back (pages of files) counts as available.

    Args:
        proc: The proc file system; another one in tests.

    Raises:
        DriverError: if the kernel does not say.
    """
    total_bytes, available_bytes = _machine_bytes(proc)
    for limit in memory_limits(proc / "self"):
        total_bytes = min(total_bytes, limit.limit_bytes)
        available_bytes = min(available_bytes, limit.available_bytes)
    return total_bytes, min(total_bytes, available_bytes)


class HostReader:
    """Reads host memory: total and available of the machine, or of the tightest control group.

    What the kernel can take back (pages of files) counts as available; it belongs to models that
    are mapped, and is in their footprints.

    Args:
        proc: The proc file system; another one in tests.
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def read(self, backends: frozenset[int]) -> DriverReading:
        """Return the one device, with what each process holds.

        Raises:
            DriverError: if the kernel does not say.
        """
        total_bytes, available_bytes = host_memory_bytes(self._proc)
        total_mib = total_bytes / 2**20
        device = DeviceReading(
            id=HOST,
            kind=DeviceKind.HOST,
            name="host memory",
            total_mib=total_mib,
            used_mib=total_mib - available_bytes / 2**20,
            processes=self._processes(backends),
        )
        return DriverReading(devices=(device,))

    def close(self) -> None:
        """Nothing is held."""

    def _processes(self, backends: frozenset[int]) -> dict[int, float]:
        """Return what each process holds, in MiB."""
        try:
            pids = [int(name) for name in os.listdir(self._proc) if name.isdecimal()]  # noqa: PTH208 -- names are enough
        except OSError:
            return {}
        held: dict[int, float] = {}
        found: dict[int, ProcessMemory] = {}
        folder = str(self._proc)
        for pid in pids:
            own_mib, others_mib = quick_memory_of(pid, folder)
            if pid in backends or others_mib >= _MAY_BE_SHARED_MIB:
                found[pid] = memory_of(pid, self._proc)
            elif own_mib >= _SMALLEST_MIB:
                held[pid] = own_mib
        for pid in _sharing(backends & found.keys(), found):
            found[pid] = proportional_memory_of(pid, self._proc)
        held |= {pid: memory.held_mib for pid, memory in found.items()}
        return {pid: mib for pid, mib in held.items() if mib}


def _sharing(backends: AbstractSet[int], found: Mapping[int, ProcessMemory]) -> set[int]:
    """Return the processes of *backends* that may share much memory with others of them.

    Shared memory is meant to be; memory of its own is shared with the parent that forked it.
    """
    sharing = {pid for pid in backends if found[pid].shared_mib >= _WORTH_A_LOOK_MIB}
    large = {pid for pid in backends if found[pid].anonymous_mib >= _WORTH_A_LOOK_MIB}
    for pid in large:
        if (parent := found[pid].parent) in large:
            sharing |= {pid, parent}
    return sharing


def _machine_bytes(proc: Path) -> tuple[int, int]:
    """Return the bytes that the machine has, and those that are available."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        kib = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
        total_kib = kib["MemTotal"]
    except (OSError, ValueError, IndexError, KeyError) as exc:
        raise DriverError(f"the kernel does not say how much memory it has ({exc!r})") from exc
    available_kib = _arc_kib(proc)
    free_kib = kib.get("MemFree", 0) + kib.get("Buffers", 0) + kib.get("Cached", 0)
    available_kib += kib.get("MemAvailable", free_kib)
    return total_kib * 1024, available_kib * 1024


def _arc_kib(proc: Path) -> int:
    """Return what ZFS would give back of its cache, which the kernel counts as used."""
    try:
        lines = (proc / "spl/kstat/zfs/arcstats").read_text().splitlines()
        fields = {each[0]: each[2] for line in lines if len(each := line.split()) == 3}
        return max(0, int(fields["size"]) - int(fields["c_min"])) // 1024
    except (OSError, ValueError, KeyError):
        return 0
