"""Watches the folders of ``models_dirs``: models that come and go there are found by themselves.

inotify tells at once of changes on a local file system. It tells nothing of what another machine
does on a share, nor of a disk that is mounted, and the kernel limits the number of watches; so
folders on such file systems, and those that cannot be watched, are looked at every `POLL_S`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, NoReturn

import attrs
import trio
from inotify_simple import Event, INotify, flags

from ..core.config.specs import RouterSpec
from ..logs.events import log
from ..threads import ThreadRefusedError, in_thread

#: Pause between two looks at folders that are not watched, in seconds.
POLL_S: Final = 30.0

#: Time without a change after which a scan begins, in seconds: a collection is copied file by file.
SETTLE_S: Final = 1.0

#: File systems whose changes may be made elsewhere. Every one of FUSE may be such.
_REMOTE: Final = frozenset(("9p", "afs", "ceph", "cifs", "nfs", "nfs4", "smb3", "virtiofs"))

#: Ends of the names of models' files.
_ENDINGS: Final = (".gguf", ".llamafile", ".safetensors", "config.json")

_CHANGES: Final = (
    flags.CLOSE_WRITE
    | flags.CREATE
    | flags.DELETE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.DELETE_SELF
    | flags.MOVE_SELF
)

#: Most levels of folders, against loops of links.
_MAX_DEPTH: Final = 32

Mark = tuple[tuple[str, int, int], ...]
"""Files and folders with their times and sizes: another mark means that something changed."""


def concerns_models(event: Event) -> bool:
    """Return whether a scan may find something else after *event*."""
    if event.mask & (flags.ISDIR | flags.DELETE_SELF | flags.MOVE_SELF | flags.Q_OVERFLOW):
        return True
    return str(event.name).lower().endswith(_ENDINGS)


def may_change_elsewhere(kind: str) -> bool:
    """Return whether inotify misses changes on a file system of that *kind*."""
    return kind in _REMOTE or kind.startswith("fuse")


class ModelsFolders:
    """Requests a scan when something changes in the folders of ``models_dirs``.

    Args:
        router: Returns the settings in force.
        reloaded: Returns once the settings may be others.
        scan: Scans, and reports its errors itself.
    """

    def __init__(
        self,
        router: Callable[[], RouterSpec],
        reloaded: Callable[[], Awaitable[None]],
        scan: Callable[[], Awaitable[None]],
    ) -> None:
        self._router = router
        self._reloaded = reloaded
        self._scan = scan

    async def run(self) -> NoReturn:
        """Watch until cancelled."""
        while True:
            folders = self._router().models_dirs
            async with trio.open_nursery() as nursery:
                for folder in folders:
                    # Each by itself: one on a file system that hangs holds up no other.
                    nursery.start_soon(self._watch, Path(folder))
                while self._router().models_dirs == folders:
                    await self._reloaded()
                nursery.cancel_scope.cancel()

    async def _watch(self, folder: Path) -> None:
        with ExitStack() as stack:
            inotify: INotify | None = None
            try:
                inotify = stack.enter_context(INotify(nonblocking=True))
            except OSError as exc:  # too many of them, or no descriptor is left
                _log_unwatched(folder, exc)
            watches = _Watches(inotify, folder)
            # Nothing tells when there is a thread again.
            while not await _on_thread(watches.begin, otherwise=False):  # noqa: ASYNC110
                await trio.sleep(POLL_S)
            log.debug(
                "models.watched",
                folder=str(folder),
                folders=len(watches.paths),
                polled=bool(watches.polled),
            )
            while True:
                if await watches.changed():
                    await self._scan()


async def _on_thread(function: Callable[[], bool], *, otherwise: bool) -> bool:
    """Return what *function*, which blocks on files, does; *otherwise* if no thread is left."""
    try:
        # Abandoned, because a file system that hangs must not hold up the end of the router.
        return await in_thread(function, abandon_on_cancel=True)
    except ThreadRefusedError:
        return otherwise


def _log_unwatched(folder: Path, exc: OSError) -> None:
    log.warning("models.unwatched", folder=str(folder), reason=exc.strerror, poll_s=POLL_S)


@attrs.define
class _Watches:
    """The watches of one folder and all below it.

    Attributes:
        inotify: Tells of changes; None if there is none.
        folder: The folder that was named.
        polled: The parts of it that are looked at instead.
        paths: The folder of each watch.
        mark: The state of *polled*, and whether the folder is there.
    """

    inotify: INotify | None
    folder: Path
    polled: list[Path] = attrs.field(factory=list)
    paths: dict[int, Path] = attrs.field(factory=dict)
    mark: Mark = ()

    def begin(self) -> bool:
        """Watch what is there now; return True. Blocks on files."""
        self.polled.clear()
        self.add(self.folder)
        self.mark = self.look()
        return True

    def add(self, folder: Path) -> None:
        """Watch *folder* and all below it; poll it if that is not possible. Blocks on files."""
        if not os.path.isdir(folder):  # noqa: PTH112 -- Path.is_dir raises if it may not look
            return  # `look` sees when it comes
        if self.inotify is None or may_change_elsewhere(_kind_of_file_system(folder)):
            self.polled.append(folder)
            return
        try:
            for path in _folders_below(folder):
                self.paths[self.inotify.add_watch(path, _CHANGES | flags.ONLYDIR)] = path
        except OSError as exc:  # too many watches, or a file system without inotify
            _log_unwatched(folder, exc)
            self.polled.append(folder)

    async def changed(self) -> bool:
        """Wait for a change, or for a time; return whether there was a change, and it is over."""
        concerns = await self._told()
        if await _on_thread(lambda: self.look() != self.mark, otherwise=False):
            await _on_thread(self.begin, otherwise=False)
            concerns = True
        return concerns

    async def _told(self) -> bool:
        """Wait until inotify has told of changes, and of no more, or for `POLL_S`."""
        if self.inotify is None:
            await trio.sleep(POLL_S)
            return False
        concerns = False
        with trio.move_on_after(POLL_S) as quiet:
            while True:
                await trio.lowlevel.wait_readable(self.inotify.fileno())
                concerns |= await self._take(self.inotify.read(timeout=0))
                if concerns:
                    quiet.deadline = trio.current_time() + SETTLE_S
        return concerns

    async def _take(self, events: Sequence[Event]) -> bool:
        for event in events:
            if event.mask & flags.ISDIR and event.mask & (flags.CREATE | flags.MOVED_TO):
                parent = self.paths.get(event.wd)
                if parent is not None:
                    await _on_thread(partial(self._add_new, parent / event.name), otherwise=False)
        return any(map(concerns_models, events))

    def _add_new(self, folder: Path) -> bool:
        self.add(folder)
        return True

    def look(self) -> Mark:
        """Return the state of what inotify does not tell. Blocks on files."""
        below = (entry for folder in self.polled for entry in _entries_below(folder))
        return (_entry(self.folder), *below)


def _entry(path: Path) -> tuple[str, int, int]:
    """Return what identifies a named folder: another disk mounted there is another one."""
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), found.st_dev, found.st_ino


def _entries_below(folder: Path) -> Iterator[tuple[str, int, int]]:
    for path in _folders_below(folder):
        try:
            with os.scandir(path) as entries:
                names = [entry for entry in entries if entry.name.lower().endswith(_ENDINGS)]
                for entry in sorted(names, key=lambda each: each.name):
                    found = entry.stat()
                    yield entry.path, found.st_mtime_ns, found.st_size
        except OSError:
            continue  # it has just gone, or may not be read


def _folders_below(folder: Path) -> Iterator[Path]:
    """Yield *folder* and all folders below it, links to folders included, each once."""
    seen: set[tuple[int, int]] = set()
    level = [folder]
    for _ in range(_MAX_DEPTH):
        below: list[Path] = []
        for path in level:
            try:
                found = path.stat()
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
                with os.scandir(path) as entries:
                    below += sorted(Path(entry.path) for entry in entries if entry.is_dir())
            except OSError:
                continue  # it has just gone, or may not be read
            yield path
        level = below


def _kind_of_file_system(folder: Path) -> str:
    """Return the kind of file system that *folder* is on. Source: proc_pid_mountinfo(5)."""
    try:
        text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        real = folder.resolve()
    except OSError:
        return ""
    return kind_in(text.splitlines(), str(real))


def kind_in(mounts: Iterable[str], path: str) -> str:
    """Return the kind of the file system that has *path*; empty if none is known. Pure."""
    best, kind = "", ""
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields, told = before.split(" "), after.split(" ")
        if len(fields) < 5 or not told[0]:
            continue
        point = fields[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two at one place, the later one counts
            best, kind = point, told[0]
    return kind
