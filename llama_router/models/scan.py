"""Walks caches and folders, and reads the header of every GGUF file in them. Blocks on files."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from ..files import Unseen, list_entries, look, unseen
from ..stalls import look_at
from .caches import Caches, Doubts, Manifest, find_repositories, names_in, read_manifests
from .discovery import naming
from .discovery.found import Collection, Doubt, FoundFile
from .discovery.header import Header
from .gguf import GgufError, read_header

_Identity = tuple[int, int]


@attrs.frozen
class Scan:
    """What a scan found.

    Attributes:
        collections: The files.
        doubts: What is to be said about them.
        unseen: Where it could not look: what was there before may be there still.
    """

    collections: tuple[Collection, ...]
    doubts: tuple[Doubt, ...]
    unseen: tuple[str, ...] = ()


def scan(caches: Caches | None, folders: Iterable[Path]) -> Scan:
    """Look for GGUF files, at any depth.

    Args:
        caches: Those of llama.cpp and huggingface_hub, unless they are not wanted.
        folders: Of the user's own; their files come after those of the caches.
    """
    scanner = _Scanner()
    collections: list[Collection] = []
    if caches is not None:
        for hub in caches.hubs:
            collections += scanner.hub(hub)
        collections += scanner.flat(caches.flat)
    collections += map(scanner.folder, folders)
    return Scan(tuple(collections), tuple(scanner.doubts), tuple(scanner.doubts.unseen))


class _Scanner:
    def __init__(self) -> None:
        self.doubts = Doubts()
        # A file may have several names: snapshots share what did not change.
        self._headers: dict[_Identity, Header | str] = {}

    def hub(self, hub: Path) -> Iterator[Collection]:
        """Yield one collection per repository."""
        for repository in find_repositories(hub, self.doubts):
            files = [
                file
                for snapshot in repository.snapshots
                for file in self._files(snapshot, in_repo=True)
            ]
            if files:
                yield Collection(files=tuple(files), repo=repository.repo)

    def flat(self, folder: Path) -> Iterator[Collection]:
        """Yield one collection per manifest, and one of what no manifest names."""
        names = names_in(folder, self.doubts)
        paths = {name: str(folder / name) for name in names if naming.is_gguf(name)}
        left = dict.fromkeys(paths)
        for manifest in read_manifests(folder, names, self.doubts):
            insides = _insides(manifest, paths)
            for name in insides:
                left.pop(name, None)
            files = [
                attrs.evolve(file, tag=manifest.tag)
                for name, inside in insides.items()
                if (file := self._file(paths[name], inside, in_repo=True))
            ]
            if files:
                yield Collection(files=tuple(files), repo=manifest.repo)
        loose = (self._file(paths[name], name) for name in left)
        yield Collection(files=tuple(file for file in loose if file))

    def folder(self, folder: Path) -> Collection:
        """Return everything in *folder*."""
        found = look(folder)
        if isinstance(found, Unseen) and not found.is_missing:
            self.doubts.note_unseen(folder, found)
            return Collection(files=())
        if isinstance(found, Unseen) or not stat.S_ISDIR(found.st_mode):
            self.doubts.note(folder, "there is no such folder")
        return Collection(files=tuple(self._files(folder)))

    def _files(self, root: Path, *, in_repo: bool = False) -> Iterator[FoundFile]:
        """Yield the GGUF files below *root*, in order; links are followed, but in no circles.

        Links come last: a file is called by its own name, if it has one here.
        """
        waiting: list[tuple[str, str]] = [(str(root), "")]
        linked_folders: deque[tuple[str, str]] = deque()
        linked_files: list[tuple[str, str]] = []
        visited: set[_Identity] = set()
        while waiting or linked_folders:
            folder, inside = waiting.pop() if waiting else linked_folders.popleft()
            folders: list[tuple[str, str]] = []
            for entry in self._listed(folder, visited):
                below = f"{inside}/{entry.name}" if inside else entry.name
                is_folder, is_link = self._nature_of(entry)
                if is_folder:
                    if not entry.name.startswith("."):
                        (linked_folders if is_link else folders).append((entry.path, below))
                elif not naming.is_gguf(entry.name):
                    continue
                elif is_link:
                    linked_files.append((entry.path, below))
                elif file := self._file(entry.path, below, in_repo=in_repo):
                    yield file
            waiting += reversed(folders)
        for path, below in linked_files:
            if file := self._file(path, below, in_repo=in_repo):
                yield file

    def _listed(self, folder: str, visited: set[_Identity]) -> list[os.DirEntry[str]]:
        """Return what is in *folder*, by name; nothing if it was *visited* already."""
        found = look(folder)
        if not isinstance(found, Unseen):
            if (identity := (found.st_dev, found.st_ino)) in visited:
                return []
            visited.add(identity)
            listing = list_entries(folder)
            if not isinstance(listing, Unseen):
                return listing
            found = listing
        self.doubts.note_unseen(folder, found)
        return []

    def _nature_of(self, entry: os.DirEntry[str]) -> tuple[bool, bool]:
        """Return whether *entry* is a folder, and whether it is a link."""
        try:
            with look_at(entry.path):
                return entry.is_dir(), entry.is_symlink()
        except OSError as exc:
            if not (entry.name.startswith(".") or naming.is_gguf(entry.name)):
                self.doubts.note_unseen(entry.path, unseen(exc))
            return False, True

    def _file(self, path: str, inside: str, *, in_repo: bool = False) -> FoundFile | None:
        """Return the file with its header; None if it is not there."""
        found = look(path)
        if isinstance(found, Unseen):
            if found.is_missing and not found.is_circle:
                return None  # a link to a file that was removed
            if not found.is_missing:
                self.doubts.unseen.append(path)
            return FoundFile(path=path, inside=inside, fault=f"it cannot be read: {found.reason}")
        file = FoundFile(
            path=path,
            inside=inside,
            size_bytes=found.st_size,
            identity=(found.st_dev, found.st_ino),
        )
        if not stat.S_ISREG(found.st_mode):
            return attrs.evolve(file, fault="it is not a file")
        name = file.name
        part = naming.part_of(name)
        if naming.is_side_file(name) or (part is not None and part.number != 1):
            return file  # nobody asks what it says
        # The name of a model of the hub ends in its quantization. Where the file's name
        # does not say it, the header may, far behind.
        whole = in_repo and naming.quant_of(inside) is None
        identity = (found.st_dev, found.st_ino)
        if identity not in self._headers:
            try:
                self._headers[identity] = read_header(path, whole=whole)
            except GgufError as exc:
                self._headers[identity] = str(exc)
        known = self._headers[identity]
        if isinstance(known, str):
            return attrs.evolve(file, fault=known)
        return attrs.evolve(file, header=known)


def _insides(manifest: Manifest, paths: dict[str, str]) -> dict[str, str]:
    """Return the files in the flat cache that *manifest* means: name to path in its repository."""
    insides = {manifest.gguf: manifest.gguf_inside}
    if part := naming.part_of(manifest.gguf):
        folder = manifest.gguf_inside.rpartition("/")[0]
        inside = naming.part_of(manifest.gguf_inside.rpartition("/")[2])
        stem = inside.stem if inside else part.stem
        for name in paths:
            other = naming.part_of(name)
            if other and (other.stem, other.count) == (part.stem, part.count):
                below = f"{stem}-{other.number:05}-of-{other.count:05}.gguf"
                insides[name] = f"{folder}/{below}" if folder else below
    if manifest.mmproj is not None and manifest.mmproj_inside is not None:
        insides[manifest.mmproj] = manifest.mmproj_inside
    return {name: inside for name, inside in insides.items() if name in paths}
