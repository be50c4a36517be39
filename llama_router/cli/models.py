"""``import`` and ``inspect``: models in files, without a line of configuration."""

from __future__ import annotations

import sys
from pathlib import Path

from ..files import NOT_A_FOLDER, folder_fault, is_missing
from ..files.stalls import despite_stalls
from ..logs.lines import escape_controls
from ..models.discovery import naming
from ..models.discovery.found import args_for, kind_of
from ..models.gguf import GgufError, read_header
from .files import catalog_or_explain


def import_folder(folder: Path, config: Path | None) -> int:
    """Import the models in *folder*; say which; return the exit status."""
    if (fault := despite_stalls(lambda: _fault_of(folder))) is not None:
        _print(f"{folder} {fault}", error=True)
        return 1
    catalog = catalog_or_explain(config)
    if catalog is None:
        return 1
    scanned = catalog.import_folder(folder.absolute())
    for warning in scanned.warnings:
        _print(f"{warning.path}: warning: {warning.reason}", error=True)
    for model in scanned.models:
        _print(f"{'imported' if model in scanned.new else 'known already'}: {model}")
    if not scanned.models:
        _print(f"{folder}: no model was found", error=True)
        return 1
    return 0 if scanned.is_stored else 1


def _fault_of(folder: Path) -> str | None:
    fault = folder_fault(folder)
    if fault is None:
        return None
    is_other = fault == NOT_A_FOLDER or is_missing(folder)
    return "is not a folder" if is_other else f"cannot be read: {fault}"


def inspect(file: Path, *, chat_template: bool) -> int:
    """Say what the header of *file* says; return the exit status."""
    try:
        header = despite_stalls(lambda: read_header(str(file), whole=True))
    except GgufError as exc:
        _print(f"{file}: {exc}", error=True)
        return 1
    if chat_template:
        if header.chat_template is None:
            _print(f"{file}: there is no chat template in it", error=True)
            return 1
        sys.stdout.write("".join(map(_line, header.chat_template.splitlines())))
        return 0
    is_model = header.architecture and not header.is_projector and header.type == "model"
    template = header.chat_template
    facts = {
        "architecture": header.architecture,
        "type": header.type,
        "name": header.name,
        "quantization": naming.quant_of(file.name) or header.quant,
        "context length": header.context_length,
        "layers": header.block_count,
        "heads": header.head_count,
        "embedding length": header.embedding_length,
        "projection length": header.projection_dim,
        "chat template": None if template is None else f"{len(template)} characters",
        "served as": kind_of(header) if is_model else "nothing: it is not a model by itself",
        "arguments": " ".join(args_for(header, has_mmproj=False)) if is_model else None,
    }
    for name, fact in facts.items():
        if fact not in (None, ""):
            _print(f"{name:18} {fact}")
    return 0


def _line(text: str) -> str:
    return escape_controls(text) + "\n"


def _print(text: str, *, error: bool = False) -> None:
    print(escape_controls(text), file=sys.stderr if error else sys.stdout)
