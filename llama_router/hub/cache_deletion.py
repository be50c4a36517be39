"""Deletion of models from the hub cache, and of what interrupted downloads have left there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from ..files import is_missing
from .cache import CachedModel, RepoCache, files_in, size_of
from .references import is_side_file

#: Blobs that may be leftovers: complete ones without a link, and partial ones of this program.
_LEFTOVER: Final = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})(\.llama-router\.incomplete)?")

#: Suffix of a link that is being deleted.
_DELETED_SUFFIX: Final = ".llama-router.removed"


def remove(cache: RepoCache, model: CachedModel) -> int:
    """Delete a model from every snapshot; return the number of freed bytes.

    With the last model of the repository, its projector is deleted, too, unless a download
    is running, and the folder, unless it has files that belong to no model.

    Raises:
        OSError: if a file cannot be deleted. If it is a link, all links are restored; if it
            is a blob, the model is deleted and the blob remains as a leftover.
    """
    names = _names_of(cache, model)
    contents = {name.resolve(): size_of(name) for name in names if not is_missing(name)}
    _unlink_all(names)
    for snapshot in cache.snapshots():
        _prune(snapshot)
    freed_bytes = _delete_blobs(cache, contents) + remove_leftovers(cache)
    if not cache.snapshots():
        for ref in (cache.folder / "refs").glob("*"):
            ref.unlink(missing_ok=True)
        _prune(cache.folder)
    return freed_bytes


def deleted_paths(cache: RepoCache, model: CachedModel | None) -> list[Path]:
    """Return every path that `remove` deletes, or `remove_leftovers` if *model* is None."""
    names = [] if model is None else _names_of(cache, model)
    contents = [name.resolve() for name in names if not is_missing(name)]
    named = {link.resolve() for link in _links(cache)}
    return [*names, *contents, *(b for b in _leftovers(cache) if b.resolve() not in named)]


def _names_of(cache: RepoCache, model: CachedModel) -> list[Path]:
    """Return the links in all snapshots that `remove` deletes with *model*."""
    paths = {part.path for part in model.model.parts}
    if len(cache.models()) == 1 and not _is_fetching(cache):
        paths |= {f.path for s in cache.snapshots() for f in files_in(s) if is_side_file(f.path)}
    names = (snapshot / path for snapshot in cache.snapshots() for path in sorted(paths))
    return [name for name in names if os.path.lexists(name)]


def _links(cache: RepoCache) -> Iterator[Path]:
    """Yield every link in all snapshots.

    Raises:
        OSError: if a folder cannot be read: what its links point to is then not known.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, folders, files in os.walk(cache.folder / "snapshots", onerror=fail):
        for name in (*folders, *files):
            if (link := Path(folder, name)).is_symlink():
                yield link


def _leftovers(cache: RepoCache) -> list[Path]:
    """Return the blobs that are leftovers if no snapshot links to them."""
    return [b for b in (cache.folder / "blobs").glob("*") if _LEFTOVER.fullmatch(b.name)]


@contextlib.contextmanager
def _excluding_downloads(cache: RepoCache) -> Iterator[bool]:
    """Yield True, and let no download begin meanwhile; yield False if one is running."""
    with cache.users_path().open("a") as users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _is_fetching(cache: RepoCache) -> bool:
    """Return whether a download is running: it may need the side files in the cache."""
    if not cache.folder.is_dir():
        return False
    with _excluding_downloads(cache) as excluded:
        return not excluded


def remove_leftovers(cache: RepoCache) -> int:
    """Delete the files of unfinished downloads, unless one is running; return the bytes."""
    if not cache.folder.is_dir():
        return 0
    with _excluding_downloads(cache) as excluded:
        if not excluded:
            return 0
        for name in (cache.folder / "snapshots").rglob(f"*{_DELETED_SUFFIX}"):
            name.unlink(missing_ok=True)  # of an interrupted deletion
        return _delete_blobs(cache, {b.resolve(): size_of(b) for b in _leftovers(cache)})


def _delete_blobs(cache: RepoCache, contents: Mapping[Path, int]) -> int:
    """Delete those *contents* that no snapshot links to; return their bytes."""
    named = {link.resolve() for link in _links(cache)}
    gone = {content: size for content, size in contents.items() if content not in named}
    for content in gone:
        if content.is_relative_to(cache.folder.resolve()):
            content.unlink(missing_ok=True)
    return sum(gone.values())


def _unlink_all(names: Iterable[Path]) -> None:
    """Delete all *names*, or none.

    Raises:
        OSError: if one of them cannot be deleted.
    """
    moved: list[tuple[Path, Path]] = []
    try:
        for name in names:
            renamed = name.with_name(f".{name.name}{_DELETED_SUFFIX}")
            name.rename(renamed)  # a file that can be renamed can be deleted
            moved.append((name, renamed))
    except OSError:
        for name, renamed in moved:
            with contextlib.suppress(OSError):
                renamed.rename(name)
        raise
    for _, renamed in moved:
        renamed.unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Remove the empty folders below *folder*, then *folder* itself if it is empty."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()
