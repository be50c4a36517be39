"""Ending whole process trees for good, synchronously: the guardian's and the sweep's hand.

Standard library only. A tree is found in three ways, because each alone can be escaped:
the session that its root leads, parentage, and the marker in its environment.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from . import procfs

TYPE_CHECKING = False  # see proctree
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: Longest pause between two looks, in seconds.
_MAX_PAUSE_S = 0.05


class Trees:
    """The trees under some roots, and whatever was once seen to belong to them.

    What was seen is remembered: a process whose parent just died can no longer be found
    by parentage.

    Args:
        roots: Pid to start time of processes that lead their own session.
        markers: Values of the marker variables that belong to these trees.

    Attributes:
        killed: Every process that was there when `end` looked, and is gone.
        unsure: Whether the last look met a process that may belong to them: it was just
            executing a program, so its environment could not be read.
        changing: Whether the last look met one that had died since the look before. It
            may have forked before it did, so the trees are not gone yet.
    """

    def __init__(self, roots: Mapping[int, int], markers: Collection[str] = ()) -> None:
        self._roots = dict(roots)
        self._markers = frozenset(markers)
        self._seen = dict(roots)
        self.killed: set[int] = set()
        self.unsure = False
        self.changing = False
        self._dead: set[tuple[int, int]] = set()
        self._groups: set[int] = set()

    def find(self) -> dict[int, int]:
        """Return pid to start time of every live process of the trees.

        Never this process or init. Looks at every process of the machine: some
        milliseconds, so not for an event loop.
        """
        table = procfs.snapshot()
        sessions = {
            pid
            for pid, started in self._roots.items()
            # Somebody else's process has that pid: then the session is his, too.
            if pid not in table or table[pid].start_time == started
        }
        spared = {1, os.getpid()}
        self.unsure = False
        found = {
            pid
            for pid, stat in table.items()
            if pid not in spared
            and (
                self._seen.get(pid) == stat.start_time
                or stat.session in sessions
                or self._carries_marker(pid)
            )
        }
        offspring: dict[int, list[int]] = {}
        for stat in table.values():
            offspring.setdefault(stat.ppid, []).append(stat.pid)
        ahead = list(found)
        while ahead:
            fresh = set(offspring.get(ahead.pop(), ())) - found - spared
            found |= fresh
            ahead += fresh
        # A member, even a dead one, keeps the group's id from being given to another.
        self._groups = {table[pid].pgrp for pid in found} & sessions
        dead = {(pid, table[pid].start_time) for pid in found if table[pid].gone}
        self.changing = not dead <= self._dead
        self._dead = dead
        live = {pid: table[pid].start_time for pid in found if not table[pid].gone}
        self._seen.update(live)
        return live

    def _carries_marker(self, pid: int) -> bool:
        if not self._markers:
            return False
        markers = procfs.markers_of(pid)
        if markers is None:
            self.unsure = True
            return False
        return not self._markers.isdisjoint(markers)

    def kill_groups(self) -> None:
        """SIGKILL the groups that the roots lead, as of the last look.

        The kernel does this in one step: a group that forks faster than it can be looked
        at does not get away.
        """
        for group in self._groups:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)

    def end(self, *, timeout_s: float) -> dict[int, int]:
        """SIGKILL everything until two looks in a row find nothing, or time is up.

        Returns:
            Pid to start time of what survived; empty if the trees are gone.
        """
        deadline_s = time.monotonic() + timeout_s
        pause_s = 0.001
        empty = 0
        while True:
            live = self.find()
            empty = 0 if live or self.unsure or self.changing else empty + 1
            if empty == 2 or time.monotonic() > deadline_s:
                self.killed -= live.keys()
                return live
            self.killed |= live.keys()
            self.kill_groups()
            for pid, started in live.items():
                kill(pid, started)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_PAUSE_S)


def kill(pid: int, started: int, signum: signal.Signals = signal.SIGKILL) -> bool:
    """Signal the process *pid* that started at *started*; never one that reuses its pid.

    Returns:
        False if that process is gone, or may not be signalled.
    """
    try:
        handle = os.pidfd_open(pid)
    except OSError:  # gone; or no descriptor to be had, or a kernel before 5.3
        return _kill_plain(pid, started, signum)
    try:
        # The handle was opened before the check, so both mean the same process.
        if not procfs.alive(pid, started):
            return False
        signal.pidfd_send_signal(handle, signum)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _kill_plain(pid: int, started: int, signum: signal.Signals) -> bool:
    """Signal without a handle: a pid reused in the microseconds between would be hit."""
    if not procfs.alive(pid, started):
        return False
    try:
        os.kill(pid, signum)
    except OSError:
        return False
    return True
