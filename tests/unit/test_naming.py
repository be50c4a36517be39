"""What names of GGUF files say."""

from __future__ import annotations

import pytest

from llama_router.models.discovery import naming
from llama_router.models.discovery.naming import Part


@pytest.mark.parametrize(
    ("path", "quant"),
    [
        ("gemma-3-4b-it-Q4_K_M.gguf", "Q4_K_M"),
        ("gemma-3-4b-it.q8_0.gguf", "Q8_0"),
        ("Qwen3-30B-A3B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("model-IQ2_XXS.gguf", "IQ2_XXS"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("x-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("x-BF16-00001-of-00002.gguf", "BF16"),
        ("x-fp16.gguf", "F16"),
        ("x-TQ1_0.gguf", "TQ1_0"),
        ("BF16/x-00001-of-00002.gguf", "BF16"),
        ("Q4_K_M/deeper/x.gguf", "Q4_K_M"),
        ("Q4_K_M/x-Q8_0.gguf", "Q8_0"),
        ("F16.gguf", "F16"),
        ("phi-3-mini-4k-instruct.gguf", None),
        ("Qwen2.5-7B.gguf", None),
        ("model.gguf", None),
        ("aQ4_0.gguf", None),
    ],
)
def test_the_quantization_is_the_last_word_that_looks_like_one(path, quant) -> None:
    """In the file's name, or else in the nearest folder's."""
    assert naming.quant_of(path) == quant


def test_parts_of_a_split_model_know_each_other() -> None:
    """Stem, number and count; anything else is a whole."""
    assert naming.part_of("a-Q4_0-00002-of-00010.gguf") == Part("a-Q4_0", 2, 10)
    assert naming.part_of("A-00001-OF-00002.GGUF") == Part("A", 1, 2)
    for name in ("a.gguf", "a-1-of-2.gguf", "a-00001-of-00002.bin", "-00001-of-00002.gguf"):
        assert naming.part_of(name) is None, name


def test_the_stem_has_neither_ending_nor_part() -> None:
    """It is what a local model is called."""
    assert naming.stem_of("a.b-Q4_0.gguf") == "a.b-Q4_0"
    assert naming.stem_of("dir/a-00001-of-00002.gguf") == "dir/a"
    assert naming.stem_of("a.GGUF") == "a"


@pytest.mark.parametrize(
    ("name", "is_side"),
    [
        ("mtp-GLM-4.5.gguf", True),
        ("EAGLE3-llama.gguf", True),
        ("dflash-x.gguf", True),
        ("dspark-x.gguf", True),
        ("imatrix_unsloth.gguf", True),
        ("model.imatrix.gguf", True),
        ("model-imatrix-Q4_K_M.gguf", False),
        ("GLM-MTP-Q4_0.gguf", False),
        ("model.gguf", False),
    ],
)
def test_drafts_and_matrices_are_known_by_name(name, is_side) -> None:
    """A model that is named after a draft is still a model."""
    assert naming.is_side_file(name) is is_side


def test_unfinished_and_hidden_files_are_not_gguf_files() -> None:
    """Programs write them first, and rename them then."""
    assert naming.is_gguf("a.gguf")
    assert naming.is_gguf("A.GGUF")
    for name in (".a.gguf", "a.gguf.part", "a.gguf.incomplete", "gguf", "a.bin"):
        assert not naming.is_gguf(name), name


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("gemma-3-4b-it-Q4_K_M.gguf", "gemma34bit"),
        ("mmproj-gemma-3-4b-it-f16.gguf", "gemma34bit"),
        ("gemma-3-4b-it.mmproj-Q8_0.gguf", "gemma34bit"),
        ("mmproj-F16.gguf", ""),
        ("mmproj-model-f16.gguf", ""),
        ("mmproj.gguf", ""),
    ],
)
def test_a_model_and_its_projector_are_of_one_family(name, family) -> None:
    """Quantization, punctuation and the word for a projector do not matter."""
    assert naming.family_of(name) == family
