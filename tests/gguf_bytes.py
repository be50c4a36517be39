"""Makes the bytes of GGUF headers, right ones and wrong ones, without any library."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Numbers of the value types. Source: the specification of GGUF.
UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = range(10)
UINT64, INT64, FLOAT64 = 10, 11, 12

FORMATS = {
    UINT8: "B",
    INT8: "b",
    UINT16: "H",
    INT16: "h",
    UINT32: "I",
    INT32: "i",
    FLOAT32: "f",
    BOOL: "?",
    UINT64: "Q",
    INT64: "q",
    FLOAT64: "d",
}


class Typed:
    """A value of a given type; without it, text is a string and an integer 32 bits long."""

    def __init__(self, kind: int, value: object) -> None:
        self.kind = kind
        self.value = value


class Items:
    """An array of one type."""

    def __init__(self, kind: int, values: Iterable[object]) -> None:
        self.kind = kind
        self.values = list(values)


def string(text: str | bytes) -> bytes:
    """Return a string with its length in front."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(item: object) -> bytes:
    """Return a value with its type in front."""
    if isinstance(item, str | bytes):
        return struct.pack("<I", STRING) + string(item)
    if isinstance(item, Items):
        head = struct.pack("<IIQ", ARRAY, item.kind, len(item.values))
        return head + b"".join(bare(item.kind, v) for v in item.values)
    typed = item if isinstance(item, Typed) else Typed(UINT32, item)
    return struct.pack("<I", typed.kind) + bare(typed.kind, typed.value)


def bare(kind: int, item: object) -> bytes:
    """Return a value without its type."""
    if kind == STRING:
        assert isinstance(item, str | bytes)
        return string(item)
    return struct.pack(f"<{FORMATS[kind]}", item)


def header(
    keys: Mapping[str, object],
    *,
    version: int = 3,
    tensors: int = 1,
    count: int | None = None,
    magic: bytes = b"GGUF",
) -> bytes:
    """Return a header; *count* announces another number of keys than there are."""
    head = magic + struct.pack("<IQQ", version, tensors, len(keys) if count is None else count)
    return head + b"".join(string(key) + value(item) for key, item in keys.items())


def model_keys(
    architecture: str = "llama", *, vocabulary: int = 0, embedding_length: int = 64, **more: object
) -> dict[str, object]:
    """Return the keys that converters write, in their order.

    Args:
        architecture: Of the model.
        vocabulary: Tokens in it; none for a header without one.
        embedding_length: Width of the model.
        more: Further ones under the architecture.
    """
    keys: dict[str, object] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": "A model",
        f"{architecture}.block_count": 4,
        f"{architecture}.context_length": 8192,
        f"{architecture}.embedding_length": embedding_length,
        f"{architecture}.attention.head_count": 8,
    }
    keys |= {f"{architecture}.{name}": item for name, item in more.items()}
    if vocabulary:
        keys |= {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": Items(STRING, (f"token {n}" for n in range(vocabulary))),
            "tokenizer.ggml.token_type": Items(INT32, [1] * vocabulary),
            "tokenizer.chat_template": "{{ messages }}",
            "general.file_type": 15,
        }
    return keys


def projector_keys(
    *, projection_dim: int = 64, type_: str | None = "mmproj", **more: object
) -> dict[str, object]:
    """Return the keys of a projector; the old ones have no type."""
    keys: dict[str, object] = {"general.architecture": "clip"}
    if type_ is not None:
        keys["general.type"] = type_
    keys |= {"clip.has_vision_encoder": Typed(BOOL, value=True)}
    keys |= {"clip.vision.projection_dim": projection_dim}
    return keys | more


def table(names: Iterable[str], *, numbers: int = 8, kind: int = 0) -> bytes:
    """Return a table of tensors, each of that many *numbers*; by default of 32 bytes."""
    return b"".join(
        string(name) + struct.pack("<IQIQ", 1, numbers, kind, 32 * index)
        for index, name in enumerate(names)
    )


def write(
    path: Path,
    keys: Mapping[str, object] | None = None,
    *,
    names: Sequence[str] | None = None,
    **options: Any,
) -> Path:
    """Write a complete file with that header, and the folders that it is in.

    Args:
        path: The file.
        keys: Those in its header; None for those of a model.
        names: Of its tensors; None for as many as the options say.
        options: Of `header`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if names is None:
        names = [f"tensor.{n}" for n in range(options.get("tensors", 1))]
    options["tensors"] = len(names)
    data = header(model_keys() if keys is None else keys, **options) + table(names)
    path.write_bytes(data + bytes(-len(data) % 32 + 32 * len(names)))
    return path
