"""One backend's relatives: finding, killing and reaping what a program leaves behind."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import trio

from ..threads import in_thread_or_here
from . import procfs, treekill
from .cgroup import ControlGroup

#: Looks at /proc run in threads of their own: they may hang on a process in
#: uninterruptible sleep, and must not take Trio's other threads with them.
_LIMITER = trio.CapacityLimiter(64)

#: How often a stop looks again because a process was just executing a program. With the
#: pauses between looks it takes seconds: whoever executes that long is left alone.
MAX_DOUBTS = 50

#: The leaders that run now. Like the kernel's list of children, there is one per process.
_leaders: set[int] = set()


def leaders() -> frozenset[int]:
    """Return the leaders that run now."""
    return frozenset(_leaders)


class ProcessTree:
    """The processes that belong to one leader: by session, by descent or by marker.

    With `proctree.adopt_orphans`, whatever outlives its parent becomes a child of this
    process: then only the own children are looked at, which takes microseconds. Without
    it every process of the machine is looked at, and init reaps the orphans.

    Args:
        leader: A child of this process that leads its own session.
        started: Its start time.
        marker: Value of `proctree.BACKEND_VARIABLE` in its environment.
        group: A control group for all of them, if there is one.
    """

    def __init__(
        self, leader: int, started: int, marker: str, group: ControlGroup | None = None
    ) -> None:
        self._leader = leader
        self._started = started
        self._marker = marker
        self._group = group
        self._seen: dict[int, int] = {}
        self._everywhere = treekill.Trees({leader: started}, {marker})
        self._adopting = procfs.adopts_orphans()
        self._unsure = self._changing = False
        self._doubts_left = MAX_DOUBTS
        _leaders.add(leader)

    def forget(self) -> None:
        """Say that the leader is reaped: its pid may be anybody's from now on."""
        _leaders.discard(self._leader)

    async def enlist(self) -> None:
        """Move the leader, and what it has started already, into the control group."""
        if self._group is not None:
            await in_thread_or_here(self._group.enlist, self._leader, limiter=_LIMITER)

    async def look(self) -> None:
        """Remember the leader's descendants: once it is gone, they cannot be told from others."""
        await in_thread_or_here(self._look, abandon_on_cancel=True, limiter=_LIMITER)

    async def hunt(self) -> bool:
        """Kill every relative, and reap the dead ones among the own children.

        The leader is left to its parent, unless it is in a control group: call this when it
        has got its SIGKILL.

        Returns:
            Whether any was still alive, or something could not be told: then look again.
        """
        return await in_thread_or_here(self._hunt, abandon_on_cancel=True, limiter=_LIMITER)

    def _look(self) -> None:
        if procfs.start_time(self._leader) != self._started:
            return  # reaped, and its pid may be a stranger's by now
        for pid in procfs.descendants(self._leader):
            if (started := procfs.start_time(pid)) is not None:
                self._seen[pid] = started

    def _hunt(self) -> bool:
        self._look()
        self._unsure = self._changing = False
        live = self._adopted() if self._adopting else self._anywhere()
        live |= {pid: at for pid, at in list(self._seen.items()) if procfs.alive(pid, at)}
        live.pop(self._leader, None)
        for pid, started in live.items():
            treekill.kill(pid, started)
        if live or self._changing or self._kill_group():
            return True
        if self._unsure:
            self._doubts_left -= 1
        return self._unsure and self._doubts_left > 0

    def _kill_group(self) -> bool:
        """Kill who is in the control group; say whether anybody was."""
        if self._group is None or not self._group.populated():
            return False
        self._group.kill()
        return True

    def _anywhere(self) -> dict[int, int]:
        """Look at every process; return the live relatives."""
        live = self._everywhere.find()
        self._everywhere.kill_groups()
        self._unsure = self._everywhere.unsure
        self._changing = self._everywhere.changing
        return live

    def _adopted(self) -> dict[int, int]:
        """Return the relatives among the own children, with their descendants; reap zombies."""
        live: dict[int, int] = {}
        for pid in procfs.children(os.getpid()) - _leaders:
            stat = procfs.read_stat(pid)
            if stat is None or not self._is_relative(stat):
                continue
            if stat.pgrp == self._leader:
                # A member, even a dead one, keeps the group's id from being given to
                # another. All at once, or a group that keeps forking gets away.
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

    def _is_relative(self, stat: procfs.Stat) -> bool:
        if stat.session == self._leader or self._seen.get(stat.pid) == stat.start_time:
            return True
        markers = procfs.markers_of(stat.pid)
        if markers is None:
            self._unsure = True
            return False
        return self._marker in markers
