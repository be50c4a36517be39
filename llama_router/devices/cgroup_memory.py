"""Limits of memory that control groups set for this process, versions 1 and 2.

Source: kernel documentation, admin-guide/cgroup-v2 (memory.max, memory.high, memory.current,
memory.stat) and admin-guide/cgroup-v1/memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import attrs

#: What version 1 shows where there is no limit is a little less than this, by the page size.
_NO_LIMIT_BYTES: Final = 2**62

#: Memory in a group that the kernel takes back before it refuses any. The pages of files include
#: those of mapped models, which belong to the footprints of their backends.
_RECLAIMABLE: Final = ("active_file", "inactive_file", "slab_reclaimable")


@attrs.frozen(kw_only=True)
class MemoryLimit:
    """The limit of one control group.

    Attributes:
        limit_bytes: The most that its processes may hold together.
        used_bytes: What they hold, apart from what the kernel can take back.
    """

    limit_bytes: int
    used_bytes: int

    @property
    def available_bytes(self) -> int:
        """What they may take in addition."""
        return max(0, self.limit_bytes - self.used_bytes)


def memory_limits(proc: Path = Path("/proc/self")) -> list[MemoryLimit]:
    """Return the limits of the group of a process and of all groups above it. Blocks.

    Args:
        proc: The folder of the process in /proc.
    """
    limits = []
    for folder, is_v2 in _groups(proc):
        limit_bytes = _limit(folder, is_v2=is_v2)
        used_bytes = _number(folder / ("memory.current" if is_v2 else "memory.usage_in_bytes"))
        if limit_bytes is not None and used_bytes is not None:
            used_bytes -= _reclaimable(folder, prefix="" if is_v2 else "total_")
            limits.append(MemoryLimit(limit_bytes=limit_bytes, used_bytes=max(0, used_bytes)))
    return limits


def _groups(proc: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of the group and of those above it; True with those of version 2."""
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return
    for line in groups:  # "4:cpu,memory:/user.slice", "0::/user.slice"
        _, controllers, group = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            is_v2 = controllers == ""
            for root, point in _mounts(mounts, is_v2=is_v2):
                path = PurePosixPath(group)
                if path.is_relative_to(root) and ".." not in path.parts:
                    below = path.relative_to(root)
                    yield from ((point / each, is_v2) for each in (below, *below.parents))
                    break


def _mounts(mounts: list[str], *, is_v2: bool) -> Iterator[tuple[str, Path]]:
    """Yield the root and the folder of each mount of control groups that may count memory."""
    for line in mounts:  # "36 35 0:31 ROOT MOUNT_POINT OPTIONS ... - TYPE SOURCE OPTIONS"
        mount, _, kind = line.partition(" - ")
        fields, (name, *options) = mount.split(), kind.split() or [""]
        if name == "cgroup2" if is_v2 else name == "cgroup" and "memory" in options[-1].split(","):
            yield fields[3], Path(fields[4])


def _limit(folder: Path, *, is_v2: bool) -> int | None:
    """Return the lowest limit that is set in *folder*; None if there is none."""
    names = ("memory.max", "memory.high") if is_v2 else ("memory.limit_in_bytes",)
    limits = [limit for name in names if (limit := _number(folder / name)) is not None]
    return min((limit for limit in limits if limit < _NO_LIMIT_BYTES), default=None)


def _reclaimable(folder: Path, *, prefix: str) -> int:
    wanted = {f"{prefix}{name}" for name in _RECLAIMABLE}
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    fields = (line.partition(" ") for line in lines)
    return sum(int(value) for name, _, value in fields if name in wanted)


def _number(path: Path) -> int | None:
    """Return the number in a file of the kernel; None for ``max``, and if there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
