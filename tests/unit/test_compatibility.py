"""Drafts and adapters that llama.cpp would take for a model, and those that it would not."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_router.models.compatibility import Compatibility, adapter_fault, vocabulary_fault
from llama_router.models.discovery.found import FoundFile, Header
from llama_router.models.gguf_reader import Vocabulary
from tests.gguf_bytes import STRING, Items, model_keys, write

TOKENS = [f"token {n}".encode() for n in range(200)]


@pytest.mark.parametrize(
    ("draft", "fault"),
    [
        (Vocabulary(b"gpt2", TOKENS), None),
        (Vocabulary(b"gpt2", [b"<other>", *TOKENS[1:]]), None),  # special ones may differ
        (Vocabulary(b"gpt2", TOKENS[:-100]), None),
        (Vocabulary(b"gpt2", TOKENS[:-150]), "its vocabulary is another one (50 tokens, not 200)"),
        (Vocabulary(b"llama", TOKENS), "its vocabulary is another one (200 tokens, not 200)"),
        (Vocabulary(b"gpt2", [*TOKENS[:-1], b"x"]), "its vocabulary has other tokens"),
        (Vocabulary(b"", []), "it has no vocabulary"),
    ],
)
def test_a_draft_needs_the_vocabulary_of_its_model(draft, fault) -> None:
    """By the rules of llama.cpp: few more or less tokens, and the same ones from the sixth on."""
    assert vocabulary_fault(draft, Vocabulary(b"gpt2", TOKENS)) == fault


MODEL = {b"token_embd.weight": (64, 1000), b"blk.0.attn_q.weight": (64, 128)}


@pytest.mark.parametrize(
    ("adapter", "fault"),
    [
        ({b"blk.0.attn_q.weight": ((64, 8), (8, 128))}, None),
        ({b"token_embd.weight": ((1000, 8), (8, 64))}, "its token_embd.weight is for a model of"),
        ({b"token_embd.weight": ((8, 1000), (8, 64))}, None),
        ({b"blk.0.attn_q.weight": ((32, 8), (8, 128))}, "its blk.0.attn_q.weight is for a model"),
        ({b"blk.9.attn_q.weight": ((64, 8), (8, 128))}, "it changes blk.9.attn_q.weight, which"),
        ({b"blk.0.attn_q.weight": ((64,), ())}, "its blk.0.attn_q.weight is damaged"),
        ({}, "it is no LoRA adapter"),
    ],
)
def test_an_adapter_needs_the_tensors_of_its_model(adapter, fault) -> None:
    """Of the same sizes, as llama.cpp compares them."""
    tensors: dict[bytes, tuple[int, ...]] = {}
    for name, (a, b) in adapter.items():
        tensors |= {name + b".lora_a": a, name + b".lora_b": b}
    told = adapter_fault(tensors, MODEL)
    assert told is None if fault is None else told.startswith(fault)


def test_files_are_compared_by_their_content(tmp_path: Path) -> None:
    """A draft with a damaged header fits nothing, and says why."""
    model = write(tmp_path / "m.gguf", model_keys(vocabulary=20))
    same = write(tmp_path / "same.gguf", model_keys("eagle3", vocabulary=20))
    other = write(
        tmp_path / "other.gguf",
        {"general.architecture": "eagle3", "tokenizer.ggml.model": "gpt2"}
        | {"tokenizer.ggml.tokens": Items(STRING, ["x"] * 20)},
    )
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(same.read_bytes()[:300])
    compare = Compatibility().fault

    def told(path: Path) -> str | None:
        draft = FoundFile(path=str(path), relative_path=path.name, header=Header(architecture="x"))
        return compare(draft, FoundFile(path=str(model), relative_path="m.gguf"))

    assert told(same) is None
    assert told(other) == "its vocabulary has other tokens"
    assert told(damaged) == "it ends in the middle of its header"
