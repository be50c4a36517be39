"""The activity of a process and its descendants: bytes moved, and memory filled, from /proc.

What moves while a llama-server loads was measured: with a memory-mapped file from a cold cache the
bytes from storage and the resident memory, from a warm cache the resident memory only, without a
mapping the bytes of its read calls. Major faults stay at a handful, because the file is read ahead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from . import procfs

#: Bytes of read and write calls between two looks, half a second apart, that count as movement.
#: A server that logs and answers each health probe stays below.
MIN_CALLED_BYTES: Final = 256 * 1024

#: Growth of the resident memory that counts as movement, in bytes.
MIN_FILLED_BYTES: Final = 1024 * 1024

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@attrs.frozen
class Activity:
    """The counters of one process.

    Attributes:
        stored_bytes: Bytes that storage delivered for it, mapped files included.
        called_bytes: Bytes of its read and write calls, whatever they read and wrote.
        resident_bytes: Its resident memory.
    """

    stored_bytes: int
    called_bytes: int
    resident_bytes: int

    def has_moved_since(self, earlier: Activity) -> bool:
        """Return whether the process did something between the two looks."""
        return (
            self.stored_bytes > earlier.stored_bytes
            or self.called_bytes >= earlier.called_bytes + MIN_CALLED_BYTES
            or self.resident_bytes >= earlier.resident_bytes + MIN_FILLED_BYTES
        )


def read_activity(leader: int) -> dict[int, Activity]:
    """Return the activity of *leader* and its descendants, by pid. Blocks on /proc.

    A process that has just ended, or may not be looked at, is not in it.
    """
    found = {pid: _activity_of(pid) for pid in (leader, *procfs.descendants(leader))}
    return {pid: activity for pid, activity in found.items() if activity is not None}


def has_moved(earlier: Mapping[int, Activity], later: Mapping[int, Activity]) -> bool:
    """Return whether one of the processes did something between the two looks.

    A new process is no movement: a script that hangs may start a ``sleep`` every second.
    """
    return any(
        activity.has_moved_since(earlier[pid]) for pid, activity in later.items() if pid in earlier
    )


def _activity_of(pid: int) -> Activity | None:
    try:
        lines = Path(f"/proc/{pid}/io").read_text("ascii").splitlines()
        counters = {name: int(value) for name, _, value in (line.partition(":") for line in lines)}
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return Activity(
        stored_bytes=counters.get("read_bytes", 0),
        called_bytes=counters.get("rchar", 0) + counters.get("wchar", 0),
        resident_bytes=pages * _PAGE_BYTES,
    )
