"""Compares side files with models, as llama.cpp does when it loads both. Blocks on files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Final

from ..files import opened, reason_of
from .discovery import naming
from .discovery.found import FoundFile
from .gguf import read_contents
from .gguf_reader import GgufError, Reader, Vocabulary, read_counts, read_vocabulary

#: Tokens that the vocabularies of a model and its draft may differ in number, and the first one
#: that must be the same. Source: llama.cpp, common/speculative.cpp.
_MAX_DIFFERENCE: Final = 128
_FIRST_COMPARED: Final = 5

#: Vocabularies that are kept: those of a model and its drafts. One has 14 MB.
_KEPT_VOCABULARIES: Final = 4

_LORA_A: Final = b".lora_a"
_LORA_B: Final = b".lora_b"
_EMBEDDING: Final = b"token_embd.weight"


class Compatibility:
    """Compares side files with models, model by model; each file is read once or little more."""

    def __init__(self) -> None:
        self._vocabulary = lru_cache(_KEPT_VOCABULARIES)(_read_vocabulary)
        self._tensors = cache(_read_tensors)

    def fault(self, side_file: FoundFile, model: FoundFile) -> str | None:
        """Return the reason why llama.cpp would not take *side_file* for *model*, or None."""
        is_adapter = side_file.header is not None and side_file.header.type == "adapter"
        compare = self._adapter_fault if is_adapter else self._draft_fault
        try:
            return compare(side_file.path, model.path)
        except GgufError as exc:
            return str(exc)

    def _draft_fault(self, draft: str, model: str) -> str | None:
        return vocabulary_fault(self._vocabulary(draft), self._vocabulary(model))

    def _adapter_fault(self, adapter: str, model: str) -> str | None:
        return adapter_fault(self._tensors(adapter), self._tensors(model))


def vocabulary_fault(draft: Vocabulary, model: Vocabulary) -> str | None:
    """Return the reason why a draft's tokens mean nothing to the model, or None."""
    if not draft.tokens:
        return "it has no vocabulary"
    counts = (len(draft.tokens), len(model.tokens))
    if draft.kind != model.kind or abs(counts[0] - counts[1]) > _MAX_DIFFERENCE:
        return f"its vocabulary is another one ({counts[0]} tokens, not {counts[1]})"
    compared = slice(_FIRST_COMPARED, min(counts))
    if draft.tokens[compared] != model.tokens[compared]:
        return "its vocabulary has other tokens"
    return None


def adapter_fault(
    adapter: Mapping[bytes, tuple[int, ...]], model: Mapping[bytes, tuple[int, ...]]
) -> str | None:
    """Return the reason why an adapter does not fit the tensors of a model, or None.

    Args:
        adapter: Its tensors by name, with their shapes.
        model: Those of the model.
    """
    names = {name.removesuffix(_LORA_A) for name in adapter if name.endswith(_LORA_A)}
    if not names:
        return "it is no LoRA adapter"
    for name in sorted(names):
        text = name.decode("utf-8", "replace")
        weight = model.get(name)
        if weight is None:
            return f"it changes {text}, which the model does not have"
        a, b = adapter[name + _LORA_A], adapter.get(name + _LORA_B, ())
        if len(a) < 2 or len(b) < 2 or len(weight) < 2:
            return f"its {text} is damaged"
        # The embedding is looked up by rows, so both parts of its change are transposed.
        sizes = (b[1], a[1]) if name == _EMBEDDING else (a[0], b[1])
        if sizes != weight[:2]:
            return f"its {text} is for a model of another size"
    return None


def _read_vocabulary(path: str) -> Vocabulary:
    try:
        with opened(path) as (descriptor, size_bytes):
            reader = Reader(descriptor, size_bytes)
            _, key_count = read_counts(reader)
            return read_vocabulary(reader, key_count)
    except OSError as exc:
        raise GgufError(f"it cannot be read: {reason_of(exc)}") from exc


def _read_tensors(path: str) -> dict[bytes, tuple[int, ...]]:
    return {
        tensor.name: tensor.shape
        for part in naming.parts_of(path)
        for tensor in read_contents(part).tensors
    }
