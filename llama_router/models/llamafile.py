"""Recognises llamafiles: a program and the model that it serves in one file. Blocks on files.

Source: https://github.com/mozilla-ai/llamafile; jart/cosmopolitan, ape/specification.md.
"""

from __future__ import annotations

import os
from typing import Final

from ..files import may_access, open_file, reason_of

#: Its command: a shell runs it also where the kernel cannot, because it is a script, too.
#: Without ``--server`` it would chat with the terminal.
COMMAND: Final = ("/bin/sh", "$path", "--server", "--host", "$host", "--port", "$port")

_SUFFIX: Final = ".llamafile"
_BEGINNINGS: Final = (b"MZqFpD='", b"jartsr='", b"APEDBG='")


def is_llamafile(name: str) -> bool:
    """Return whether *name* is that of a llamafile, and not of a temporary one."""
    return name.lower().endswith(_SUFFIX) and not name.startswith(".")


def name_of(name: str) -> str:
    """Return the name of the model in the llamafile *name*."""
    return name[: -len(_SUFFIX)]


def fault_of(path: str) -> str | None:
    """Return the reason why the llamafile *path* cannot be run, or None."""
    try:
        with open_file(path) as file:
            beginning = file.read(len(_BEGINNINGS[0]))
        if beginning not in _BEGINNINGS:
            return "it does not begin like a llamafile"
        if not may_access(path, os.X_OK):
            return "it is a llamafile that may not be run: make it executable (chmod +x)"
    except OSError as exc:
        return f"it cannot be read: {reason_of(exc)}"
    return None
