"""``import``: models of a folder, without a line of configuration."""

from __future__ import annotations

import sys
from pathlib import Path

from ..core.lines import escape_controls
from .files import catalog_or_explain


def import_folder(folder: Path, config: Path | None) -> int:
    """Import the models in *folder*; say which; return the exit status."""
    if not folder.is_dir():
        _print(f"{folder} is not a folder", error=True)
        return 1
    catalog = catalog_or_explain(config)
    if catalog is None:
        return 1
    scanned = catalog.import_folder(folder.absolute())
    for doubt in scanned.doubts:
        _print(f"{doubt.path}: warning: {doubt.reason}", error=True)
    for model in scanned.models:
        _print(f"{'imported' if model in scanned.new else 'known already'}: {model}")
    if not scanned.models:
        _print(f"{folder}: no model was found", error=True)
        return 1
    return 0 if scanned.kept else 1


def _print(text: str, *, error: bool = False) -> None:
    print(escape_controls(text), file=sys.stderr if error else sys.stdout)
