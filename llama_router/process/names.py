"""Names of processes, for people: the program, or the script that an interpreter runs."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Final

#: Programs whose own name says nothing.
_INTERPRETERS: Final = re.compile(r"(python|pypy|node|ruby|perl|java|bash|sh|uv|deno|bun)[0-9.]*")

#: Longest name; more would fill a sentence.
_MOST_CHARACTERS: Final = 60

#: Names of scripts that say nothing without their folder.
_COMMON: Final = {"main", "app", "server", "run", "start", "launch", "webui", "index", "__main__"}


def name_of(pid: int, proc: Path = Path("/proc")) -> str:
    """Return the name of a process: ``ollama``, ``ComfyUI/main.py``; empty if it is gone.

    May hang with a process in uninterruptible sleep: call it on a thread.
    """
    folder = proc / str(pid)
    try:
        name = (folder / "comm").read_text(errors="replace").strip()
        words = (folder / "cmdline").read_bytes().split(b"\0")[:-1]
    except OSError:
        return ""
    argv = [word.decode(errors="replace") for word in words]
    program = PurePosixPath(argv[0]).name if argv else name
    if _INTERPRETERS.fullmatch(program):
        name = _script(argv[1:], folder) or name
    elif program.startswith(name):  # the kernel cuts it after 15 characters
        name = program
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return printable[:_MOST_CHARACTERS]


def _script(arguments: list[str], folder: Path) -> str:
    """Return the script or module among the arguments of an interpreter; empty without one."""
    for place, word in enumerate(arguments):
        if word == "-m":
            return next(iter(arguments[place + 1 :]), "")
        if not word.startswith("-"):
            script = PurePosixPath(word)
            if script.stem not in _COMMON:
                return script.name
            parent = script.parent.name
            if not parent:
                try:
                    parent = PurePosixPath(os.readlink(folder / "cwd")).name  # noqa: PTH115 -- a name only
                except OSError:  # another user's
                    parent = ""
            return f"{parent}/{script.name}" if parent else script.name
    return ""
