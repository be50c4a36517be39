"""Folders of models are watched: a scan follows what changes in them, and nothing else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from inotify_simple import Event, INotify, flags

from llama_router.config import models_folders
from llama_router.config.models_folders import (
    ModelsFolders,
    concerns_models,
    kind_in,
    may_change_elsewhere,
)
from llama_router.core.config.specs import RouterSpec
from llama_router.logs.events import log
from tests.limits import LIMIT_S


class World:
    """The settings and the scans of a router that watches.

    Attributes:
        router: The settings in force.
        scans: The number of scans so far.
    """

    def __init__(self, *folders: Path) -> None:
        self.router = RouterSpec(models_dirs=tuple(map(str, folders)))
        self.scans = 0
        self._scanned = trio.Event()
        self._reloaded = trio.Event()

    async def reloaded(self) -> None:
        await self._reloaded.wait()

    def reload(self, *folders: Path) -> None:
        self.router = attrs.evolve(self.router, models_dirs=tuple(map(str, folders)))
        self._reloaded.set()
        self._reloaded = trio.Event()

    async def scan(self) -> None:
        self.scans += 1
        self._scanned.set()
        self._scanned = trio.Event()

    async def change(self, act: Callable[[], object]) -> None:
        """Change something, and wait for the scan that follows."""
        scanned = self._scanned
        act()
        with trio.fail_after(LIMIT_S):
            await scanned.wait()


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Changes settle soon."""
    monkeypatch.setattr(models_folders, "SETTLE_S", 0.05)


@pytest.fixture
def watched(monkeypatch) -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Return a function that does something, and waits until the folders are watched."""
    events = [trio.Event()]

    def note(event: str, **_: object) -> None:
        assert event == "models.watched"
        events[0].set()

    async def until_watched(act: Callable[[], object]) -> None:
        events[0] = trio.Event()
        act()
        with trio.fail_after(LIMIT_S):
            await events[0].wait()

    monkeypatch.setattr(log, "debug", note)
    return until_watched


@pytest.fixture
async def watch(nursery, watched) -> AsyncIterator[Callable[..., Any]]:
    """Return a function that watches folders."""

    async def begin(*folders: Path) -> World:
        world = World(*folders)
        folders_ = ModelsFolders(lambda: world.router, world.reloaded, world.scan)
        await watched(lambda: nursery.start_soon(folders_.run))
        return world

    yield begin
    nursery.cancel_scope.cancel()


async def test_a_model_that_comes_or_goes_is_noticed(watch, tmp_path) -> None:
    """Written, moved in, linked, deleted, each leads to a scan."""
    world = await watch(tmp_path)
    for change in (
        lambda: (tmp_path / "a.gguf").write_bytes(b"GGUF"),
        lambda: (tmp_path / "b.GGUF").symlink_to("a.gguf"),
        lambda: (tmp_path / "a.gguf").rename(tmp_path / "c.gguf"),
        (tmp_path / "c.gguf").unlink,
    ):
        await world.change(change)
    assert world.scans == 4


async def test_other_files_cause_no_scan(watch, tmp_path) -> None:
    """Such as the parts of a download, which grow for hours."""
    world = await watch(tmp_path)
    (tmp_path / "a.gguf.part").write_bytes(b"x")
    (tmp_path / "readme.txt").write_bytes(b"x")
    await world.change(lambda: (tmp_path / "a.gguf").write_bytes(b"x"))
    assert world.scans == 1


async def test_many_changes_are_one_scan(watch, tmp_path) -> None:
    """A collection is copied file by file; what comes later is another."""
    world = await watch(tmp_path)
    await world.change(
        lambda: [(tmp_path / f"{number}.gguf").write_bytes(b"x") for number in range(50)]
    )
    await world.change(lambda: (tmp_path / "last.gguf").write_bytes(b"x"))
    assert world.scans == 2


async def test_a_new_folder_is_watched_too(watch, tmp_path) -> None:
    """With what is in it by then, and what comes later."""
    world = await watch(tmp_path)
    for path in (tmp_path / "user" / "repo", tmp_path / "user" / "repo" / "deep"):
        await world.change(partial(path.mkdir, parents=True))
    await world.change(lambda: (tmp_path / "user" / "repo" / "deep" / "a.gguf").write_bytes(b"x"))
    assert world.scans == 3


async def test_links_in_a_ring_end(watch, tmp_path) -> None:
    """A folder is watched once."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    world = await watch(tmp_path)
    await world.change(lambda: (tmp_path / "a" / "x.gguf").write_bytes(b"x"))
    assert world.scans == 1


async def test_other_folders_are_watched_after_a_reload(watch, watched, tmp_path) -> None:
    """And the former ones no more."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    world = await watch(old)
    await watched(lambda: world.reload(new))
    (old / "a.gguf").write_bytes(b"x")
    await world.change(lambda: (new / "a.gguf").write_bytes(b"x"))
    assert world.scans == 1


@pytest.mark.parametrize("cause", ["remote", "limit"])
async def test_folders_that_cannot_be_watched_are_looked_at(
    watch, tmp_path, monkeypatch, cause
) -> None:
    """A share, or one folder more than the kernel allows."""
    monkeypatch.setattr(models_folders, "POLL_S", 0.02)
    if cause == "remote":
        monkeypatch.setattr(models_folders, "_kind_of_file_system", lambda _: "nfs4")
    else:
        monkeypatch.setattr(INotify, "add_watch", _no_space)
    world = await watch(tmp_path)
    await world.change(lambda: (tmp_path / "a.gguf").write_bytes(b"x"))
    assert world.scans == 1


def _no_space(*_: object) -> int:
    raise OSError(28, os.strerror(28))


async def test_a_folder_that_comes_later_is_watched(watch, tmp_path, monkeypatch) -> None:
    """A disk that is mounted after the start."""
    monkeypatch.setattr(models_folders, "POLL_S", 0.02)
    folder = tmp_path / "later"
    world = await watch(folder)
    await world.change(folder.mkdir)
    await world.change(lambda: (folder / "a.gguf").write_bytes(b"x"))
    assert world.scans == 2


@pytest.mark.parametrize(
    ("mask", "name", "concerns"),
    [
        (flags.CLOSE_WRITE, "a.gguf", True),
        (flags.CLOSE_WRITE, "A.GGUF", True),
        (flags.CLOSE_WRITE, "a.gguf.part", False),
        (flags.CREATE | flags.ISDIR, "repo", True),
        (flags.DELETE_SELF, "", True),
        (flags.Q_OVERFLOW, "", True),
    ],
)
def test_what_concerns_models(mask, name, concerns) -> None:
    """Models by their names, folders, and what may hide either."""
    assert concerns_models(Event(1, mask, 0, name)) is concerns


def test_the_file_system_of_a_folder() -> None:
    """The longest mount point counts; octal escapes are read."""
    mounts = [
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw",
        "30 22 0:40 / /mnt/my\\040share rw shared:1 - nfs4 host:/x rw",
        "31 22 0:41 / /mnt rw - fuse.sshfs x rw",
        "nonsense",
    ]
    assert kind_in(mounts, "/home/a") == "ext4"
    assert kind_in(mounts, "/mnt/my share/models") == "nfs4"
    assert kind_in(mounts, "/mnt/other") == "fuse.sshfs"
    assert kind_in([], "/") == ""
    assert may_change_elsewhere("fuse.sshfs")
    assert not may_change_elsewhere("ext4")
