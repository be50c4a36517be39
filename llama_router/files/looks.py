"""Examines paths: each function (a *look*) returns its result, or an `Unseen` with the reason.

A look may fail in any way: a folder that may not be entered, a network file system that is
stale or gone, a broken disk, a name that no file can have. None of these raises here. Each
look can be given up (`files.stalls`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

import attrs

from .stalls import look_at

T = TypeVar("T")

_NOTHING_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}

#: The fault of a path that is no folder.
NOT_A_FOLDER: Final = "not a folder"

#: The right of users outside the owner's group to change a folder.
_WRITABLE_FOR_ALL: Final = stat.S_IWOTH


@attrs.frozen
class Unseen:
    """The failed look at a path.

    Attributes:
        reason: The system's words: "Permission denied".
        is_missing: The path certainly does not exist. Otherwise it may exist.
        is_circle: The path is a circle of symbolic links.
    """

    reason: str
    is_missing: bool = False
    is_circle: bool = False


def reason_of(error: OSError | ValueError) -> str:
    """Return the reason why a look at a path, or the use of a file, failed."""
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return "it is not a file name"


def unseen(error: OSError | ValueError) -> Unseen:
    """Return *error* as the result of a look."""
    if isinstance(error, OSError):
        missing = error.errno in _NOTHING_THERE
        return Unseen(reason_of(error), missing, is_circle=error.errno == errno.ELOOP)
    return Unseen(reason_of(error), is_missing=True)


def look(path: str | Path) -> os.stat_result | Unseen:
    """Return the status of *path*, links resolved. Blocks."""
    return _seen(path, lambda: os.stat(path))  # noqa: PTH116 -- it takes strings, too


def is_missing(path: str | Path) -> bool:
    """Return whether *path* certainly does not exist. Blocks.

    A path that is inaccessible may exist; opening it reports the fault.
    """
    found = look(path)
    return isinstance(found, Unseen) and found.is_missing


def is_folder(path: str | Path) -> bool:
    """Return whether *path* is certainly a folder, or a link to one. Blocks."""
    found = look(path)
    return not isinstance(found, Unseen) and stat.S_ISDIR(found.st_mode)


def may_be_folder(path: str | Path) -> bool:
    """Return whether *path* is a folder, or inaccessible. Blocks."""
    found = look(path)
    return not found.is_missing if isinstance(found, Unseen) else stat.S_ISDIR(found.st_mode)


def list_folder(path: str | Path) -> list[str] | Unseen:
    """Return the names in a folder, sorted. Blocks."""
    return _seen(path, lambda: sorted(os.listdir(path)))  # noqa: PTH208 -- the names are enough


def list_entries(path: str | Path) -> list[os.DirEntry[str]] | Unseen:
    """Return the entries of a folder, sorted by name. Blocks."""

    def listed() -> list[os.DirEntry[str]]:
        with os.scandir(path) as listing:
            return sorted(listing, key=lambda entry: entry.name)

    return _seen(path, listed)


def resolved(path: Path) -> Path | Unseen:
    """Return *path* without links. Blocks."""
    try:
        return _seen(path, path.resolve)
    except RuntimeError:  # Python 3.11 and 3.12, for a circle of links
        return Unseen(os.strerror(errno.ELOOP), is_missing=True)


def absolute(path: Path) -> Path:
    """Return *path* from the root on; a relative one as it is if the working directory is gone."""
    try:
        return path.absolute()
    except FileNotFoundError:
        return path


def folder_fault(path: str | Path) -> str | None:
    """Return the fault that prevents listing and entering a folder, or None. Blocks."""
    found = look(path)
    if isinstance(found, Unseen):
        return found.reason
    if not stat.S_ISDIR(found.st_mode):
        return NOT_A_FOLDER
    for each in (path, os.path.join(path, ".")):  # noqa: PTH118 -- Path drops the dot
        listed = list_entries(each)  # the second one needs the right to enter it, too
        if isinstance(listed, Unseen):
            return listed.reason
    return None


def home_folder(environ: Mapping[str, str]) -> Path | None:
    """Return the user's home folder; None if neither ``HOME`` nor the user database names one."""
    if home := environ.get("HOME"):
        return Path(home)
    try:
        return Path("~").expanduser()
    except RuntimeError:  # a container's user without an entry, for example
        return None


def may_access(path: str | Path, mode: int) -> bool:
    """Return whether this process may access *path* by *mode*, capabilities included. Blocks.

    `os.access` asks for the real user, without the capabilities that a service may have.
    """
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def is_open_to_all(path: Path) -> bool:
    """Return whether every user of the machine may write to this folder. Blocks."""
    found = look(path)
    return not isinstance(found, Unseen) and bool(found.st_mode & _WRITABLE_FOR_ALL)


def _seen(path: str | Path, find: Callable[[], T]) -> T | Unseen:
    try:
        with look_at(path):
            return find()
    except (OSError, ValueError) as exc:
        return unseen(exc)
