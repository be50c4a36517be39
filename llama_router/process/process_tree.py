"""The process tree of one backend of this router: found, killed and reaped, on threads.

`process` runs the program itself, and uses this for everything that the program started. Where
the router is a subreaper, only its own children are scanned; otherwise `treekill` scans the
whole machine.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import trio

from ..threads import in_thread_or_here
from . import procfs, treekill
from .cgroup import ControlGroup

#: Scans of /proc have a limiter of their own: they may hang on a process in uninterruptible
#: sleep, and must not use up the threads of Trio's default limiter.
_LIMITER = trio.CapacityLimiter(64)

#: How often a stop scans again because an environment was unreadable (``execve``). With the
#: pauses between scans this takes seconds; a process that is unreadable for longer is left alone.
MAX_UNREADABLE_SCANS = 50

#: The running leaders. One set per process, like the kernel's list of children.
_leaders: set[int] = set()


def running_leaders() -> frozenset[int]:
    """Return the pids of all leaders that run now."""
    return frozenset(_leaders)


class ProcessTree:
    """A leader and all processes that belong to it by session, descent, marker or control group.

    With `procfs.adopt_orphans`, a process that outlives its parent becomes a child of this
    process: then only the children are scanned, which takes microseconds. Otherwise every
    process of the machine is scanned, and init reaps the orphans.

    Args:
        leader: A child of this process that leads its own session.
        started: Its start time.
        marker: Value of `procfs.BACKEND_VARIABLE` in its environment.
        group: The control group of all of them, if there is one.
    """

    def __init__(
        self, leader: int, started: int, marker: str, group: ControlGroup | None = None
    ) -> None:
        self._leader = leader
        self._started = started
        self._marker = marker
        self._group = group
        self._seen: dict[int, int] = {}
        self._machine_wide = treekill.Trees({leader: started}, {marker})
        self._adopting = procfs.adopts_orphans()
        self._unreadable = self._changing = False
        self._unreadable_left = MAX_UNREADABLE_SCANS
        _leaders.add(leader)

    def close(self) -> None:
        """Remove the leader from the running ones: it is reaped, and its pid may be reused."""
        _leaders.discard(self._leader)

    async def join_group(self) -> None:
        """Move the leader and its descendants into the control group, if there is one."""
        if self._group is not None:
            await in_thread_or_here(self._group.add_tree, self._leader, limiter=_LIMITER)

    async def scan(self) -> None:
        """Remember the leader's descendants: descent is unknown once the leader is gone."""
        await in_thread_or_here(self._scan, abandon_on_cancel=True, limiter=_LIMITER)

    async def kill_members(self) -> bool:
        """Kill every member but the leader; reap the dead ones among this process's children.

        A control group is killed whole, with the leader: call this after the leader's SIGKILL.

        Returns:
            True if a member was still alive, or could not be determined: call this again.
        """
        return await in_thread_or_here(self._kill_members, abandon_on_cancel=True, limiter=_LIMITER)

    def _scan(self) -> None:
        if procfs.start_time(self._leader) != self._started:
            return  # reaped, and its pid may be reused by now
        for pid in procfs.descendants(self._leader):
            if (started := procfs.start_time(pid)) is not None:
                self._seen[pid] = started

    def _kill_members(self) -> bool:
        self._scan()
        self._unreadable = self._changing = False
        live = self._member_children() if self._adopting else self._members_on_machine()
        live |= {pid: at for pid, at in list(self._seen.items()) if procfs.alive(pid, at)}
        live.pop(self._leader, None)
        for pid, started in live.items():
            treekill.kill(pid, started)
        if live or self._changing or self._kill_group():
            return True
        if self._unreadable:
            self._unreadable_left -= 1
        return self._unreadable and self._unreadable_left > 0

    def _kill_group(self) -> bool:
        """Kill the control group; return whether a process lived in it."""
        if self._group is None or not self._group.populated():
            return False
        self._group.kill()
        return True

    def _members_on_machine(self) -> dict[int, int]:
        """Scan every process of the machine; return the live members."""
        live = self._machine_wide.find()
        self._machine_wide.kill_groups()
        self._unreadable = self._machine_wide.unreadable
        self._changing = self._machine_wide.changing
        return live

    def _member_children(self) -> dict[int, int]:
        """Return the members among the router's children, with descendants; reap zombies."""
        live: dict[int, int] = {}
        for pid in procfs.children(os.getpid()) - _leaders:
            stat = procfs.read_stat(pid)
            if stat is None or not self._is_member(stat):
                continue
            if stat.pgrp == self._leader:
                # A member, even a dead one, keeps the group's id from being reused. The group
                # is killed in one step, or one that keeps forking would escape.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._leader, signal.SIGKILL)
            if stat.gone:
                self._changing = True  # it may have forked before it died
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                continue
            for each in {pid, *procfs.descendants(pid)}:
                if (started := procfs.start_time(each)) is not None:
                    self._seen[each] = live[each] = started
        return live

    def _is_member(self, stat: procfs.Stat) -> bool:
        if stat.session == self._leader or self._seen.get(stat.pid) == stat.start_time:
            return True
        markers = procfs.markers_of(stat.pid)
        if markers is None:
            self._unreadable = True
            return False
        return self._marker in markers
