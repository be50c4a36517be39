"""Adopted orphans that belong to no known backend: reaped when dead, killed when ownerless.

A process that leaves its session, loses its parent and clears its environment escapes all
three ways in which `process_tree.ProcessTree` finds members. It still becomes a child of the
router (`procfs.adopt_orphans`), and is found here as such.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from ..logs.events import log
from ..threads import ThreadRefusedError, in_thread, in_thread_or_here
from . import process_tree, procfs, treekill

if TYPE_CHECKING:
    from .lifeline import Lifeline

#: Seconds between two scans. A process that only one scan found may be a backend that was
#: just spawned, or a dead one that is being reaped.
SCAN_INTERVAL_S = 2.0

#: Seconds for killing the remaining orphans when the router stops.
END_TIMEOUT_S = 2.0

#: Sent to the guardian in place of a marker; no process has it.
_NO_MARKER = "orphan"


async def reap_orphans(lifeline: Lifeline, *, interval_s: float = SCAN_INTERVAL_S) -> None:
    """Reap and kill adopted orphans until cancelled; then kill all that still live.

    A live orphan is killed as soon as no older backend is left, because only an older one
    can have started it. Until then it is registered with the guardian.

    Only for a process that runs nothing but a router: every child of it counts as adopted
    unless it shares the router's session, is a backend or is the guardian.

    Args:
        lifeline: Has the backends; orphans are registered there, too.
        interval_s: Seconds between two scans.
    """
    procfs.adopt_orphans()
    orphans = _Orphans(lifeline)
    try:
        while True:
            await trio.sleep(interval_s)
            with suppress(ThreadRefusedError):
                orphans.handle(await in_thread(orphans.scan))
    finally:
        # `kill_all` returns after END_TIMEOUT_S, unless a scan of /proc hangs.
        with trio.move_on_after(2 * END_TIMEOUT_S, shield=True):
            await in_thread_or_here(orphans.kill_all, abandon_on_cancel=True)


class _Orphans:
    """The orphans of the last scan, and those that are registered with the guardian."""

    def __init__(self, lifeline: Lifeline) -> None:
        self._lifeline = lifeline
        self._before: frozenset[tuple[int, int]] = frozenset()
        self._guarded: dict[int, int] = {}

    def scan(self) -> dict[int, procfs.Stat]:
        """Return every adopted orphan, zombies included."""
        session = os.getsid(0)
        known = process_tree.running_leaders() | {self._lifeline.guardian_pid}
        known |= self._lifeline.guarded.keys() - self._guarded.keys()
        stats = map(procfs.read_stat, procfs.children(os.getpid()) - known)
        return {stat.pid: stat for stat in stats if stat is not None and stat.session != session}

    def handle(self, found: dict[int, procfs.Stat]) -> None:
        """Reap, kill or register those of *found* that the scan before found, too."""
        for pid in self._guarded.keys() - found.keys():  # the stop of its backend killed it
            self._release(pid)
        now = frozenset((stat.pid, stat.start_time) for stat in found.values())
        for pid, started in now & self._before:
            if found[pid].gone:
                self._reap(pid)
            elif not self._may_be_owned(started):
                log.warning("orphan.killed", pid=pid)
                treekill.kill(pid, started)
            elif pid not in self._guarded:
                log.info("orphan.adopted", pid=pid)
                self._guarded[pid] = started
                self._lifeline.register(pid, started, _NO_MARKER)
        self._before = now

    def kill_all(self) -> None:
        """Kill and reap all orphans."""
        found = self.scan()
        live = {stat.pid: stat.start_time for stat in found.values() if not stat.gone}
        if live:
            treekill.Trees(live).end(timeout_s=END_TIMEOUT_S)
        for pid in found:
            self._reap(pid)

    def _may_be_owned(self, started: int) -> bool:
        """Return whether a backend runs that is older than an orphan."""
        return any(
            since <= started
            for pid, (since, _) in self._lifeline.guarded.items()
            if pid not in self._guarded
        )

    def _reap(self, pid: int) -> None:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        self._release(pid)

    def _release(self, pid: int) -> None:
        if self._guarded.pop(pid, None) is not None:
            self._lifeline.unregister(pid)
