"""The paths in a configuration: made absolute, identified, and checked."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..backends.environment import NO_LLAMA_SERVER, find_llama_server
from ..core.config import placeholders
from ..core.config.kinds import LLAMA_SERVER
from ..errors.config import Problem, Where
from ..files import Unseen, folder_fault, look, may_access, reason_of
from ..files.stalls import look_at
from .file import tables


class ConfigPaths:
    """Makes the paths in a document absolute, and collects those that are unusable.

    It works on the document as it was written, so that each problem belongs to the key with
    the path; values of a wrong type are left for `parse_config`.

    Args:
        folder: Relative paths are relative to it.

    Attributes:
        problems: Make the whole document unusable.
        unusable: Prevent the start of single models.
        warnings: All others.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._llama_server_is_named = False
        self.problems: list[Problem] = []
        self.unusable: list[Problem] = []
        self.warnings: list[Problem] = []

    def make_absolute(self, document: dict[str, Any]) -> None:
        """Make every path in *document* absolute, in place."""
        if isinstance(router := document.get("router"), dict):
            self._make_key_absolute(
                router, "state_dir", ("router",), _future_folder_fault, self.problems
            )
            self._make_key_absolute(
                router, "llama_server", ("router",), _program_fault, self.unusable
            )
            self._llama_server_is_named = "llama_server" in router
            self._make_folders_absolute(router)
        spawns: list[tuple[Where, object]] = [(("default_spawn",), document.get("default_spawn"))]
        spawns += [(("templates", name), table) for name, table in tables(document, "templates")]
        for name, model in tables(document, "models"):
            model_where: Where = ("models", name)
            self._make_key_absolute(model, "path", model_where, _model_fault, self.unusable)
            self._make_key_absolute(model, "mmproj", model_where, _readable_fault, self.unusable)
            self._make_key_absolute(model, "key_file", model_where, _readable_fault, self.warnings)
            spawns.append(((*model_where, "spawn"), model.get("spawn")))
        for where, spawn in spawns:
            if isinstance(spawn, dict):
                self._make_key_absolute(spawn, "cwd", where, _folder_fault, self.unusable)
                self._make_program_absolute(spawn.get("command"), (*where, "command", 0))

    def _make_folders_absolute(self, router: dict[str, Any]) -> None:
        """Make ``models_dirs`` absolute; a missing folder is only a warning."""
        written = router.get("models_dirs")
        if not isinstance(written, list):
            return
        first_problem = len(self.problems)
        router["models_dirs"] = [
            self._checked(name, ("router", "models_dirs", index), folder_fault, self.problems)
            if isinstance(name, str) and name and "\0" not in name
            else name
            for index, name in enumerate(written)
        ]
        self.warnings += self.problems[first_problem:]
        del self.problems[first_problem:]

    def _make_key_absolute(
        self,
        table: dict[str, Any],
        key: str,
        where: Where,
        fault_of: Callable[[Path], str | None],
        faults: list[Problem],
    ) -> None:
        written = table.get(key)
        if isinstance(written, str) and written and "\0" not in written:
            table[key] = self._checked(written, (*where, key), fault_of, faults)

    def _make_program_absolute(self, command: object, where: Where) -> None:
        if not isinstance(command, list) or not command or not isinstance(command[0], str):
            return
        try:
            if placeholders.names_in(command[0]):
                return  # its value is only known when a model is started
        except ValueError:
            return
        program = placeholders.expand(command[0], {})
        if "\0" in program or not program:
            return
        if "/" in program:
            command[0] = placeholders.escape(
                self._checked(program, where, _program_fault, self.unusable)
            )
        elif program == LLAMA_SERVER and self._llama_server_is_named:
            return
        elif warning := missing_on_path(program):
            self.warnings.append(Problem(where, warning))

    def _checked(
        self,
        written: str,
        where: Where,
        fault_of: Callable[[Path], str | None],
        faults: list[Problem],
    ) -> str:
        """Return *written* as an absolute path; append a fault of the file to *faults*."""
        path = self._folder / written
        missing = None
        try:
            path = self._folder / Path(written).expanduser()
            with look_at(path):
                fault = fault_of(path)
        except RuntimeError:
            fault, faults = "its home folder is unknown", self.problems
        except OSError as exc:
            fault = reason_of(exc)
            missing = str(path) if exc.errno == errno.ENOENT else None
        if fault:
            faults.append(Problem(where, f"{path}: {fault}", missing=missing))
        return str(path)


def identity_of(path: object) -> object:
    """Return a value that is equal for all names of one file; None if there is no such file."""
    if not isinstance(path, str):
        return None
    found = look(path)
    return None if isinstance(found, Unseen) else (found.st_dev, found.st_ino)


def missing_on_path(program: str) -> str | None:
    """Return a warning if *program*, a bare name, is not found where it will be searched."""
    if program == LLAMA_SERVER:
        return None if find_llama_server() is not None else NO_LLAMA_SERVER
    return None if shutil.which(program) else f"there is no program {program!r} on PATH"


# Each function returns the reason why a path cannot be used, or raises OSError with it.


def _readable_fault(path: Path) -> str | None:
    if not stat.S_ISREG(path.stat().st_mode):
        return "not a file"
    return None if may_access(path, os.R_OK) else "not readable for this user"


def _model_fault(path: Path) -> str | None:
    """Allow a folder, too: models for vLLM and similar servers are folders."""
    if stat.S_ISDIR(path.stat().st_mode):
        return None if may_access(path, os.R_OK | os.X_OK) else "not readable for this user"
    return _readable_fault(path)


def _program_fault(path: Path) -> str | None:
    if not stat.S_ISREG(path.stat().st_mode):
        return "not a file"
    return None if may_access(path, os.X_OK) else "not executable for this user"


def _folder_fault(path: Path) -> str | None:
    return None if stat.S_ISDIR(path.stat().st_mode) else "not a folder"


def _future_folder_fault(path: Path) -> str | None:
    """Allow a missing folder: the router creates it."""
    try:
        return _folder_fault(path)
    except FileNotFoundError:
        return None
