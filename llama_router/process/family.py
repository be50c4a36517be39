"""The families of backends: all processes of each, for accounting. Nothing is killed here.

`process_tree` finds the members of one tree for its end, where none may be missed. Here all trees
are found by one look at /proc, once per second; a process that hides for a moment is no harm.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

import attrs

from . import procfs
from .cgroup import ControlGroup

#: Longest chain of parents that is followed; /proc is no snapshot, and a chain may be a circle.
_MAX_DEPTH: Final = 100


@attrs.frozen
class Leader:
    """The program of one backend.

    Attributes:
        pid: Its process id; also that of its session.
        group: Its control group, if it has one.
    """

    pid: int
    group: ControlGroup | None = None


def families(leaders: Iterable[Leader]) -> dict[int, frozenset[int]]:
    """Return the live processes of each backend, by the pid of its leader. Blocks for milliseconds.

    They are those in its control group. Without one they are those of its session, and their
    descendants; one that left the session and lost its parent is found by its environment, if it
    became a child of this process (`procfs.adopt_orphans`).

    Args:
        leaders: The leaders of all backends.
    """
    grouped, others = {}, []
    for leader in leaders:
        members = leader.group.members() if leader.group is not None else set()
        if leader.pid in members:
            grouped[leader.pid] = frozenset(members)
        else:  # it has no group, or could not be moved there
            others.append(leader.pid)
    return grouped | (_by_descent(others) if others else {})


def _by_descent(leaders: list[int]) -> dict[int, frozenset[int]]:
    """Return the families of *leaders* from sessions, parents and environments."""
    stats = procfs.snapshot()
    markers = {found: pid for pid in leaders if (found := procfs.markers_of(pid))}
    members: dict[int, set[int]] = {pid: set() for pid in leaders}
    for stat in stats.values():
        if not stat.gone:
            top = _top(stat, stats, members.keys())
            leader = top.session if top.session in members else _marked(top, markers)
            if leader is not None:
                members[leader].add(stat.pid)
    return {pid: frozenset(found) for pid, found in members.items()}


def _top(
    stat: procfs.Stat, stats: Mapping[int, procfs.Stat], sessions: AbstractSet[int]
) -> procfs.Stat:
    """Return the nearest of a process and its ancestors that is in one of *sessions*.

    Without one, the highest ancestor below this process, or below init.
    """
    for _ in range(_MAX_DEPTH):
        parent = stats.get(stat.ppid)
        if stat.session in sessions or parent is None or parent.pid in {1, os.getpid()}:
            break
        stat = parent
    return stat


def _marked(stat: procfs.Stat, leaders: Mapping[frozenset[str], int]) -> int | None:
    """Return the leader whose markers a child of this process has, if there is one."""
    if stat.ppid != os.getpid():
        return None
    return leaders.get(procfs.markers_of(stat.pid) or frozenset())
