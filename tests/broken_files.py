"""Folders that cannot be looked into, in whatever way the system may say so."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: What a look at a path may fail with, though something may be there.
ERRNOS = (
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.ENAMETOOLONG,
    errno.EINVAL,
)

#: The system calls by which files are looked at.
_LOOKS = ("stat", "lstat", "scandir", "listdir", "open", "readlink", "mkdir", "access")


def break_folder(
    monkeypatch: pytest.MonkeyPatch, folder: Path, fail: Callable[[str], object]
) -> None:
    """Let every look at *folder*, and at what is below, call *fail* with the path first."""
    for name in _LOOKS:
        monkeypatch.setattr(os, name, _broken(getattr(os, name), str(folder), fail))


def break_with(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Let every look at *folder*, and at what is below, fail with the errno *number*."""

    def fail(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    break_folder(monkeypatch, folder, fail)


def _broken(real: Callable[..., Any], folder: str, fail: Callable[[str], object]) -> Any:
    def call(path: Any = ".", *args: Any, **keywords: Any) -> Any:
        if isinstance(path, str | os.PathLike):
            name = os.path.abspath(os.fspath(path))  # noqa: PTH100 -- resolve() would look at it
            if name == folder or name.startswith(folder + "/"):
                fail(name)
        return real(path, *args, **keywords)

    return call
