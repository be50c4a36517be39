"""``models.toml`` in the state directory: the machine-written file of found models."""

from __future__ import annotations

import fcntl
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import attrs
import tomli_w

from ..core.config.parse import parse_config
from ..errors.config import ConfigError
from ..files import Unseen, look, make_folder, read_up_to, reason_of, replace_atomically
from ..files.stalls import undone_if_given_up
from .discovery.found import FoundModel, ModelFormat, ScanWarning

#: Name of the file.
NAME: Final = "models.toml"

_HEADER: Final = """\
# Models that llama-router found by itself (state = "auto") or imported ("manual").
# The router writes this file; do not edit it. A table of the same name in router.toml
# overrides single fields.

"""

#: Key of a table with facts to display, e.g. by `llama-router list`; it is no key of router.toml.
_INFO: Final = "info"
_KEYS: Final = frozenset(
    ("state", "path", "mmproj", "found_args", "aliases", "default_params", "spawn", _INFO)
)
_MAX_BYTES: Final = 64 * 2**20

Table = dict[str, Any]


@attrs.frozen(kw_only=True)
class FoundFileContent:
    """The content of the file.

    Attributes:
        models: Table by id; `parse_config` accepts each one without its ``info``.
        startup_model: The model to load if ``router.toml`` names none.
        damaged: The file is no TOML; it is renamed before another one is written.
    """

    models: Mapping[str, Table] = attrs.field(factory=dict[str, Table])
    startup_model: str | None = None
    damaged: bool = False


def table_of(model: FoundModel, state: str) -> Table:
    """Return the table of *model* in the file."""
    table: Table = {"state": state, "path": model.path}
    if model.mmproj is not None:
        table["mmproj"] = model.mmproj
    if model.args:
        table["found_args"] = list(model.args)
    if model.aliases:
        table["aliases"] = list(model.aliases)
    if model.default_params:
        table["default_params"] = dict(model.default_params)
    if model.command:
        table["spawn"] = {"command": list(model.command)}
    header = model.header
    info = {
        "format": None if model.format is ModelFormat.GGUF else str(model.format),
        "kind": str(model.kind),
        "architecture": header.architecture,
        "name": header.name,
        "quant": model.quant,
        "context_length": header.context_length,
        "size_bytes": model.size_bytes,
        "versions": list(model.versions),
    }
    table[_INFO] = {key: value for key, value in info.items() if value is not None}
    return table


def versions_of(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the versions of the files of a model, which were complete when it was found."""
    info = table.get(_INFO)
    versions = info.get("versions") if isinstance(info, Mapping) else None
    if isinstance(versions, list):
        yield from (version for version in versions if isinstance(version, str))


def is_safetensors(table: Mapping[str, Any]) -> bool:
    """Return whether the model is a folder of safetensors, which llama.cpp does not serve."""
    info = table.get(_INFO)
    return isinstance(info, Mapping) and info.get("format") == ModelFormat.SAFETENSORS


def without_info(table: Mapping[str, Any]) -> Table:
    """Return the keys of *table* that ``router.toml`` accepts."""
    return {key: value for key, value in table.items() if key != _INFO}


def read(state_dir: Path, warnings: list[ScanWarning]) -> FoundFileContent:
    """Return the content of the file in *state_dir*; unusable parts become *warnings*."""
    path = state_dir / NAME
    try:
        document = tomllib.loads(read_up_to(path, _MAX_BYTES).decode())
    except FileNotFoundError:
        return FoundFileContent()
    except OSError as exc:
        warnings.append(ScanWarning.about(path, f"it cannot be read: {reason_of(exc)}"))
        return FoundFileContent()
    except (ValueError, RecursionError) as exc:
        warnings.append(ScanWarning.about(path, f"it is damaged, so a new one is begun: {exc}"))
        return FoundFileContent(damaged=True)
    models = document.get("models")
    startup = document.get("startup_model")
    return FoundFileContent(
        models=_usable(path, models if isinstance(models, dict) else {}, warnings),
        startup_model=startup if isinstance(startup, str) else None,
    )


def _usable(path: Path, models: Mapping[str, Any], warnings: list[ScanWarning]) -> dict[str, Table]:
    usable = {name: t for name, t in models.items() if isinstance(t, dict) and t.keys() <= _KEYS}
    faults = dict.fromkeys(models.keys() - usable.keys(), "has keys that are not known here")
    try:
        parse_config({"models": {name: without_info(t) for name, t in usable.items()}})
    except ConfigError as exc:
        faults |= {str(p.path[1]): str(p) for p in exc.problems if len(p.path) > 1}
    for name, reason in faults.items():
        warnings.append(ScanWarning.about(path, f"its model {name!r} is left out: {reason}"))
    return {name: table for name, table in usable.items() if name not in faults}


def version(state_dir: Path) -> object:
    """Return a value that changes when the file does; None if it is missing."""
    info = look(state_dir / NAME)
    if isinstance(info, Unseen):
        return None
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """Hold the lock of the file, so that no other process changes it meanwhile.

    Raises:
        OSError: if *state_dir* cannot be written.
    """
    make_folder(state_dir)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(state_dir / f"{NAME}.lock", flags, 0o600)
    try:
        # If this attempt is given up, the lock is released: the next attempt would wait for ever.
        with undone_if_given_up(lambda: fcntl.flock(descriptor, fcntl.LOCK_UN)):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
    finally:
        os.close(descriptor)


def write(state_dir: Path, content: FoundFileContent) -> None:
    """Replace the file in one step, unless its content is the same.

    Raises:
        OSError: if it cannot be written; it is as before then.
    """
    document: dict[str, Any] = {}
    if content.startup_model is not None:
        document["startup_model"] = content.startup_model
    document["models"] = content.models
    data = (_HEADER + tomli_w.dumps(document)).encode()
    path = state_dir / NAME
    with suppress(OSError):
        if read_up_to(path, _MAX_BYTES) == data:
            return
    if content.damaged:
        path.replace(state_dir / f"{NAME}.damaged")
    replace_atomically(path, data, sync=True)
