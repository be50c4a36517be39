"""Control groups, on a tree of ordinary files."""

import os
from pathlib import Path

import pytest

from llama_router.process.cgroup import ControlGroup, ControlGroups
from llama_router.process.oom import OomDetector


class Tree:
    """What the kernel would show of a service with a delegated control group.

    Attributes:
        proc: Stands for ``/proc/self``.
        own: The service's control group.
    """

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.mount = folder / "cgroup"
        self.own = self.mount / "system.slice" / "llama-router.service"
        self.own.mkdir(parents=True)
        self.proc.mkdir()
        self.describe()
        self.file("cgroup.procs")
        self.file("cgroup.subtree_control")
        (self.own / "router").mkdir()
        self.file("router/cgroup.procs")

    def describe(self, group: str = "/system.slice/llama-router.service", root: str = "/") -> None:
        (self.proc / "cgroup").write_text(f"1:name=systemd:/x\n0::{group}\n")
        (self.proc / "mountinfo").write_text(
            "20 1 0:18 / /sys rw - sysfs sysfs rw\n"
            f"29 20 0:26 {root} {self.mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
        )

    def file(self, name: str, text: str = "") -> Path:
        path = self.own / name
        path.write_text(text)
        return path

    def adopt(self, *, delegated: bool = True) -> ControlGroups | None:
        def is_delegated(path: Path) -> bool:
            return delegated and path == self.own

        return ControlGroups.adopt(proc=self.proc, is_delegated=is_delegated)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_without_delegation_there_are_no_groups(tree: Tree) -> None:
    """Somebody's session is not ours to divide."""
    assert tree.adopt(delegated=False) is None
    assert (tree.own / "router" / "cgroup.procs").read_text() == ""


def test_real_files_are_not_taken_for_a_delegated_group(tree: Tree) -> None:
    """Only an attribute that systemd sets counts."""
    assert ControlGroups.adopt(proc=tree.proc) is None


def test_the_router_moves_down_and_counting_begins(tree: Tree) -> None:
    """A group with children must have no processes, before its controllers can be enabled."""
    groups = tree.adopt()
    assert groups is not None
    assert groups.counts_memory
    assert (tree.own / "router" / "cgroup.procs").read_text() == str(os.getpid())
    assert (tree.own / "cgroup.subtree_control").read_text() == "+memory+pids"


def test_a_container_s_mount_begins_further_down(tree: Tree) -> None:
    """Paths of groups are relative to the root of the mount."""
    tree.describe(group="/pod/system.slice/llama-router.service", root="/pod")
    groups = tree.adopt()
    assert groups is not None
    assert groups.path == tree.own


@pytest.mark.parametrize("group", ["/elsewhere/../x", "/other"])
def test_a_group_outside_of_the_mount_is_left_alone(tree: Tree, group: str) -> None:
    """What cannot be found is not guessed."""
    tree.describe(group=group, root="/pod")
    assert tree.adopt() is None


def test_memory_that_cannot_be_counted_costs_only_the_count(tree: Tree) -> None:
    """Without the controller each backend still has its group."""
    (tree.own / "cgroup.subtree_control").unlink()
    groups = tree.adopt()
    assert groups is not None
    assert not groups.counts_memory
    assert groups.make(1, "a") is not None


def test_a_group_that_cannot_be_divided_is_not_used(tree: Tree) -> None:
    """If the router cannot move, everything is as without delegation."""
    (tree.own / "router" / "cgroup.procs").unlink()
    assert tree.adopt() is None


def test_each_run_has_a_group_of_its_own(tree: Tree) -> None:
    """Whatever a model is called, its group is one folder below ours."""
    groups = tree.adopt()
    assert groups is not None
    names = ["a", "a", "owner/repo:Q4", "..", "ä" * 300]
    made = [groups.make(serial, name) for serial, name in enumerate(names)]
    paths = [group.path for group in made if group is not None]
    assert len(set(paths)) == len(names)
    assert {path.parent for path in paths} == {tree.own}
    assert paths[2].name == "backend-2-owner_repo_Q4"


def test_empty_groups_of_an_earlier_life_are_removed(tree: Tree) -> None:
    """Others are left: another router may have them."""
    (tree.own / "backend-1-a").mkdir()
    (tree.own / "backend-2-b").mkdir()
    (tree.own / "backend-2-b" / "cgroup.procs").touch()  # the kernel's say that it is busy
    assert tree.adopt() is not None
    assert not (tree.own / "backend-1-a").exists()
    assert (tree.own / "backend-2-b").exists()


def test_memory_is_what_the_kernel_counts(tmp_path: Path) -> None:
    """A number where there is one; None on kernels that do not say."""
    group = ControlGroup(tmp_path)
    assert (group.memory_bytes(), group.peak_bytes()) == (None, None)
    (tmp_path / "memory.current").write_text("1048576\n")
    (tmp_path / "memory.peak").write_text("max\n")
    assert (group.memory_bytes(), group.peak_bytes()) == (1048576, None)


def test_who_is_there(tmp_path: Path) -> None:
    """Members are process ids; populated says whether any lives."""
    group = ControlGroup(tmp_path)
    assert group.members() == set()
    assert not group.populated()
    (tmp_path / "cgroup.procs").write_text("12\n13\n")
    (tmp_path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert group.members() == {12, 13}
    assert group.populated()


def test_an_oom_kill_in_a_backend_s_group_is_known_as_such(tree: Tree, tmp_path: Path) -> None:
    """The kernel counts it in the group of the backend that it killed."""
    groups = tree.adopt()
    assert groups is not None
    group = groups.make(1, "a")
    assert group is not None
    (group.path / "memory.events").write_text("low 0\noom 0\noom_kill 0\n")
    proc = tmp_path / "proc"
    (proc / "77").mkdir()
    (proc / "77" / "cgroup").write_text(f"0::/{group.path.relative_to(tree.mount)}\n")
    kernel = OomDetector(proc=proc, cgroups=tree.mount, log=tmp_path / "none")
    before = kernel.counters(77)
    assert not kernel.has_killed(77, before, since_s=0)
    (group.path / "memory.events").write_text("low 0\noom 1\noom_kill 3\n")
    assert kernel.has_killed(77, before, since_s=0)
