"""Builds the native programs of the benchmark with the C compiler of this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import attrs

_SOURCES = Path(__file__).parent / "native"
_OUT = Path(__file__).parent / "out"


class BuildError(Exception):
    """The native programs cannot be built; the text has the reason."""


@attrs.frozen
class Native:
    """The native programs of the benchmark.

    Attributes:
        stub: The upstream.
        load: The client.
    """

    stub: Path
    load: Path


def build() -> Native:
    """Compile the programs that are out of date into ``bench/out``.

    Raises:
        BuildError: if there is no compiler, it rejects the sources, or ``bench/out`` cannot
            be written.
    """
    return Native(stub=_compiled("stub"), load=_compiled("load"))


def compiler() -> list[str]:
    """Return the command of the C compiler: ``$CC``, or ``cc``."""
    return shlex.split(os.environ.get("CC", "")) or ["cc"]


def _compiled(name: str) -> Path:
    source, program = _SOURCES / f"{name}.c", _OUT / name
    newest_s = max(path.stat().st_mtime for path in (source, _SOURCES / "common.h"))
    if program.exists() and program.stat().st_mtime > newest_s:
        return program
    command = compiler()
    if shutil.which(command[0]) is None:
        raise BuildError(
            f"there is no C compiler {command[0]!r} (on Debian: apt install gcc libc6-dev)"
        )
    try:
        _OUT.mkdir(exist_ok=True)
    except OSError as error:
        raise BuildError(f"{_OUT} cannot be made: {error.strerror}") from error
    # Compiled under another name, then renamed: a test that runs at the same time must not
    # execute half a program.
    fresh = _OUT / f"{name}.{os.getpid()}"
    argv = [*command, "-O2", "-Wall", "-Wextra", "-o", str(fresh), str(source)]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(f"{' '.join(argv)} failed:\n{result.stderr}")
    fresh.replace(program)
    return program
