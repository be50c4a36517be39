"""Estimates of memory are near what llama.cpp's server reports, for many architectures."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from bench.memory.architectures import SHAPES
from bench.memory.comparison import Comparison, compare
from bench.memory.shapes import Shape
from llama_router.models.tiny.bert import make_embedding_model, make_rerank_model
from llama_router.models.tiny.chat import make_chat_model
from llama_router.models.tiny.projector import make_projector

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]

PROGRAM = (sys.executable, "-P", "-m", "llama_router.backends.embedded")


def assert_near(comparison: Comparison) -> None:
    """The sum is within 10 % and 1 MiB, and each part is not off by more than a quarter."""
    assert comparison.is_near, (comparison.estimated_mib, comparison.reported_mib)
    for estimated, reported in zip(comparison.estimated_mib, comparison.reported_mib, strict=True):
        assert estimated == pytest.approx(reported, rel=0.25, abs=1)
    assert comparison.estimated.n_ctx == comparison.reported.n_ctx
    assert comparison.estimated.vocabulary == comparison.reported.vocabulary


@pytest.mark.parametrize("words", ["", "-c 4096 -np 2", "-ctk q8_0 -ctv q8_0 -ub 256"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_estimates_of_all_architectures_are_near(tmp_path: Path, shape: Shape, words: str) -> None:
    """Their files have no data, which llama.cpp does not notice before it computes."""
    path = tmp_path / "model.gguf"
    shape.write(path)
    assert_near(compare(PROGRAM, path, [*shape.args, *shlex.split(words)]))


@pytest.mark.parametrize(
    "words", ["-c 16384 -np 4", "-np 2 -kvu", "-fa off", "--swa-full", "-lm none", "-b 64"]
)
def test_estimates_follow_the_options(tmp_path: Path, words: str) -> None:
    """Of a model with sliding windows, on which all of them have an effect."""
    shape = next(shape for shape in SHAPES if shape.name == "windows")
    path = tmp_path / "model.gguf"
    shape.write(path)
    assert_near(compare(PROGRAM, path, shlex.split(words)))


@pytest.mark.parametrize("words", ["", "-c 512 -np 2", "-ctk q8_0 -ctv q8_0", "-ub 64"])
def test_estimates_of_tiny_chat_models_are_near(tmp_path: Path, words: str) -> None:
    """Of one with data, and of a larger one."""
    path = tmp_path / "model.gguf"
    for size_mb in (0, 60):
        make_chat_model(path, name="x", size_mb=size_mb)
        assert_near(compare(PROGRAM, path, shlex.split(words)))


def test_estimates_of_embedding_and_rerank_models_are_near(tmp_path: Path) -> None:
    """They keep no tokens."""
    make_embedding_model(tmp_path / "embedding.gguf")
    assert_near(compare(PROGRAM, tmp_path / "embedding.gguf", ["--embeddings"]))
    make_rerank_model(tmp_path / "rerank.gguf")
    assert_near(compare(PROGRAM, tmp_path / "rerank.gguf", ["--reranking"]))


def test_a_projector_and_a_draft_model_count(tmp_path: Path) -> None:
    """Both are loaded beside the model."""
    model, projector = tmp_path / "model.gguf", tmp_path / "projector.gguf"
    draft = tmp_path / "draft.gguf"
    make_chat_model(model, name="x")
    make_projector(projector)
    make_chat_model(draft, name="y", size_mb=40)
    assert_near(compare(PROGRAM, model, mmproj=projector))
    assert_near(compare(PROGRAM, model, ["-c", "1024"], draft=draft))


def test_a_context_that_fitting_reduced_is_reported(tmp_path: Path) -> None:
    """The report says what was wanted and what was chosen.

    llama.cpp needs 143 MiB; it does not count weights that are copied for the CPU.
    """
    shape = next(shape for shape in SHAPES if shape.name == "dense")
    path = tmp_path / "model.gguf"
    shape.write(path)
    total_mib = _total_mib()
    comparison = compare(PROGRAM, path, ["--fit-target", str(total_mib - 130)])
    assert comparison.reported.is_fitted
    assert comparison.reported.n_ctx_wanted == 8192
    assert comparison.reported.n_ctx < 8192


def _total_mib() -> int:
    """Return all memory of this machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    raise AssertionError
