"""Which processes belong to which backend, on a made-up /proc."""

import os
from pathlib import Path

import pytest

from llama_router.process import procfs
from llama_router.process.cgroup import ControlGroup
from llama_router.process.family import Leader, families

ROUTER = os.getpid()
A, B = 2**22 + 100, 2**22 + 200  # no process has these ids


class Processes:
    """What /proc says."""

    def __init__(self) -> None:
        self.stats: dict[int, procfs.Stat] = {}
        self.markers: dict[int, frozenset[str]] = {}
        self.add(1, 0)
        self.add(ROUTER, 1)

    def add(self, pid: int, parent: int, *, session: int | None = None, state: str = "S") -> None:
        """Add a process; by default it leads a session of its own."""
        line = f"{pid} (a) {state} {parent} 1 {session or pid} 0 -1 {'0 ' * 11} 1 0 7 0"
        self.stats[pid] = procfs.Stat(pid, line.encode())

    def markers_of(self, pid: int) -> frozenset[str]:
        return self.markers.get(pid, frozenset())


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    made_up = Processes()
    monkeypatch.setattr(procfs, "snapshot", lambda: made_up.stats)
    monkeypatch.setattr(procfs, "markers_of", made_up.markers_of)
    for leader in (A, B):
        made_up.add(leader, ROUTER)
        made_up.markers[leader] = frozenset({"router", f"router.{leader}"})
    return made_up


def test_session_and_descendants_are_the_family(processes: Processes) -> None:
    """Also those with a session of their own, and those whose parent is gone."""
    processes.add(A + 1, A, session=A)
    processes.add(A + 2, A + 1)
    processes.add(A + 3, A + 2)
    processes.add(A + 4, 1, session=A)
    processes.add(B + 1, B, session=B)
    processes.add(50, 1)
    processes.add(51, ROUTER, session=ROUTER)
    assert families([Leader(A), Leader(B)]) == {A: {A, A + 1, A + 2, A + 3, A + 4}, B: {B, B + 1}}


def test_the_dead_hold_nothing(processes: Processes) -> None:
    """A zombie waits for its parent only; its children live on."""
    processes.add(A + 1, A, state="Z")
    processes.add(A + 2, A + 1)
    assert families([Leader(A)]) == {A: {A, A + 2}}


def test_an_orphan_is_known_by_its_environment(processes: Processes) -> None:
    """With its descendants; one without the markers of a backend belongs to none."""
    for pid in (300, 400):
        processes.add(pid, ROUTER)
        processes.add(pid + 1, pid)
    processes.markers[300] = processes.markers[B]
    assert families([Leader(A), Leader(B)]) == {A: {A}, B: {B, 300, 301}}


def test_a_circle_of_parents_ends(processes: Processes) -> None:
    """/proc is read one process after another, and ids are used again."""
    processes.add(300, 301)
    processes.add(301, 300)
    assert families([Leader(A)]) == {A: {A}}


def test_a_control_group_has_the_whole_family(processes: Processes, tmp_path: Path) -> None:
    """Nothing else is looked at; without the leader in it, the group is not in use."""
    (tmp_path / "cgroup.procs").write_text(f"{A}\n999\n")
    group = ControlGroup(tmp_path)
    processes.add(B + 1, B)
    assert families([Leader(A, group), Leader(B, group)]) == {A: {A, 999}, B: {B, B + 1}}


def test_without_backends_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle router does not look through /proc."""
    monkeypatch.setattr(procfs, "snapshot", lambda: pytest.fail("read"))
    assert families([]) == {}
