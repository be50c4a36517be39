"""Reads the sizes of all tensors of a model, from its file or from all of its parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from ..core.memory.tensor_types import BY_NUMBER
from ..core.memory.weights import MAX_LAYERS, BlockTensors, ModelWeights, OtherTensor
from .discovery import naming
from .gguf import Contents, read_contents
from .gguf_reader import GgufError, KnownArrays, Tensor

_BLOCK_TENSOR: Final = re.compile(rb"blk\.(\d{1,4})\.(.+)", re.DOTALL)

#: Tensors in a layer. Real models have some fifty; with 256 separate experts, a thousand.
_MAX_NAMES: Final = 4_000

#: Tensors with a row for each token.
_PER_TOKEN: Final = frozenset((b"token_embd.weight", b"output.weight"))


def read_weights(path: str, known_arrays: KnownArrays | None = None) -> ModelWeights:
    """Return the sizes of all tensors in *path* and its header's numbers. Blocks on the file.

    If it is a part of a split model, all parts are read. It takes some ten milliseconds for a
    vocabulary that is not in *known_arrays*.

    Raises:
        GgufError: if a file cannot be read, is no GGUF file, or was truncated.
    """
    parts: list[Contents] = []
    for part in naming.parts_of(path):
        try:
            parts.append(read_contents(part, known_arrays))
        except GgufError as exc:
            if part == path:
                raise
            raise GgufError(f"its part {part.rpartition('/')[2]}: {exc}") from exc
    first = parts[0]
    architecture = first.texts.get(b"general.architecture", "")
    prefix = f"{architecture}.".encode()
    sizes = [item for contents in parts for item in _sizes(contents)]
    return ModelWeights(
        architecture=architecture,
        numbers={
            key.removeprefix(prefix).decode("utf-8", "replace"): numbers
            for key, numbers in first.integers.items()
            if key.startswith(prefix)
        },
        blocks=_blocks(sizes),
        others={
            tensor.name.decode("utf-8", "replace"): OtherTensor(size_bytes, _type_of(tensor))
            for tensor, size_bytes in sizes
            if _BLOCK_TENSOR.fullmatch(tensor.name) is None
        },
        vocabulary=_vocabulary(sizes),
    )


def _sizes(contents: Contents) -> Iterator[tuple[Tensor, int]]:
    """Yield the tensors of one file with their sizes; those of unknown types end at the next."""
    ordered = sorted(contents.tensors, key=lambda tensor: tensor.offset)
    ends = [tensor.offset for tensor in ordered[1:]] + [contents.data_bytes]
    for tensor, end in zip(ordered, ends, strict=False):
        is_known = tensor.type_number in BY_NUMBER
        yield tensor, tensor.size_bytes if is_known else max(0, end - tensor.offset)


def _blocks(sizes: Iterable[tuple[Tensor, int]]) -> dict[str, BlockTensors]:
    """Return the tensors in layers, by name without the number of the layer."""
    found: dict[bytes, dict[int, tuple[int, str]]] = {}
    for tensor, size_bytes in sizes:
        if match := _BLOCK_TENSOR.fullmatch(tensor.name):
            layer = int(match[1])
            if layer >= MAX_LAYERS:
                raise GgufError(f"it has a layer {layer}, and no model has that many")
            found.setdefault(match[2], {})[layer] = (size_bytes, _type_of(tensor))
    if len(found) > _MAX_NAMES:
        raise GgufError("its layers have more tensors than those of a model")
    return {
        name.decode("utf-8", "replace"): BlockTensors(
            sizes_bytes=tuple(layers.get(layer, (0, ""))[0] for layer in range(max(layers) + 1)),
            types=tuple(layers.get(layer, (0, ""))[1] for layer in range(max(layers) + 1)),
        )
        for name, layers in found.items()
    }


def _type_of(tensor: Tensor) -> str:
    type_ = BY_NUMBER.get(tensor.type_number)
    return "" if type_ is None else type_.name


def _vocabulary(sizes: Iterable[tuple[Tensor, int]]) -> int:
    """Return the number of tokens: the rows of the embedding, or of the output."""
    for tensor, _ in sizes:
        if tensor.name in _PER_TOKEN and len(tensor.shape) == 2:
            return tensor.shape[1]
    return 0
