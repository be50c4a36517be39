"""``import`` and ``inspect``: adds the models in a folder, or describes one model file."""

from __future__ import annotations

import sys
from pathlib import Path

import attrs

from ...core.config.kinds import LLAMA_SERVER
from ...core.memory.estimate import estimate_parts, projector_parts
from ...core.memory.flags import ServerFlags, read_flags
from ...core.memory.weights import ModelWeights
from ...files import NOT_A_FOLDER, absolute, folder_fault, is_missing
from ...files.stalls import despite_stalls
from ...logs.lines import escape_controls
from ...models.discovery import naming
from ...models.discovery.found import Header, args_for, kind_of
from ...models.gguf import read_header
from ...models.gguf_reader import GgufError
from ...models.scan import read_complete
from ...models.tensors import read_weights
from ..config_loading import catalog_or_explain
from ..options import Config, Connection, Flag
from ..printing import fail, print_line, print_message
from ..rescanning import tell_router


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
    scanned = catalog.import_folder(absolute(folder))
    for warning in scanned.warnings:
        print_message(f"{warning.path}: warning: {warning.reason}")
    word = "imported" if scanned.is_stored else "not kept"
    for model in scanned.models:
        print_line(f"{word if model in scanned.new else 'known already'}: {model}")
    if not scanned.models:
        return fail(f"{folder}: no model was found")
    if not scanned.is_stored:
        return fail("nothing was imported: the list of models could not be written (see above)")
    if scanned.new:
        tell_router(Connection(config=config))
    return 0


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
    for name, value in (_summary(file, header) | _memory(file, header)).items():
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


def _memory(file: Path, header: Header) -> dict[str, object]:
    """Return the rows about the memory that a model or a projector needs, as estimated."""
    if not header.architecture or (header.is_side_file and not header.is_projector):
        return {}
    try:
        weights = despite_stalls(lambda: read_weights(str(file)))
    except GgufError:
        return {}  # the file is damaged, which is said anyway
    rows: dict[str, object] = {"weights": _mib(weights.total_bytes)}
    if header.is_projector:
        return rows | {"compute buffer": _mib(projector_parts(weights).compute)}
    flags = read_flags((LLAMA_SERVER, *args_for(header, has_mmproj=False)))
    parts = estimate_parts(weights, flags, has_gpu=False)
    return rows | {
        "KV cache": _cache(weights, flags),
        "compute buffer": f"{_mib(parts.host.compute)} with a context of {parts.n_ctx} tokens",
    }


def _cache(weights: ModelWeights, flags: ServerFlags) -> str | None:
    """Return the size of the cache: for each token, and whatever the context is."""
    few, many = 2**17, 2**18  # beyond every sliding window
    sizes = (
        estimate_parts(weights, attrs.evolve(flags, n_ctx=tokens), has_gpu=False).host.context
        for tokens in (few, many)
    )
    few_bytes, many_bytes = sizes
    each_bytes = (many_bytes - few_bytes) / (many - few)
    constant_bytes = few_bytes - few * each_bytes
    texts = []
    if each_bytes:
        texts.append(f"{_mib(1000 * each_bytes)} per 1,000 tokens")
    if constant_bytes:
        texts.append(f"{_mib(constant_bytes)} for {flags.slots} slots, whatever the context")
    return " and ".join(texts) or None


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
