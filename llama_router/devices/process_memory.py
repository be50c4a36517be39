"""Host memory of processes, from /proc. Everything here blocks for microseconds to a second.

Pages of files can be taken back by the kernel at any time and read again, so they are not *held*;
but a backend that maps its model needs all of it, so they count in its *footprint*.

Source: man page proc_pid_status(5); kernel documentation, filesystems/proc (smaps_rollup).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final

import attrs

_MIB_PER_PAGE: Final = os.sysconf("SC_PAGE_SIZE") / 2**20

_KIB_PER_MIB: Final = 1024

#: More than the longest of these files, which the kernel hands out at once.
_MOST_BYTES: Final = 16 * 1024


@attrs.frozen(kw_only=True)
class ProcessMemory:
    """The memory of one process, in MiB.

    Attributes:
        parent: The process that started it.
        anonymous_mib: Its own memory.
        shared_mib: Shared memory that is no file on a disk.
        file_mib: Pages of files: programs, libraries, mapped models.
        swapped_mib: What is in the swap space.
        locked_file_mib: The part of *file_mib* that the kernel may not take back.
    """

    parent: int = 0
    anonymous_mib: float = 0.0
    shared_mib: float = 0.0
    file_mib: float = 0.0
    swapped_mib: float = 0.0
    locked_file_mib: float = 0.0

    @property
    def held_mib(self) -> float:
        """What no other process can have meanwhile."""
        return self.anonymous_mib + self.shared_mib + self.locked_file_mib


def quick_memory_of(pid: int, proc: str = "/proc") -> tuple[float, float]:
    """Return the own memory of *pid*, and that of files or shared, in MiB. Takes 10 µs.

    Zero if the process is gone.
    """
    fields = _read(f"{proc}/{pid}/statm").split()
    if len(fields) < 3:
        return 0.0, 0.0
    resident, shared = int(fields[1]), int(fields[2])
    return (resident - shared) * _MIB_PER_PAGE, shared * _MIB_PER_PAGE


def memory_of(pid: int, proc: Path = Path("/proc")) -> ProcessMemory:
    """Return the memory of *pid*; memory that it shares counts in full. Takes 30 µs.

    All zero if the process is gone.
    """
    kib = _table(proc / str(pid) / "status")
    return ProcessMemory(
        parent=int(kib.get("PPid", 0)),
        anonymous_mib=kib.get("RssAnon", 0) / _KIB_PER_MIB,
        shared_mib=kib.get("RssShmem", 0) / _KIB_PER_MIB,
        file_mib=kib.get("RssFile", 0) / _KIB_PER_MIB,
        swapped_mib=kib.get("VmSwap", 0) / _KIB_PER_MIB,
        locked_file_mib=min(kib.get("RssFile", 0), kib.get("VmLck", 0)) / _KIB_PER_MIB,
    )


def proportional_memory_of(pid: int, proc: Path = Path("/proc")) -> ProcessMemory:
    """Return the memory of *pid*; of what n processes share, each has the n-th part.

    The kernel looks at every page: this takes 20 ms per GiB of small pages. Where it refuses to
    tell, the result is that of `memory_of`.
    """
    whole = memory_of(pid, proc)
    kib = _table(proc / str(pid) / "smaps_rollup")
    if "Pss_Anon" not in kib:  # another user's, or before Linux 5.9
        return whole
    return ProcessMemory(
        parent=whole.parent,
        anonymous_mib=kib["Pss_Anon"] / _KIB_PER_MIB,
        shared_mib=kib.get("Pss_Shmem", 0) / _KIB_PER_MIB,
        file_mib=kib.get("Pss_File", 0) / _KIB_PER_MIB,
        swapped_mib=kib.get("SwapPss", 0) / _KIB_PER_MIB,
        # Which kind of memory is locked is not said. Where models are, all of them are.
        locked_file_mib=min(kib.get("Pss_File", 0), kib.get("Locked", 0)) / _KIB_PER_MIB,
    )


def host_footprint_mib(
    pids: Iterable[int], model_files: Collection[str | Path], proc: Path = Path("/proc")
) -> float:
    """Return what the processes of one backend need of host memory together, in MiB.

    That is their proportional memory, what is swapped out, and all of each model file that they
    map, also if no page of it was read yet. A file that several of them map counts once, and one
    of which they have unmapped a part (it is on a GPU) counts as far as it is still mapped.

    Args:
        pids: The processes.
        model_files: Paths of the files that count in full, without links.
        proc: The proc file system.
    """
    each = [(proportional_memory_of(pid, proc), pid) for pid in pids]
    mapped: dict[str, set[tuple[int, int]]] = {}
    for _, pid in each:
        for path, part in _mappings(pid, {str(path) for path in model_files}, proc):
            mapped.setdefault(path, set()).add(part)
    mapped_mib = sum(map(_covered, mapped.values())) / 2**20
    return sum(
        memory.anonymous_mib + memory.shared_mib + memory.swapped_mib for memory, _ in each
    ) + max(mapped_mib, sum(memory.file_mib for memory, _ in each))


def _covered(parts: Iterable[tuple[int, int]]) -> int:
    """Return the number of bytes that lie in at least one of *parts*: first byte, end."""
    covered = reached = 0
    for first, end in sorted(parts):
        covered += max(0, end - max(first, reached))
        reached = max(reached, end)
    return covered


def _mappings(pid: int, paths: set[str], proc: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the mapped parts of the files *paths*: path, and first byte and end in the file."""
    try:
        lines = (proc / str(pid) / "maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:  # "7f1c00000000-7f1c40000000 r--s 00000000 fe:01 4711     /models/a.gguf"
        fields = line.split(None, 5)
        path = fields[5].removesuffix(" (deleted)") if len(fields) > 5 else ""
        if path in paths:
            first, end = (int(address, 16) for address in fields[0].split("-"))
            offset = int(fields[2], 16)
            yield path, (offset, offset + end - first)


def _read(path: str | Path) -> bytes:
    """Return the content of a file of the kernel; empty if it cannot be read.

    Without the objects of `open`, because some hundred files are read per second.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, _MOST_BYTES)
    except OSError:  # the process ended meanwhile
        return b""
    finally:
        os.close(descriptor)


def _table(path: Path) -> dict[str, int]:
    """Return the lines ``Name: number`` of a file of the kernel; empty if it cannot be read."""
    fields = (line.split() for line in _read(path).splitlines())
    return {
        each[0][:-1].decode(): int(each[1])
        for each in fields
        if len(each) > 1 and each[0].endswith(b":") and each[1].isdigit()
    }
