"""Scans caches and folders for GGUF files and reads their headers. Blocks on files."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from ..files import Unseen, list_entries, look, unseen
from ..files.stalls import look_at
from .caches import (
    Caches,
    Manifest,
    ScanWarnings,
    find_repositories,
    names_in,
    read_manifests,
)
from .discovery import naming
from .discovery.found import Collection, FoundFile, Header, ScanWarning
from .gguf import GgufError, read_header

_Identity = tuple[int, int]


@attrs.frozen
class Scan:
    """The result of a scan.

    Attributes:
        collections: The files.
        warnings: Problems with single files and folders.
        unreadable: Folders and files that could not be read: models found there before may
            still exist.
    """

    collections: tuple[Collection, ...]
    warnings: tuple[ScanWarning, ...]
    unreadable: tuple[str, ...] = ()


def scan(caches: Caches | None, folders: Iterable[Path]) -> Scan:
    """Return the GGUF files in *caches* and *folders*, at any depth.

    Args:
        caches: Those of llama.cpp and huggingface_hub; None leaves them out.
        folders: Folders of the user; their files come after those of the caches.
    """
    scanner = _Scanner()
    collections: list[Collection] = []
    if caches is not None:
        for hub in caches.hubs:
            collections += scanner.hub(hub)
        collections += scanner.flat(caches.flat)
    collections += map(scanner.folder, folders)
    return Scan(tuple(collections), tuple(scanner.warnings), tuple(scanner.warnings.unreadable))


class _Scanner:
    def __init__(self) -> None:
        self.warnings = ScanWarnings()
        # A file may have several names: snapshots share what did not change.
        self._headers: dict[_Identity, Header | str] = {}

    def hub(self, hub: Path) -> Iterator[Collection]:
        """Yield one collection per repository."""
        for repository in find_repositories(hub, self.warnings):
            files = [
                file
                for snapshot in repository.snapshots
                for file in self._files(snapshot, in_repo=True)
            ]
            if files:
                yield Collection(files=tuple(files), repo=repository.repo)

    def flat(self, folder: Path) -> Iterator[Collection]:
        """Yield one collection per manifest, and one of the files that are in no manifest."""
        names = names_in(folder, self.warnings)
        paths = {name: str(folder / name) for name in names if naming.is_gguf(name)}
        left = dict.fromkeys(paths)
        for manifest in read_manifests(folder, names, self.warnings):
            repo_paths = _repo_paths(manifest, paths)
            for name in repo_paths:
                left.pop(name, None)
            files = [
                attrs.evolve(file, tag=manifest.tag)
                for name, repo_path in repo_paths.items()
                if (file := self._file(paths[name], repo_path, in_repo=True))
            ]
            if files:
                yield Collection(files=tuple(files), repo=manifest.repo)
        loose = (self._file(paths[name], name) for name in left)
        yield Collection(files=tuple(file for file in loose if file))

    def folder(self, folder: Path) -> Collection:
        """Return all files in *folder*."""
        found = look(folder)
        if isinstance(found, Unseen) and not found.is_missing:
            self.warnings.add_unreadable(folder, found)
            return Collection(files=())
        if isinstance(found, Unseen) or not stat.S_ISDIR(found.st_mode):
            self.warnings.add(folder, "there is no such folder")
        return Collection(files=tuple(self._files(folder)))

    def _files(self, root: Path, *, in_repo: bool = False) -> Iterator[FoundFile]:
        """Yield the GGUF files below *root*, in order; each folder is visited once.

        Links are followed last, so that a file gets its own name if it has one here.
        """
        waiting: list[tuple[str, str]] = [(str(root), "")]
        linked_folders: deque[tuple[str, str]] = deque()
        linked_files: list[tuple[str, str]] = []
        visited: set[_Identity] = set()
        while waiting or linked_folders:
            folder, prefix = waiting.pop() if waiting else linked_folders.popleft()
            folders: list[tuple[str, str]] = []
            for entry in self._listed(folder, visited):
                relative_path = f"{prefix}/{entry.name}" if prefix else entry.name
                is_folder, is_link = self._nature_of(entry)
                if is_folder:
                    if not entry.name.startswith("."):
                        (linked_folders if is_link else folders).append((entry.path, relative_path))
                elif not naming.is_gguf(entry.name):
                    continue
                elif is_link:
                    linked_files.append((entry.path, relative_path))
                elif file := self._file(entry.path, relative_path, in_repo=in_repo):
                    yield file
            waiting += reversed(folders)
        for path, relative_path in linked_files:
            if file := self._file(path, relative_path, in_repo=in_repo):
                yield file

    def _listed(self, folder: str, visited: set[_Identity]) -> list[os.DirEntry[str]]:
        """Return the entries of *folder*, by name; none if it was *visited* already."""
        found = look(folder)
        if not isinstance(found, Unseen):
            if (identity := (found.st_dev, found.st_ino)) in visited:
                return []
            visited.add(identity)
            listing = list_entries(folder)
            if not isinstance(listing, Unseen):
                return listing
            found = listing
        self.warnings.add_unreadable(folder, found)
        return []

    def _nature_of(self, entry: os.DirEntry[str]) -> tuple[bool, bool]:
        """Return whether *entry* is a folder, and whether it is a link."""
        try:
            with look_at(entry.path):
                return entry.is_dir(), entry.is_symlink()
        except OSError as exc:
            if not (entry.name.startswith(".") or naming.is_gguf(entry.name)):
                self.warnings.add_unreadable(entry.path, unseen(exc))
            return False, True

    def _file(self, path: str, relative_path: str, *, in_repo: bool = False) -> FoundFile | None:
        """Return the file with its header; None if it does not exist."""
        found = look(path)
        if isinstance(found, Unseen):
            if found.is_missing and not found.is_circle:
                return None  # a link to a file that was removed
            if not found.is_missing:
                self.warnings.unreadable.append(path)
            fault = f"it cannot be read: {found.reason}"
            return FoundFile(path=path, relative_path=relative_path, fault=fault)
        file = FoundFile(
            path=path,
            relative_path=relative_path,
            size_bytes=found.st_size,
            identity=(found.st_dev, found.st_ino),
        )
        if not stat.S_ISREG(found.st_mode):
            return attrs.evolve(file, fault="it is not a file")
        name = file.name
        part = naming.part_of(name)
        if naming.is_side_file(name) or (part is not None and part.number != 1):
            return file  # its header is not needed
        # The id of a model of the hub ends in its quantization. If the file's name does not
        # contain it, the end of the header may.
        whole = in_repo and naming.quant_of(relative_path) is None
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


def _repo_paths(manifest: Manifest, paths: dict[str, str]) -> dict[str, str]:
    """Return the files of *manifest* in the flat cache: name to path in the repository."""
    repo_paths = {manifest.gguf: manifest.gguf_repo_path}
    if part := naming.part_of(manifest.gguf):
        folder = manifest.gguf_repo_path.rpartition("/")[0]
        repo_part = naming.part_of(manifest.gguf_repo_path.rpartition("/")[2])
        stem = repo_part.stem if repo_part else part.stem
        for name in paths:
            other = naming.part_of(name)
            if other and (other.stem, other.count) == (part.stem, part.count):
                file = f"{stem}-{other.number:05}-of-{other.count:05}.gguf"
                repo_paths[name] = f"{folder}/{file}" if folder else file
    if manifest.mmproj is not None and manifest.mmproj_repo_path is not None:
        repo_paths[manifest.mmproj] = manifest.mmproj_repo_path
    return {name: path for name, path in repo_paths.items() if name in paths}
