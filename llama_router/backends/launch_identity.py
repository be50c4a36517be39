"""The identity of a launch: its program, its files, and the machine that it runs on. Blocks."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from ..core.config.file_needs import FileKind, needs_of
from ..core.config.names import ModelId
from ..core.config.placeholders import expand, names_in
from ..core.config.specs import ModelSpec
from ..core.memory.learned import LaunchKey, MachineId, launch_key, machine_id
from ..core.memory.placed import settings_of
from ..errors.backends import SpawnError
from ..files import Unseen, look
from ..models.discovery.naming import parts_of
from ..models.scan import file_version
from .environment import embedded_version, find_program
from .server_programs import gpus_of_machine

#: Files with an identity of this machine that survives a boot; the second one is older.
_MACHINE_FILES: Final = ("etc/machine-id", "var/lib/dbus/machine-id")


def key_of(spec: ModelSpec) -> LaunchKey | None:
    """Return the key of the launches of *spec*; None if its program cannot be found.

    GPUs that were chosen for one start are no part of it.
    """
    spec = settings_of(spec)
    program = identity_of_program(spec)
    return None if program is None else launch_key(spec, program=program, files=file_versions(spec))


def keys_of(
    specs: Iterable[ModelSpec], versions: Mapping[ModelId, Mapping[str, str]]
) -> dict[ModelId, LaunchKey]:
    """Return the key of each model whose program can be found.

    Args:
        specs: The models.
        versions: The versions of their files, as `file_versions` returns them; those of models
            that are missing are looked at.
    """
    programs: dict[tuple[str, str | None], str | None] = {}
    keys: dict[ModelId, LaunchKey] = {}
    for spec in specs:
        searched = (spec.spawn.command[0], spec.spawn.env.get("PATH"))
        if searched not in programs:
            programs[searched] = identity_of_program(spec)
        if (program := programs[searched]) is not None:
            files = versions.get(spec.id)
            if files is None:
                files = file_versions(spec)
            keys[spec.id] = launch_key(spec, program=program, files=files)
    return keys


def identity_of_program(spec: ModelSpec) -> str | None:
    """Return the path and version of the program of *spec*; None if there is none.

    The version is that of the file; of the embedded server it is that of its package.
    """
    written = spec.spawn.command[0]
    if names_in(written):
        return None
    path = spec.spawn.env.get("PATH")
    try:
        words = find_program((expand(written, {}),), path=path).argv
    except SpawnError:
        return None
    if words[0] == sys.executable and len(words) > 1:
        return _embedded()
    program = shutil.which(words[0], path=path)
    found = None if program is None else look(program)
    if program is None or found is None or isinstance(found, Unseen):
        return None
    return f"{program} {file_version(found)}"


@cache
def _embedded() -> str | None:
    """Return the embedded server and its version, which cannot change while this process runs."""
    version = embedded_version()
    return None if version is None else f"xllamacpp {version}"


def file_versions(spec: ModelSpec) -> dict[str, str]:
    """Return the version of each file that *spec* needs; all parts of a split model count."""
    versions: dict[str, str] = {}
    for need in needs_of(spec):
        if need.kind not in (FileKind.MODEL, FileKind.FILE):
            continue
        for path in parts_of(need.path):
            found = look(path)
            if isinstance(found, Unseen):
                break
            if not stat.S_ISDIR(found.st_mode):
                versions[path] = file_version(found)
    return versions


def this_machine(root: Path = Path("/")) -> MachineId:
    """Return the id of this machine and its GPUs.

    Args:
        root: The root of the file system; another one in tests.
    """
    identity = os.uname().nodename
    for name in _MACHINE_FILES:
        try:
            text = (root / name).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
        if text and text != "uninitialized":
            identity = text
            break
    return machine_id(identity, gpus_of_machine(root))
