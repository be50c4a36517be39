"""Kills whole process trees, synchronously, from any process that may signal them.

For the guardian, the sweep at start and orphans: the trees need not be children of the caller.
(`process_tree` is for the router's own children.) It scans every process of the machine. Members
are found in three ways, because each alone can be escaped: by the session that the root leads,
by parentage, and by the marker in the environment. Standard library only.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

from . import procfs

TYPE_CHECKING = False  # see procfs
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

#: Longest pause between two scans, in seconds.
_MAX_PAUSE_S = 0.05


class Trees:
    """The trees under some roots, with every process that was ever found in them.

    Members are remembered: a process that lost its parent can no longer be found by
    parentage.

    Args:
        roots: Pid to start time of processes that lead their own session.
        markers: Values of the marker variables that belong to these trees.

    Attributes:
        killed: The processes that `end` found and that are gone now.
        unreadable: The last scan found a process that may be a member: it was in the middle of
            ``execve``, so its environment was unreadable.
        changing: The last scan found a member that had died since the scan before. It may
            have forked before, so the trees may have further members.
    """

    def __init__(self, roots: Mapping[int, int], markers: Collection[str] = ()) -> None:
        self._roots = dict(roots)
        self._markers = frozenset(markers)
        self._seen = dict(roots)
        self.killed: set[int] = set()
        self.unreadable = False
        self.changing = False
        self._dead: set[tuple[int, int]] = set()
        self._groups: set[int] = set()

    def find(self) -> dict[int, int]:
        """Return pid to start time of every live member, never this process or init.

        Scans every process of the machine, which takes some milliseconds: not for an event
        loop.
        """
        table = procfs.snapshot()
        sessions = {
            pid
            for pid, started in self._roots.items()
            # A process that reuses the pid may lead a session of its own.
            if pid not in table or table[pid].start_time == started
        }
        spared = {1, os.getpid()}
        self.unreadable = False
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
            self.unreadable = True
            return False
        return not self._markers.isdisjoint(markers)

    def kill_groups(self) -> None:
        """SIGKILL the groups that the roots lead, as of the last scan.

        The kernel does this in one step, so a group that forks faster than it can be scanned
        is killed, too.
        """
        for group in self._groups:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)

    def end(self, *, timeout_s: float) -> dict[int, int]:
        """SIGKILL all members until two scans in a row find none, or *timeout_s* is over.

        Returns:
            Pid to start time of the survivors; empty if the trees are gone.
        """
        deadline_s = time.monotonic() + timeout_s
        pause_s = 0.001
        empty = 0
        while True:
            live = self.find()
            empty = 0 if live or self.unreadable or self.changing else empty + 1
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
    except OSError:  # gone; no descriptor is free; or a kernel before 5.3
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
    """Signal without a handle: may hit a process that reuses the pid within microseconds."""
    if not procfs.alive(pid, started):
        return False
    try:
        os.kill(pid, signum)
    except OSError:
        return False
    return True
