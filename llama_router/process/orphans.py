"""Orphans that cannot be told to be any backend's: reaped when dead, ended when ownerless.

A process that leaves its session, loses its parent and wipes its environment escapes all
three ways in which `family.Family` knows its relatives. It still becomes a child of the
router (`proctree.adopt_orphans`), which is how it is found here.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
import trio

from ..threads import ThreadRefusedError, in_thread, in_thread_or_here
from . import process_tree, procfs, treekill

if TYPE_CHECKING:
    from .lifeline import Lifeline

#: Seconds between two looks. What is seen once only may be a backend that was just
#: spawned, or a dead one that is just being reaped.
LOOK_INTERVAL_S = 2.0

#: Seconds allowed for ending what is left when the router stops.
END_TIMEOUT_S = 2.0

#: Said to the guardian in place of a marker; no process carries it.
_NO_MARKER = "orphan"

log = structlog.get_logger()


async def tend_orphans(lifeline: Lifeline, *, interval_s: float = LOOK_INTERVAL_S) -> None:
    """Look after adopted orphans until cancelled; then those that still live are killed.

    One that lives is killed as soon as no backend is left that is older, since only an
    older one can have started it. Until then the guardian knows it.

    Only for a program that is nothing but a router: every child of this process counts
    as adopted unless it shares the router's session, is a backend or is the guardian.

    Args:
        lifeline: Knows the backends, and guards the orphans too.
        interval_s: Seconds between two looks.
    """
    procfs.adopt_orphans()
    orphans = _Orphans(lifeline)
    try:
        while True:
            await trio.sleep(interval_s)
            with suppress(ThreadRefusedError):
                orphans.take_in(await in_thread(orphans.look))
    finally:
        with trio.CancelScope(shield=True):  # bounded by END_TIMEOUT_S
            await in_thread_or_here(orphans.end)


class _Orphans:
    """What was seen, and what was done about it."""

    def __init__(self, lifeline: Lifeline) -> None:
        self._lifeline = lifeline
        self._before: frozenset[tuple[int, int]] = frozenset()
        self._guarded: dict[int, int] = {}

    def look(self) -> dict[int, procfs.Stat]:
        """Return every adopted orphan, zombies included."""
        session = os.getsid(0)
        known = process_tree.leaders() | {self._lifeline.guardian_pid}
        known |= self._lifeline.guarded.keys() - self._guarded.keys()
        stats = map(procfs.read_stat, procfs.children(os.getpid()) - known)
        return {stat.pid: stat for stat in stats if stat is not None and stat.session != session}

    def take_in(self, found: dict[int, procfs.Stat]) -> None:
        """Reap, kill or guard those of *found* that were there at the last look, too."""
        for pid in self._guarded.keys() - found.keys():  # its backend's stop ended it
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

    def end(self) -> None:
        """Kill and reap all that are there."""
        found = self.look()
        live = {stat.pid: stat.start_time for stat in found.values() if not stat.gone}
        if live:
            treekill.Trees(live).end(timeout_s=END_TIMEOUT_S)
        for pid in found:
            self._reap(pid)

    def _may_be_owned(self, started: int) -> bool:
        """Tell whether a backend runs that is older than an orphan."""
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
