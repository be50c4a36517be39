"""The choice of old log files to remove. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import attrs

#: A file written within this many seconds is never removed: it may be open for writing or reading.
IN_USE_S: Final = 60.0


@attrs.frozen
class LogFile:
    """One file in the folder of logs.

    Attributes:
        name: The name in the folder.
        size_bytes: The size.
        modified_s: The time of the last write, in seconds since the epoch.
    """

    name: str
    size_bytes: int
    modified_s: float


def to_remove(
    files: Iterable[LogFile], *, now_s: float, keep_s: float | None, total_bytes: int | None
) -> list[str]:
    """Return the names of the files to remove, oldest first.

    Args:
        files: All log files.
        now_s: The time, in seconds since the epoch.
        keep_s: Files that were not written for longer are removed; None keeps them.
        total_bytes: Then the oldest files are removed until the rest has no more than this;
            None sets no limit. Files in use may exceed it.
    """
    by_age = sorted(files, key=lambda file: (file.modified_s, file.name))
    left_bytes = sum(file.size_bytes for file in by_age)
    removed: list[str] = []
    for file in by_age:
        age_s = now_s - file.modified_s
        if age_s < IN_USE_S:
            continue
        too_old = keep_s is not None and age_s > keep_s
        too_much = total_bytes is not None and left_bytes > total_bytes
        if too_old or too_much:
            removed.append(file.name)
            left_bytes -= file.size_bytes
    return removed
