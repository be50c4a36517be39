"""Detects when a polled file has changed and is stable. Pure: no file is read here."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

Stamp: TypeAlias = tuple[int, ...] | None
"""Identity, size and times of a file; None if it cannot be read."""


class NextStep(StrEnum):
    """The next action after a poll."""

    WAIT = "wait"  # no change: poll again after the usual pause
    RECHECK = "recheck"  # the file is changing: poll again soon
    READ = "read"  # the file has changed and is stable


class FileWatch:
    """Decides after each poll of a file whether to read it.

    A change counts once two polls in a row return the same stamp: an editor may truncate, write
    and rename in several steps. A missing file is no change; it counts when it exists again.
    Stamps are of the file behind all links, so a replaced link is a change like any other.
    """

    def __init__(self) -> None:
        self._read: Stamp = None
        self._changing: Stamp = None

    def mark_read(self, stamp: Stamp) -> None:
        """Record that the file is read for another reason; *stamp* is of just before."""
        if stamp is not None:
            self._read, self._changing = stamp, None

    def observe(self, stamp: Stamp) -> NextStep:
        """Return the next step after a poll that returned *stamp*."""
        if stamp is None or stamp == self._read:
            self._changing = None
            return NextStep.WAIT
        if stamp != self._changing:
            self._changing = stamp
            return NextStep.RECHECK
        self._read, self._changing = stamp, None
        return NextStep.READ


class AbsenceNews(StrEnum):
    """The news about a file's absence after a poll."""

    NONE = "none"
    GONE = "gone"  # it has been missing for too long
    BACK = "back"  # it exists again after that


class Absence:
    """Tells a file that is gone from one that is being replaced.

    Args:
        limit_s: Seconds for which a file may be missing.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since_s: float | None = None
        self._is_reported = False

    def observe(self, *, is_gone: bool, now_s: float) -> AbsenceNews:
        """Return the news after a poll."""
        if not is_gone:
            was_reported, self._since_s, self._is_reported = self._is_reported, None, False
            return AbsenceNews.BACK if was_reported else AbsenceNews.NONE
        if self._since_s is None:
            self._since_s = now_s
        if self._is_reported or now_s - self._since_s < self._limit_s:
            return AbsenceNews.NONE
        self._is_reported = True
        return AbsenceNews.GONE
