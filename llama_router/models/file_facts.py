"""Facts about a model's file that lists of models show: size, quantization. Blocks on files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import attrs

from .discovery.found import Header, ModelKind, kind_of
from .discovery.naming import part_of, quant_of
from .gguf import read_header
from .gguf_reader import GgufError


@attrs.frozen(kw_only=True)
class FileFacts:
    """What is known of a model's file without its whole header.

    Attributes:
        size_bytes: Of all its parts; None if one is missing.
        quant: Its quantization, from its name or its header; None if neither says it.
        is_decision_model: See `Header`.
        kind: Its task; None if that is not known, as without a header.
        takes_tools: See `Header`. Like *thinks*, false until the whole header was read.
        thinks: See `Header`.
        is_whole: Nothing more can be known: the whole header was read, or there is none.
    """

    size_bytes: int | None = None
    quant: str | None = None
    is_decision_model: bool = False
    kind: ModelKind | None = None
    takes_tools: bool = False
    thinks: bool = False
    is_whole: bool = False


def read_facts(path: str, *, whole: bool = False) -> FileFacts:
    """Return the facts about the file at *path*.

    Args:
        path: The file, or the first of its parts.
        whole: Read the whole header, which takes ten milliseconds.
    """
    header: Header | None = None
    with suppress(GgufError):  # or a file for another kind of backend
        header = read_header(path, whole=whole)
    size_bytes = None
    with suppress(OSError, ValueError):
        size_bytes = size_of_parts(path)
    quant = quant_of(path) or (None if header is None else header.quant)
    return FileFacts(
        size_bytes=size_bytes,
        quant=quant,
        is_decision_model=header is not None and header.is_decision_model,
        kind=None if header is None else kind_of(header),
        takes_tools=header is not None and header.takes_tools,
        thinks=header is not None and header.thinks,
        is_whole=whole or header is None,
    )


def size_of_parts(path: str) -> int:
    """Return the size of a file, or of all parts of a split model.

    Raises:
        OSError: if one is missing.
    """
    folder = Path(path).parent
    part = part_of(Path(path).name)
    if part is None:
        return Path(path).stat().st_size
    return sum(
        (folder / f"{part.stem}-{n:05}-of-{part.count:05}.gguf").stat().st_size
        for n in range(1, part.count + 1)
    )
