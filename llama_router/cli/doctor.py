"""Findings of ``doctor``, each with a cure where something is wrong. Blocks on files."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from ..config.load import LoadedConfig
from ..config.locations import default_config_path
from ..core.config.config import Config
from ..errors.base import RouterError
from ..files import Unseen, list_folder, look, may_access
from ..hub.units import format_size
from ..models.caches import find_caches
from ..models.stores import find_stores
from ..process.port_owner import listener_inodes, listener_owner
from .router_search import Connection, find_router

if TYPE_CHECKING:
    from ..backends.server_programs import ServerProgram
    from ..core.memory.view import MemoryView
    from ..runtime_file import RuntimeFile

#: Free space on a disk below which it is a warning, in bytes.
_LITTLE: Final = 2 * 10**9

#: Free space that the state directory needs at least, in bytes: below, nothing is kept there.
_NEEDED: Final = 2**20

#: The unit of the system service, and the folder of its state.
_UNIT: Final = Path("/etc/systemd/system/llama-router.service")

#: Most models that are named in one finding.
_NAMED: Final = 3


class Verdict(StrEnum):
    """How a finding is judged."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@attrs.frozen(kw_only=True)
class Finding:
    """Something that was looked at.

    Attributes:
        topic: Its heading, such as ``memory``.
        verdict: How it is judged.
        text: What was found, in one sentence.
        cure: What to do about it; empty if there is nothing to do.
    """

    topic: str
    verdict: Verdict = Verdict.OK
    text: str
    cure: str = ""


def about_configuration(path: Path, loaded: LoadedConfig) -> Iterator[Finding]:
    """Yield the findings about a configuration that could be loaded."""
    topic = "configuration"
    config = loaded.config
    exists = not isinstance(look(path), Unseen)
    count = len(config.models)
    models = f"{count} model{'s' * (count != 1)}"
    if exists:
        yield Finding(topic=topic, text=f"{path}: {models}")
    else:
        tried = " nor ".join(map(str, default_config_path(os.environ)))
        yield Finding(topic=topic, text=f"no file (neither {tried}); {models} found by scans")
    if not count:
        yield Finding(
            topic=topic,
            verdict=Verdict.WARNING,
            text="there is no model to serve",
            cure="'llama-router pull user/repo' fetches one, 'llama-router import FOLDER' takes "
            "those in a folder",
        )
    for warning in loaded.warnings if exists else ():
        if warning not in loaded.unavailable:
            yield Finding(
                topic=topic,
                verdict=Verdict.WARNING,
                text=str(warning),
                cure=f"edit {path}, then run 'llama-router check'",
            )
    for model, fault in list(config.file_faults.items())[:_NAMED]:
        yield Finding(
            topic=topic,
            verdict=Verdict.ERROR,
            text=f"model {model!r} cannot be used: {fault.need.path} {fault.reason}",
            cure=f"put the file there, or change {path}",
        )
    if (more := len(config.file_faults) - _NAMED) > 0:
        yield Finding(
            topic=topic,
            verdict=Verdict.ERROR,
            text=f"{more} more models cannot be used",
            cure="'llama-router check' names them",
        )


def about_programs(programs: tuple[ServerProgram, ...]) -> Iterator[Finding]:
    """Yield the llama-server programs that serve, with the devices that they see."""
    for program in programs:
        if program.fault:
            yield Finding(
                topic="programs",
                verdict=Verdict.ERROR,
                text=f"{program.program}: {program.fault}",
                cure="install what is missing, or pip install 'llama-router[embedded]'",
            )
            continue
        yield Finding(topic="programs", text=program.describe())
        if program.warning:
            yield Finding(
                topic="programs",
                verdict=Verdict.WARNING,
                text=program.warning,
                cure="install a build of llama-server for this GPU, and put it on PATH",
            )


def about_memory(view: MemoryView, faults: tuple[str, ...]) -> Iterator[Finding]:
    """Yield the devices with memory, and drivers that cannot be read."""
    for name, state in view.devices.items():
        device = state.device
        free = state.available_mib * 2**20
        whole = device.capacity_mib * 2**20
        title = f"{name} ({device.name})" if device.name else str(name)
        yield Finding(
            topic="memory",
            text=f"{title}: {format_size(free)} of {format_size(whole)} are free for models",
        )
    for fault in faults:
        yield Finding(
            topic="memory",
            verdict=Verdict.WARNING,
            text=fault,
            cure="check the driver (nvidia-smi, or the permissions of /dev/dri)",
        )


def _about_stores(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the stores of other programs that are there."""
    for store in find_stores(environ):
        found = look(store.folder)
        if not isinstance(found, Unseen):
            yield Finding(topic="disk", verdict=Verdict.OK, text=f"{store.title}: {store.folder}")
        elif not found.is_missing:
            yield Finding(
                topic="disk",
                verdict=Verdict.NOTE,
                text=f"{store.title} {store.folder} cannot be read: {found.reason}",
            )


def about_disks(state_dir: Path, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the caches, and the free space beside them and the state directory."""
    caches = find_caches(environ)
    for folder, kind in (*((hub, "hub cache") for hub in caches.hubs),
                         (caches.flat, "cache of llama.cpp")):  # fmt: skip
        if folder is None:
            continue
        found = look(folder)
        if isinstance(found, Unseen):
            if found.is_missing:
                yield Finding(
                    topic="disk", verdict=Verdict.NOTE, text=f"{kind} {folder}: not there yet"
                )
            else:
                yield Finding(
                    topic="disk",
                    verdict=Verdict.WARNING,
                    text=f"{kind} {folder} cannot be read: {found.reason}",
                    cure="change its permissions, or set HF_HOME",
                )
            continue
        entries = list_folder(folder)
        number = 0 if isinstance(entries, Unseen) else len(list(entries))
        yield _disk(f"{kind} {folder}: {number} entries", folder)
    yield from _about_stores(environ)
    existing = next(each for each in (state_dir, *state_dir.parents) if each.exists())
    if existing == state_dir and not os.access(state_dir, os.W_OK):
        yield Finding(
            topic="disk",
            verdict=Verdict.WARNING,
            text=f"state directory {state_dir}: this user may not write to it",
            cure="run as the user of the service, or set router.state_dir",
        )
    else:
        yield _disk(
            f"state directory {state_dir}",
            existing,
            needed=_NEEDED,
            cure=f"free space on that disk ('df -h {existing}' shows it), or set router.state_dir "
            "to a folder on another one: found models, measured figures, the admin token and logs "
            "are kept there",
        )


def _disk(
    text: str,
    folder: Path,
    *,
    needed: int = 0,
    cure: str = "'llama-router list' shows sizes, 'llama-router rm MODEL' frees space",
) -> Finding:
    """Return what is free on the disk of *folder*: an error if that is less than *needed* bytes."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return Finding(topic="disk", text=text)
    verdict = Verdict.WARNING if free < _LITTLE else Verdict.OK
    if free < needed:
        verdict = Verdict.ERROR
    return Finding(
        topic="disk",
        verdict=verdict,
        text=f"{text}, {format_size(free)} of the disk are free",
        cure="" if verdict is Verdict.OK else cure,
    )


def about_router(
    config: Config, connection: Connection, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield whether a router runs, and whether its port is free if none does."""
    running: RuntimeFile | None = None
    try:
        running = find_router(connection, environ)
    except RouterError as exc:
        yield Finding(
            topic="router", verdict=Verdict.NOTE, text=str(exc), cure="llama-router serve"
        )
    else:
        urls = ", ".join(running.urls)
        yield Finding(topic="router", text=f"pid {running.pid} listens on {urls}")
        return
    port = config.router.port
    try:
        sockets = listener_inodes(port)
    except OSError:
        return
    if sockets:
        owners = ", ".join(map(str, sorted(listener_owner(port)))) or "of another user"
        yield Finding(
            topic="router",
            verdict=Verdict.ERROR,
            text=f"port {port} is taken by another process ({owners})",
            cure="stop it, or give llama-router serve --port another one",
        )
    else:
        yield Finding(topic="router", text=f"port {port} is free")


def about_service(config: Config) -> Iterator[Finding]:
    """Yield whether the system service is installed, and which models its user cannot read.

    It runs as a user that systemd makes up, so it reads what all may read.
    """
    if isinstance(look(_UNIT), Unseen):
        yield Finding(
            topic="service",
            verdict=Verdict.NOTE,
            text="no service of the system is installed",
            cure="'llama-router install-unit' installs one",
        )
        return
    yield Finding(topic="service", text=f"{_UNIT} is installed")
    closed = {
        str(spec.path): folder
        for spec in config.models.values()
        if spec.path is not None and (folder := closed_to_others(Path(spec.path))) is not None
    }
    for path, where in list(closed.items())[:_NAMED]:
        yield Finding(
            topic="service",
            verdict=Verdict.WARNING,
            text=f"the service's user cannot read {path}: {where} is closed to other users",
            cure=f"chmod o+{'x' if where.is_dir() else 'r'} {where}, or move the models to "
            "/srv/models",
        )


def closed_to_others(path: Path) -> Path | None:
    """Return the folder or file on the way to *path* that other users may not pass; or None."""
    for each in (*reversed(path.parents), path):
        found = look(each)
        if isinstance(found, Unseen):
            return None  # another finding says so
        wanted = stat.S_IXOTH if stat.S_ISDIR(found.st_mode) else stat.S_IROTH
        if not found.st_mode & wanted:
            return each
    return None


def about_access(config: Config) -> Iterator[Finding]:
    """Yield the models that this user may not read."""
    unreadable = [
        spec.path
        for spec in config.models.values()
        if spec.path is not None
        and not isinstance(look(spec.path), Unseen)
        and not may_access(spec.path, os.R_OK)
    ]
    for path in unreadable[:_NAMED]:
        yield Finding(
            topic="service",
            verdict=Verdict.ERROR,
            text=f"this user may not read {path}",
            cure=f"chmod o+r {path}, or run as its owner",
        )
