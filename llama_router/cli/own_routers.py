"""Finds the routers that this user runs by their processes, wherever their state directories are.

A router holds the lock of its state directory open, and its runtime file is beside that, unless
it could not be written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from ..runtime_file import LOCK, runtime_path

_PROC: Final = Path("/proc")

#: What the command line of a router has: the program, or the module.
_PROGRAMS: Final = (b"llama-router", b"llama_router")


@attrs.frozen(kw_only=True)
class OwnRouter:
    """A running router.

    Attributes:
        pid: Its process.
        state_dir: Its state directory.
        runtime_path: Where its runtime file should be.
    """

    pid: int
    state_dir: Path
    runtime_path: Path


def own_routers(environ: Mapping[str, str]) -> list[OwnRouter]:
    """Return the running routers of this user, by pid: those with the same home folder.

    Root may look at the processes of all users; the home tells its own ones. Blocks on /proc.
    """
    home = environ.get("HOME")
    if not home:
        return []
    found = []
    for pid in sorted(int(each.name) for each in _PROC.iterdir() if each.name.isdecimal()):
        with suppress(OSError):  # it has ended, or belongs to another user
            folder = _PROC / str(pid)
            words = (folder / "cmdline").read_bytes()
            if pid == os.getpid() or not any(program in words for program in _PROGRAMS):
                continue
            variables = _variables_of(folder)
            state_dir = _locked_by(folder) if variables.get("HOME") == home else None
            if state_dir is not None:
                path = runtime_path(state_dir, variables)
                found.append(OwnRouter(pid=pid, state_dir=state_dir, runtime_path=path))
    return found


def _variables_of(folder: Path) -> dict[str, str]:
    """Return the environment that a process was started with."""
    pairs = os.fsdecode((folder / "environ").read_bytes()).split("\0")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _locked_by(folder: Path) -> Path | None:
    """Return the state directory whose lock a process has open; None if it has none."""
    for descriptor in (folder / "fd").iterdir():
        with suppress(OSError):  # it was closed meanwhile
            target = descriptor.readlink()
            if target.name == LOCK:
                return target.parent
    return None
