"""Reads the header of a GGUF file in microseconds.

Converters write the needed keys before the vocabulary, so reading stops there by default. The
table of tensors behind the keys says how long the file must be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import attrs

from ..core.config.kinds import CONTROL
from ..files import opened, reason_of
from .discovery.found import Header
from .gguf_reader import (
    DECISION_TYPE,
    DEFAULT_ALIGNMENT,
    GgufError,
    KnownArrays,
    Reader,
    Tensor,
    read_counts,
    read_keys,
    read_tensors,
)

#: The number of a layer in the name of a tensor.
LAYER: Final = re.compile(rb"blk\.(\d{1,5})\.")
_ARCHITECTURE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def read_header(path: str, *, whole: bool = False) -> Header:
    """Return the header of *path*. Blocks on the file, within limits.

    Args:
        path: A regular file; anything else is refused without reading it.
        whole: Read the keys after the vocabulary, too: the chat template and the file type.
            That takes about ten milliseconds.

    Raises:
        GgufError: if it cannot be read or is no GGUF file.
    """
    try:
        with opened(path) as (descriptor, size_bytes):
            if size_bytes == 0:
                raise GgufError("it is empty")
            return _parse(Reader(descriptor, size_bytes), whole=whole)
    except OSError as exc:
        raise GgufError(f"it cannot be read: {reason_of(exc)}") from exc


@attrs.frozen
class TensorTable:
    """Facts about a complete file from its table of tensors, and from keys behind a vocabulary.

    Attributes:
        first_layer: The lowest number of a layer; None if there are no layers.
        split_number: Number of this file among the parts of a split model, from 1; None without
            such a key.
        split_count: Number of those parts.
    """

    first_layer: int | None
    split_number: int | None
    split_count: int


def read_tensor_table(path: str, known_arrays: KnownArrays | None = None) -> TensorTable:
    """Return facts from the table of tensors in *path*, which has all data of its tensors.

    It takes some ten milliseconds for a vocabulary that is not in *known_arrays*, because the
    whole header is read.

    Raises:
        GgufError: if it cannot be read, is no GGUF file, or was truncated.
    """
    contents = read_contents(path, known_arrays)
    layers = (int(found[1]) for tensor in contents.tensors if (found := LAYER.match(tensor.name)))
    number = contents.integer(b"split.no")
    count = contents.integer(b"split.count")
    return TensorTable(
        first_layer=min(layers, default=None),
        split_number=None if number is None else number + 1,
        split_count=1 if count is None else count,
    )


@attrs.frozen
class Contents:
    """All keys of a complete file that are needed, and its table of tensors.

    Attributes:
        texts: Texts by key.
        integers: Numbers by key; a number is a tuple of one, and long arrays are left out.
        tensors: In the order of the table.
        data_bytes: Size of the file behind its header.
    """

    texts: Mapping[bytes, str]
    integers: Mapping[bytes, tuple[int, ...]]
    tensors: tuple[Tensor, ...]
    data_bytes: int

    def integer(self, key: bytes) -> int | None:
        """Return the number of *key*, the greatest of an array; None without it."""
        return max(self.integers[key]) if key in self.integers else None


def read_contents(path: str, known_arrays: KnownArrays | None = None) -> Contents:
    """Return the whole header of *path*, which has all data of its tensors.

    Raises:
        GgufError: if it cannot be read, is no GGUF file, or was truncated.
    """
    try:
        with opened(path) as (descriptor, size_bytes):
            reader = Reader(descriptor, size_bytes, known_arrays)
            tensor_count, key_count = read_counts(reader)
            texts, integers = read_keys(reader, key_count, whole=True)
            tensors = tuple(read_tensors(reader, tensor_count))
            alignment = max(integers.get(b"general.alignment", (DEFAULT_ALIGNMENT,)))
            if alignment <= 0 or alignment & (alignment - 1):
                raise GgufError("the alignment in its header is no power of two")
            data_bytes = size_bytes - -(-reader.position // alignment) * alignment
            needed_bytes = max((tensor.offset + tensor.size_bytes for tensor in tensors), default=0)
            if tensors and (missing_bytes := needed_bytes - data_bytes) > 0:
                raise GgufError(f"it was truncated: its last {missing_bytes} bytes are missing")
    except OSError as exc:
        raise GgufError(f"it cannot be read: {reason_of(exc)}") from exc
    return Contents(texts, integers, tensors, max(0, data_bytes))


def _parse(reader: Reader, *, whole: bool) -> Header:
    tensor_count, key_count = read_counts(reader)
    texts, integers = read_keys(reader, key_count, whole=whole)
    return _header(texts, {key: max(numbers) for key, numbers in integers.items()}, tensor_count)


def _header(texts: dict[bytes, str], integers: dict[bytes, int], tensor_count: int) -> Header:
    architecture = texts.get(b"general.architecture", "")
    # Older adapters have no general type.
    type_ = texts.get(b"general.type", "adapter" if b"adapter.type" in texts else "model")
    if architecture or type_ == "model":
        if not architecture:
            raise GgufError("its header names no architecture")
        if not _ARCHITECTURE.fullmatch(architecture):
            raise GgufError("its header names an architecture that cannot be one")
    prefix = architecture.encode()

    def own(name: bytes) -> int | None:
        value = integers.get(prefix + name)
        return value if value is not None and 0 <= value < 2**31 else None

    projection_dim = own(b".vision.projection_dim")
    return Header(
        architecture=architecture,
        type=CONTROL.sub("", type_)[:64],
        name=CONTROL.sub("", texts.get(b"general.name", ""))[:256] or None,
        file_type=integers.get(b"general.file_type"),
        tensor_count=tensor_count,
        context_length=own(b".context_length"),
        embedding_length=own(b".embedding_length"),
        block_count=own(b".block_count"),
        head_count=own(b".attention.head_count"),
        pooling_type=own(b".pooling_type"),
        projection_dim=own(b".audio.projection_dim") if projection_dim is None else projection_dim,
        chat_template=texts.get(b"tokenizer.chat_template"),
        is_decision_model=bool(texts.get(prefix + DECISION_TYPE)),
        size_label=CONTROL.sub("", texts.get(b"general.size_label", ""))[:64] or None,
    )
