"""The tensors of a model file and the numbers of its header, on which its memory depends. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from .tensor_types import BY_NAME

#: Layers that a model can have at most; llama.cpp has room for 512.
MAX_LAYERS: Final = 1024


@attrs.frozen
class BlockTensors:
    """The tensors of one name in all layers, such as ``attn_k.weight``.

    Attributes:
        sizes_bytes: Of the tensor in each layer; 0 in a layer without it.
        types: Its type in each layer, see `tensor_types`; empty in a layer without it.
    """

    sizes_bytes: tuple[int, ...]
    types: tuple[str, ...]


@attrs.frozen
class OtherTensor:
    """A tensor that belongs to no layer, such as ``output.weight``."""

    size_bytes: int
    type: str


@attrs.frozen(kw_only=True)
class ModelWeights:
    """The tensors of a model or a projector, and the numbers in its header.

    Attributes:
        architecture: llama.cpp's name of it.
        numbers: The integers of the header below the name of the architecture, by the rest of
            their key (``attention.head_count_kv``). Those that differ by layer have one for each;
            truth values are 0 and 1.
        blocks: The tensors in layers, by name without the number of the layer.
        others: All other tensors, by name.
        vocabulary: Tokens that the model knows; 0 if the file does not say.
    """

    architecture: str
    numbers: Mapping[str, tuple[int, ...]] = attrs.field(factory=dict[str, tuple[int, ...]])
    blocks: Mapping[str, BlockTensors] = attrs.field(factory=dict[str, BlockTensors])
    others: Mapping[str, OtherTensor] = attrs.field(factory=dict[str, OtherTensor])
    vocabulary: int = 0

    @property
    def total_bytes(self) -> int:
        """Size of all tensors."""
        in_blocks = sum(sum(tensors.sizes_bytes) for tensors in self.blocks.values())
        return in_blocks + sum(tensor.size_bytes for tensor in self.others.values())

    def number(self, key: str, default: int = 0) -> int:
        """Return the number of *key*: the greatest, if it differs by layer."""
        values = self.numbers.get(key)
        return max(0, *values) if values else default

    def number_of(self, layer: int, key: str, default: int = 0) -> int:
        """Return the number of *key* in one layer."""
        values = self.numbers.get(key, ())
        if len(values) <= 1:
            return max(0, values[0]) if values else default
        return max(0, values[layer]) if layer < len(values) else default

    def size_bytes(self, layer: int, name: str) -> int:
        """Return the size of the tensor *name* in one layer; 0 if it has none."""
        tensors = self.blocks.get(name)
        return tensors.sizes_bytes[layer] if tensors and layer < len(tensors.sizes_bytes) else 0

    def numbers_in(self, layer: int, name: str) -> int:
        """Return how many numbers the tensor *name* in one layer has; 0 if that is not known."""
        size_bytes = self.size_bytes(layer, name)
        type_ = BY_NAME.get(self.blocks[name].types[layer]) if size_bytes else None
        return 0 if type_ is None else size_bytes // type_.block_bytes * type_.block

    def has(self, layer: int, *names: str) -> bool:
        """Return whether that layer has one of the tensors *names*."""
        return any(self.size_bytes(layer, name) for name in names)
