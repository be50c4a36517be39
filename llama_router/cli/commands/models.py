"""``import`` and ``inspect``: adds the models in a folder, or describes one model file."""

from __future__ import annotations

import sys
from pathlib import Path

import attrs

from ...files import NOT_A_FOLDER, folder_fault, is_missing
from ...files.stalls import despite_stalls
from ...logs.lines import escape_controls
from ...models.discovery import naming
from ...models.discovery.found import Header, args_for, kind_of
from ...models.gguf import read_header
from ...models.gguf_reader import GgufError
from ...models.scan import read_complete
from ..config_loading import catalog_or_explain
from ..options import Config, Flag
from ..printing import fail, print_line, print_message


def import_(folder: Path, /, *, config: Config = None) -> int:
    """Add every model in a folder and its subfolders to the router permanently.

    Args:
        folder: The folder with the GGUF files.
        config: Configuration file, for its ``state_dir``. Default: the one that ``serve``
            would use.
    """
    if (fault := despite_stalls(lambda: _fault_of(folder))) is not None:
        return fail(f"{folder} {fault}")
    catalog = catalog_or_explain(config)
    if catalog is None:
        return 1
    scanned = catalog.import_folder(folder.absolute())
    for warning in scanned.warnings:
        print_message(f"{warning.path}: warning: {warning.reason}")
    for model in scanned.models:
        print_line(f"{'imported' if model in scanned.new else 'known already'}: {model}")
    if not scanned.models:
        return fail(f"{folder}: no model was found")
    return 0 if scanned.is_stored else 1


def _fault_of(folder: Path) -> str | None:
    """Return the reason why models cannot be imported from *folder*, or None."""
    fault = folder_fault(folder)
    if fault is None:
        return None
    is_other = fault == NOT_A_FOLDER or is_missing(folder)
    return "is not a folder" if is_other else f"cannot be read: {fault}"


def inspect(file: Path, /, *, chat_template: Flag = False) -> int:
    """Print the header of a GGUF file, and how the router would serve it.

    Args:
        file: The GGUF file.
        chat_template: Print its chat template instead.
    """
    try:
        header = despite_stalls(lambda: read_header(str(file), whole=True))
    except GgufError as exc:
        return fail(f"{file}: {exc}")
    if chat_template:
        if header.chat_template is None:
            return fail(f"{file}: there is no chat template in it")
        lines = header.chat_template.splitlines()
        sys.stdout.write("".join(f"{escape_controls(line)}\n" for line in lines))
        return 0
    fault = None
    try:
        table = despite_stalls(lambda: read_complete(str(file)))
    except GgufError as exc:
        fault = str(exc)
    else:
        if naming.part_of(file.name) is None:
            header = attrs.evolve(header, first_layer=table.first_layer or 0)
    if fault is None:
        fault = header.fault(is_part=naming.part_of(file.name) is not None)
    for name, value in _summary(file, header).items():
        if value not in (None, ""):
            print_line(f"{name:18} {value}")
    return 0 if fault is None else fail(f"{file}: {fault}")


def _summary(file: Path, header: Header) -> dict[str, object]:
    """Return the rows that `inspect` prints: label and value; a value may be missing."""
    is_part = naming.part_of(file.name) is not None
    is_model = header.architecture and not header.is_side_file
    is_model = is_model and header.fault(is_part=is_part) is None
    template = header.chat_template
    return {
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
