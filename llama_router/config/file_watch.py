"""When a watched file has changed and come to rest. Pure: stamps go in, advice comes out."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

Stamp: TypeAlias = tuple[int, ...] | None
"""Identity, size and times of a file; None while it cannot be seen."""


class Advice(StrEnum):
    """What to do after a look at the file."""

    REST = "rest"  # nothing new; look again after the usual time
    SETTLE = "settle"  # it is changing; look again soon
    READ = "read"  # it has changed and come to rest


class FileWatch:
    """Turns looks at a file into the advice to read it.

    A change counts once two looks in a row see the same: an editor may truncate, write and
    rename in several steps. A file that has vanished has not changed; it counts when it
    is back. What is seen follows links, so that a swapped link is a change like any other.
    """

    def __init__(self) -> None:
        self._settled: Stamp = None
        self._changing: Stamp = None

    def is_read(self, stamp: Stamp) -> None:
        """Take in that the file is being read without advice; *stamp* is of just before."""
        if stamp is not None:
            self._settled, self._changing = stamp, None

    def see(self, stamp: Stamp) -> Advice:
        """Take in one look."""
        if stamp is None or stamp == self._settled:
            self._changing = None
            return Advice.REST
        if stamp != self._changing:
            self._changing = stamp
            return Advice.SETTLE
        self._settled, self._changing = stamp, None
        return Advice.READ
