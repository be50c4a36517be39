"""Models of many architectures as files without data, whose memory llama.cpp reports all the same.

Each file has a header, a vocabulary and a table of tensors; the data behind them is a hole. So a
model of any shape takes no time to make, and no place on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from llama_router.core.memory.tensor_types import BY_NUMBER
from llama_router.models.tiny.optional import optional

VOCABULARY: Final = 32_000
CONTEXT: Final = 8192

#: Types of the matrices: in layers, and of the embedding.
_IN_LAYERS: Final = "q4_k"
_EMBEDDING: Final = "q6_k"

_NUMBERS: Final = {type_.name: number for number, type_ in BY_NUMBER.items()}


@attrs.frozen
class Tensor:
    """A tensor: its name, its dimensions, a row first, and its type."""

    name: str
    dimensions: tuple[int, ...]
    type: str = _IN_LAYERS


@attrs.frozen(kw_only=True)
class Shape:
    """A model without data.

    Attributes:
        name: On the command line.
        architecture: llama.cpp's name of it.
        keys: Those of the header under the architecture.
        tensors: All of them.
        args: Options without which llama-server would not serve it.
    """

    name: str
    architecture: str
    keys: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    args: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write the file.

        Raises:
            ImportError: if the ``gguf`` package is missing.
        """
        gguf = optional("gguf")
        writer = gguf.GGUFWriter(path, self.architecture)
        for key, value in self.keys.items():
            _add(writer, f"{self.architecture}.{key}", value)
        _add_vocabulary(writer, gguf.TokenType)
        size_bytes = 0
        for tensor in self.tensors:
            number = _NUMBERS[tensor.type]
            type_ = gguf.GGMLQuantizationType(number)
            numbers = 1
            for dimension in tensor.dimensions:
                numbers *= dimension
            data_bytes = BY_NUMBER[number].size_bytes(numbers)
            shape = tuple(reversed(tensor.dimensions))
            writer.add_tensor_info(tensor.name, shape, optional("numpy").float32, data_bytes, type_)
            size_bytes += -(-data_bytes // writer.data_alignment) * writer.data_alignment
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        with path.open("r+b") as file:
            begin = -(-file.seek(0, 2) // writer.data_alignment) * writer.data_alignment
            file.truncate(begin + size_bytes)


def _add(writer: Any, key: str, value: Any) -> None:  # noqa: ANN401 -- gguf is untyped
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, value)


def _add_vocabulary(writer: Any, kinds: Any) -> None:  # noqa: ANN401 -- gguf is untyped
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *bytes_]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * len(bytes_)]
    words = [f"word{number}" for number in range(VOCABULARY - len(tokens))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*tokens, *words])
    writer.add_token_scores([0.0] * VOCABULARY)
    writer.add_token_type_count(2)
    writer.add_token_types([*types, *[kinds.NORMAL] * len(words)])


@attrs.frozen(kw_only=True)
class Sizes:
    """The sizes that most architectures have: of a small model, but no tiny one."""

    width: int = 1024
    layers: int = 4
    heads: int = 16
    heads_kv: int = 4
    head: int = 64
    hidden: int = 4096
    experts: int = 0
    used: int = 0
    expert_hidden: int = 768

    def keys(self, **more: object) -> dict[str, Any]:
        """Return the keys of the header; an underscore in a name stands for a dot."""
        return {
            "context_length": CONTEXT,
            "embedding_length": self.width,
            "block_count": self.layers,
            "feed_forward_length": self.hidden,
            "vocab_size": VOCABULARY,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.heads_kv,
            "attention.key_length": self.head,
            "attention.value_length": self.head,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "rope.dimension_count": self.head,
        } | more

    def moe_keys(self, **more: object) -> dict[str, Any]:
        """Return the keys of a mixture of experts."""
        return (
            self.keys()
            | {
                "expert_count": self.experts,
                "expert_used_count": self.used,
                "expert_feed_forward_length": self.expert_hidden,
            }
            | more
        )

    def ends(self, *, tied: bool = False) -> list[Tensor]:
        """Return the tensors at the input and at the output."""
        ends = [Tensor("token_embd.weight", (self.width, VOCABULARY), _EMBEDDING)]
        if not tied:
            ends.append(Tensor("output.weight", (self.width, VOCABULARY), _EMBEDDING))
        return [*ends, self.vector("output_norm.weight")]

    def vector(self, name: str, length: int = 0) -> Tensor:
        """Return a vector, by default as wide as the model."""
        return Tensor(name, (length or self.width,), "f32")

    def attention(self, block: str, *, heads: int = 0, type_: str = _IN_LAYERS) -> list[Tensor]:
        """Return the matrices of usual attention."""
        queries = (heads or self.heads) * self.head
        keys = self.heads_kv * self.head
        return [
            self.vector(f"{block}attn_norm.weight"),
            Tensor(f"{block}attn_q.weight", (self.width, queries), type_),
            Tensor(f"{block}attn_k.weight", (self.width, keys), type_),
            Tensor(f"{block}attn_v.weight", (self.width, keys), type_),
            Tensor(f"{block}attn_output.weight", (self.heads * self.head, self.width), type_),
        ]

    def normalised(self, block: str) -> list[Tensor]:
        """Return the vectors that normalise queries and keys."""
        return [
            self.vector(f"{block}{name}.weight", self.head)
            for name in ("attn_q_norm", "attn_k_norm")
        ]

    def dense(self, block: str) -> list[Tensor]:
        """Return the matrices of a feed-forward layer."""
        return [
            self.vector(f"{block}ffn_norm.weight"),
            Tensor(f"{block}ffn_gate.weight", (self.width, self.hidden)),
            Tensor(f"{block}ffn_up.weight", (self.width, self.hidden)),
            Tensor(f"{block}ffn_down.weight", (self.hidden, self.width)),
        ]

    def mixture(self, block: str, type_: str = _IN_LAYERS) -> list[Tensor]:
        """Return the matrices of a mixture of experts."""
        into = (self.width, self.expert_hidden, self.experts)
        out = (self.expert_hidden, self.width, self.experts)
        return [
            self.vector(f"{block}ffn_norm.weight"),
            Tensor(f"{block}ffn_gate_inp.weight", (self.width, self.experts), "f32"),
            Tensor(f"{block}ffn_gate_exps.weight", into, type_),
            Tensor(f"{block}ffn_up_exps.weight", into, type_),
            Tensor(f"{block}ffn_down_exps.weight", out, type_),
        ]
