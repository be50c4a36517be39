"""Checks of the files that a model needs: the fault that makes one unusable."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import Final

from ..core.config.file_needs import FileFault, FileKind, FileNeed
from .looks import may_access

_NOTHING_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}

_MODE: Final = {FileKind.PROGRAM: os.X_OK, FileKind.FOLDER: os.X_OK}


def first_fault(needs: Iterable[FileNeed]) -> FileFault | None:
    """Return the first of *needs* that is unusable, with its fault; or None. Blocks."""
    for need in needs:
        if (reason := fault_of(need)) is not None:
            return FileFault(need, reason)
    return None


def fault_of(need: FileNeed) -> str | None:
    """Return the certain fault of the file *need*; None if there is none. Blocks on files.

    Never raises: a file that is inaccessible for another reason than its absence or its rights
    may be usable; the program that opens it reports the fault.
    """
    try:
        mode = os.stat(need.path).st_mode  # noqa: PTH116 -- there may be thousands
        allowed = may_access(need.path, _MODE.get(need.kind, os.R_OK))
    except PermissionError:
        return "cannot be reached by this user"
    except OSError as exc:
        return "is not there" if exc.errno in _NOTHING_THERE else None
    except ValueError:  # no file can have such a name
        return "is not there"
    return _fault_in(mode, need.kind, allowed=allowed)


def _fault_in(mode: int, kind: FileKind, *, allowed: bool) -> str | None:
    if kind is FileKind.FOLDER:
        return None if stat.S_ISDIR(mode) else "is not a folder"
    if kind is not FileKind.MODEL and stat.S_ISDIR(mode):
        return "is a folder, not a file"
    if allowed:
        return None
    return f"is not {'executable' if kind is FileKind.PROGRAM else 'readable'} for this user"
