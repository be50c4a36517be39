"""What names stand for, in which spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId, Names, ResolvedModel
from llama_router.core.config.parse import parse_config

HUB = "ggml-org/Qwen3-4B-GGUF:Q4_K_M"


def config(**models: dict) -> Config:
    return parse_config({"models": {name: {"path": "/m", **t} for name, t in models.items()}})


@pytest.mark.parametrize(
    "name",
    [
        HUB,
        "ggml-org/Qwen3-4B-GGUF:q4_k_m",
        "GGML-org/qwen3-4b-gguf:Q4_K_M",
        "ggml-org/qwen3-4b-gguf",
    ],
)
def test_names_of_the_hub_are_found_in_any_case(name) -> None:
    """As `pull` and `rm` find them: the repository, the quantization, and an alias."""
    conf = config(**{HUB: {"aliases": ["ggml-org/Qwen3-4B-GGUF"]}})
    assert conf.resolve(name) == HUB


def test_a_preset_of_one_is_found_too() -> None:
    """With its own shape, whatever the spelling."""
    conf = config(**{HUB: {"presets": {"high": {"n": 1}}}})
    meaning = conf.lookup(f"{HUB.lower()}:HIGH")
    assert meaning is conf.lookup(f"{HUB}:high") is not None
    assert (meaning.model, meaning.preset) == (HUB, "high")
    assert meaning.overrides is not None


def test_other_names_are_found_as_they_are_written_only() -> None:
    """A person chose them, and may tell two of them apart by their case."""
    conf = config(Qwen={"aliases": ["chat"]})
    assert conf.resolve("Qwen") == conf.resolve("chat") == "Qwen"
    assert conf.resolve("qwen") is conf.resolve("CHAT") is None


def test_the_exact_name_counts_first() -> None:
    """Two that differ in case only are told apart; any third spelling means neither."""
    conf = config(**{"o/R": {}, "o/r": {}})
    assert (conf.resolve("o/R"), conf.resolve("o/r")) == ("o/R", "o/r")
    assert conf.resolve("O/R") is None


def test_two_spellings_of_one_meaning_are_no_doubt() -> None:
    """An alias that differs in case only from its model's id stands for the same."""
    conf = config(**{"o/R": {"aliases": ["O/R"]}})
    assert conf.resolve("o/r") == "o/R"


_TEXT = st.text("aAbB/:", max_size=6)


@given(st.dictionaries(_TEXT, st.sampled_from("xyz"), max_size=8), _TEXT)
def test_what_is_found_is_never_a_guess(named: dict[str, str], asked: str) -> None:
    """An exact name gives its own meaning; another one only what all its spellings share."""
    meanings = {model: ResolvedModel(model=ModelId(model)) for model in named.values()}
    found = Names((name, meanings[model]) for name, model in named.items()).lookup(asked)
    alike = {model for name, model in named.items() if name.casefold() == asked.casefold()}
    if asked in named:
        assert found is meanings[named[asked]]
    elif "/" in asked and len(alike) == 1:
        assert found is meanings[alike.pop()]
    else:
        assert found is None
