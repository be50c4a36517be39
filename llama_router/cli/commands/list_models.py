"""``list``: every model that the router would serve, from its configuration and its files."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs

from ...config.load import LoadedConfig
from ...core.config.specs import ModelSpec, ModelState
from ...errors.base import RouterError
from ...files import Unseen, look
from ...files.stalls import despite_stalls, is_below
from ...hub.units import format_size
from ...logs.lines import escape_controls
from ...models.caches import Caches, find_sources
from ...models.file_facts import read_facts
from ..config_loading import survey_or_explain
from ..options import Config, Connection, Json
from ..printing import print_json, print_message, print_styled
from ..router_search import find_router, models_in
from ..tables import Cell, Column, table
from ..terminal import columns, has_unicode

_COLUMNS: Final = (
    Column(heading="MODEL", is_flexible=True),
    Column(heading="SIZE", rank=1, right=True),
    Column(heading="QUANT", rank=2, is_optional=True),
    Column(heading="MODIFIED", rank=4),
    Column(heading="FROM", rank=3, is_flexible=True),
    Column(heading="NOTES", rank=5, is_optional=True),
)

#: Units of an age, in seconds, largest first.
_AGES: Final = (
    (365 * 86400, "year"),
    (30 * 86400, "month"),
    (7 * 86400, "week"),
    (86400, "day"),
    (3600, "hour"),
    (60, "minute"),
)


@attrs.frozen(kw_only=True)
class Entry:
    """A model in the list.

    Attributes:
        id: Its id.
        aliases: Its other names.
        path: Its file; None for a backend without one.
        mmproj: Its projector.
        size_bytes: Of all parts of its file; None if it is not known.
        quant: Its quantization, if it is known.
        modified_s: When its file was written, in seconds since the epoch.
        origin: Where it comes from.
        fault: Why it cannot be used now; empty if it can.
    """

    id: str
    aliases: tuple[str, ...]
    path: str | None
    mmproj: str | None
    size_bytes: int | None
    quant: str | None
    modified_s: float | None
    origin: str
    fault: str

    def to_json(self) -> dict[str, object]:
        """Return all of it for ``--json``."""
        modified = self.modified_s
        return {
            "id": self.id,
            "aliases": list(self.aliases),
            "size_bytes": self.size_bytes,
            "quantization": self.quant,
            "modified": None if modified is None else _rfc3339(modified),
            "origin": self.origin,
            "path": self.path,
            "mmproj": self.mmproj,
            "fault": self.fault or None,
        }

    def row(self, now_s: float) -> list[Cell]:
        """Return its cells, in the order of `_COLUMNS`."""
        notes = [name for name, applies in (("+mmproj", self.mmproj is not None),) if applies]
        modified = self.modified_s
        return [
            Cell(escape_controls(self.id)),
            Cell("-" if self.size_bytes is None else format_size(self.size_bytes)),
            Cell(self.quant or "-"),
            Cell("-" if modified is None else age(now_s - modified)),
            Cell(self.origin, ("dim",)),
            Cell(self.fault, ("red",)) if self.fault else Cell(" ".join(notes), ("dim",)),
        ]


def list_models(*, config: Config = None, json: Json = False) -> int:
    """List every model that the router would serve, with size and origin.

    It needs no running router; if one runs, its configuration is used.

    Args:
        config: Configuration file. Default: that of a running router, or the one that ``serve``
            would use.
        json: Print JSON, with paths and sizes in bytes.
    """
    used = config or _config_of_running_router()
    prepared = survey_or_explain(used)
    if prepared is None:
        return 1
    for scanned in prepared.scans:
        for warning in scanned.warnings:
            print_message(f"{warning.path}: warning: {warning.reason}")
    loaded = prepared.loaded
    entries = despite_stalls(lambda: entries_of(loaded, find_sources(os.environ)))
    if json:
        print_json([entry.to_json() for entry in entries], indent=1)
        return 0
    if not entries:
        print_message(
            "there are no models: 'llama-router pull user/repo' fetches one, "
            "'llama-router import FOLDER' takes those in a folder"
        )
        return 0
    now_s = time.time()
    width = columns() if sys.stdout.isatty() else None
    mark = "…" if has_unicode() else "..."
    for line in table(_COLUMNS, [entry.row(now_s) for entry in entries], width=width, mark=mark):
        print_styled(line)
    return 0


def _config_of_running_router() -> Path | None:
    """Return the configuration of a running router, if there is one and it can be read."""
    with suppress(RouterError):
        path = Path(find_router(Connection(), os.environ).config)
        if not isinstance(look(path), Unseen):
            return path
    return None


def entries_of(loaded: LoadedConfig, caches: Caches) -> list[Entry]:
    """Return the models of a configuration, in its order. Blocks on files."""
    written = models_in(loaded.path)
    folders = [(str(folder), "hub cache") for folder in caches.hubs]
    if caches.flat is not None:
        folders.append((str(caches.flat), "cache of llama.cpp"))
    folders += [(str(store.folder), store.title) for store in caches.stores]
    folders += [(folder, folder) for folder in loaded.config.router.models_dirs]
    faults = loaded.config.file_faults
    return [
        _entry(
            spec,
            _origin(spec, folders, is_written=str(spec.id) in written),
            "" if (fault := faults.get(spec.id)) is None else f"{fault.need.path} {fault.reason}",
        )
        for spec in loaded.config.models.values()
    ]


def _entry(spec: ModelSpec, origin: str, fault: str) -> Entry:
    size_bytes = quant = modified_s = None
    if spec.path is not None:
        facts = read_facts(spec.path)
        size_bytes, quant = facts.size_bytes, facts.quant
        with suppress(OSError, ValueError):
            modified_s = Path(spec.path).stat().st_mtime
    return Entry(
        id=str(spec.id),
        aliases=spec.aliases,
        path=spec.path,
        mmproj=spec.mmproj,
        size_bytes=size_bytes,
        quant=quant,
        modified_s=modified_s,
        origin=origin,
        fault=fault,
    )


def _origin(spec: ModelSpec, folders: list[tuple[str, str]], *, is_written: bool) -> str:
    """Return where a model comes from: where its file is, and whether it has a table."""
    for folder, origin in folders:
        if spec.path is not None and is_below(spec.path, folder):
            return f"{origin}, configuration" if is_written else origin
    if is_written:
        return "configuration"
    return "imported" if spec.state is ModelState.MANUAL else "found"


def age(seconds: float) -> str:
    """Return an age in words: ``3 days ago``."""
    for unit_s, name in _AGES:
        if seconds >= unit_s:
            number = int(seconds // unit_s)
            return f"{number} {name}{'s' * (number > 1)} ago"
    return "just now"


def _rfc3339(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds")
