"""The sizes of tensors in model files: what is condensed from right ones, and refused in others."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_router.models.gguf_reader import GgufError
from llama_router.models.tensors import read_weights
from llama_router.models.tiny.chat import make_chat_model
from llama_router.models.tiny.projector import make_projector
from tests.gguf_bytes import BOOL, INT32, Items, header, model_keys, table, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file of a test is."""
    return tmp_path / "x.gguf"


def test_the_tensors_of_a_real_file_are_as_large_as_its_data(path: Path) -> None:
    """Beside the header, a file has nothing but its tensors."""
    make_chat_model(path, name="x", size_mb=30)
    weights = read_weights(str(path))
    assert weights.architecture == "llama"
    assert weights.number("block_count") == len(weights.blocks["attn_k.weight"].sizes_bytes) == 1
    assert weights.blocks["attn_k.weight"].types == ("f16",)
    assert weights.vocabulary == weights.number("vocab_size") > 0
    assert 0 < path.stat().st_size - weights.total_bytes < 50_000


def test_a_projector_has_no_layers_of_a_model(path: Path) -> None:
    """Its tensors have names of their own."""
    make_projector(path)
    weights = read_weights(str(path))
    assert weights.architecture == "clip"
    assert not weights.blocks
    assert "v.blk.0.attn_q.weight" in weights.others
    assert weights.number("vision.image_size") == 32


def test_numbers_by_layer_are_kept(path: Path) -> None:
    """Truth values count as numbers, and a number without a list is that of every layer."""
    keys = model_keys() | {
        "llama.attention.head_count_kv": Items(INT32, [4, 0, 8]),
        "llama.attention.sliding_window_pattern": Items(BOOL, [True, False, True]),
    }
    weights = read_weights(str(write(path, keys)))
    assert [weights.number_of(layer, "attention.head_count_kv") for layer in range(4)] == [
        4,
        0,
        8,
        0,
    ]
    assert weights.number("attention.head_count_kv") == 8
    assert weights.numbers["attention.sliding_window_pattern"] == (1, 0, 1)
    assert [weights.number_of(layer, "block_count") for layer in range(2)] == [4, 4]
    assert weights.number_of(0, "missing", 7) == weights.number("missing", 7) == 7


def test_layers_without_a_tensor_have_none(path: Path) -> None:
    """A tensor that only some layers have is empty in the others."""
    names = ["blk.0.attn_k.weight", "blk.2.attn_k.weight", "output.weight"]
    weights = read_weights(str(write(path, names=names)))
    assert weights.blocks["attn_k.weight"].sizes_bytes == (32, 0, 32)
    assert weights.blocks["attn_k.weight"].types == ("f32", "", "f32")
    assert weights.has(2, "attn_k.weight")
    assert not weights.has(1, "attn_k.weight")
    assert not weights.has(3, "attn_k.weight")
    assert weights.others["output.weight"].size_bytes == 32


def test_the_parts_of_a_split_model_are_added_up(tmp_path: Path) -> None:
    """The numbers come from the first part, the tensors from all of them."""
    first = write(tmp_path / "x-00001-of-00002.gguf", names=["blk.0.attn_k.weight"])
    write(tmp_path / "x-00002-of-00002.gguf", {}, names=["blk.1.attn_k.weight"])
    weights = read_weights(str(first))
    assert weights.blocks["attn_k.weight"].sizes_bytes == (32, 32)
    assert weights.number("block_count") == 4


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    """The reason says which part it is about."""
    first = write(tmp_path / "x-00001-of-00002.gguf")
    with pytest.raises(GgufError, match=r"its part x-00002-of-00002\.gguf: it cannot be read"):
        read_weights(str(first))


def test_a_tensor_of_an_unknown_type_ends_where_the_next_begins(path: Path) -> None:
    """llama.cpp may know types that are not known here."""
    data = header(model_keys(), tensors=2) + table(["a", "b"], kind=99)
    path.write_bytes(data + bytes(-len(data) % 32 + 96))
    weights = read_weights(str(path))
    assert weights.others["a"].size_bytes == 32
    assert weights.others["b"].size_bytes == 64


def test_a_file_without_tensors_has_none(path: Path) -> None:
    """Such as one with a vocabulary only."""
    assert read_weights(str(write(path, names=[]))).total_bytes == 0


def test_a_truncated_file_is_refused(path: Path) -> None:
    """llama.cpp would not load it."""
    write(path, names=["output.weight"])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GgufError, match="truncated"):
        read_weights(str(path))


def test_a_layer_that_cannot_be_is_refused(path: Path) -> None:
    """A number in a name must not take memory."""
    with pytest.raises(GgufError, match="layer 9999"):
        read_weights(str(write(path, names=["blk.9999.attn_k.weight"])))


def test_too_many_tensors_in_layers_are_refused(path: Path) -> None:
    """Each name takes memory for every layer."""
    names = [f"blk.0.{number}.weight" for number in range(4_001)]
    with pytest.raises(GgufError, match="more tensors"):
        read_weights(str(write(path, names=names)))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_damaged_files_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Nothing but a `GgufError` is raised, whichever bytes are changed."""
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    content = bytearray(write(path, names=["blk.0.attn_k.weight", "output.weight"]).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        weights = read_weights(str(path))
    except GgufError:
        return
    assert weights.total_bytes >= 0
