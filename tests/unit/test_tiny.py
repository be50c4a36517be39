"""The maker of tiny models: same bytes for the same wish, whole files only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from llama_router.models.tiny.bert import make_embedding_model, make_rerank_model
from llama_router.models.tiny.chat import make_chat_model

MAKERS = {
    "chat": lambda path, **choices: make_chat_model(path, **{"name": "m", **choices}),
    "embedding": make_embedding_model,
    "rerank": make_rerank_model,
}


@pytest.fixture(params=MAKERS)
def make(request):
    """Each kind of model in turn."""
    return MAKERS[request.param]


def field(path: Path, name: str) -> object:
    """Return a value from the header."""
    found = gguf.GGUFReader(path).get_field(name)
    assert found is not None, f"the header has no {name}"
    return found.contents()


def test_same_seed_and_name_give_the_same_bytes(make, tmp_path) -> None:
    """A model can be made again, byte for byte."""
    make(tmp_path / "a.gguf", name="same", seed=7)
    make(tmp_path / "b.gguf", name="same", seed=7)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_another_seed_gives_other_weights(make, tmp_path) -> None:
    """The seed decides about the weights, and about nothing else."""
    make(tmp_path / "a.gguf", name="same", seed=7)
    make(tmp_path / "b.gguf", name="same", seed=8)
    a, b = (tmp_path / "a.gguf").read_bytes(), (tmp_path / "b.gguf").read_bytes()
    assert a != b
    assert (len(a), a[:1000]) == (len(b), b[:1000])


def test_header_is_gguf_version_3_and_names_the_model(make, tmp_path) -> None:
    """A header scanner finds what it looks for."""
    path = tmp_path / "m.gguf"
    make(path, name="my model")
    assert path.read_bytes()[:8] == b"GGUF\x03\0\0\0"
    assert field(path, "general.name") == "my model"
    assert field(path, "general.type") == "model"


@pytest.mark.parametrize(
    ("kind", "architecture", "pooling"),
    [("embedding", "bert", gguf.PoolingType.MEAN), ("rerank", "bert", gguf.PoolingType.RANK)],
)
def test_pooling_type_tells_the_reranker(kind, architecture, pooling, tmp_path) -> None:
    """An embedder and a reranker differ in ``bert.pooling_type``."""
    MAKERS[kind](tmp_path / "m.gguf")
    assert field(tmp_path / "m.gguf", "general.architecture") == architecture
    assert field(tmp_path / "m.gguf", "bert.pooling_type") == pooling


def test_n_ctx_is_in_the_header(tmp_path) -> None:
    """The context length is the one that was asked for."""
    make_chat_model(tmp_path / "m.gguf", name="m", n_ctx=512)
    assert field(tmp_path / "m.gguf", "llama.context_length") == 512


def test_size_is_about_what_was_asked_for(tmp_path) -> None:
    """``size_mb`` is met to within a layer, about 30 MB."""
    make_chat_model(tmp_path / "m.gguf", name="m", size_mb=62)
    assert (tmp_path / "m.gguf").stat().st_size / 1e6 == pytest.approx(62, abs=16)


def test_an_old_file_is_replaced(make, tmp_path) -> None:
    """Making a model again leaves exactly one file, the new one."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    make(path)
    assert path.read_bytes()[:4] == b"GGUF"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_no_other(make, tmp_path, monkeypatch) -> None:
    """The target changes only when the new file is complete."""

    def fail(_writer: gguf.GGUFWriter) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", fail)
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        make(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_gguf_the_error_names_the_extra(make, tmp_path, monkeypatch) -> None:
    """Who lacks the optional package learns how to get it."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ImportError, match=r"install llama-router\[embedded\]"):
        make(tmp_path / "m.gguf")


def test_importing_the_modules_does_not_import_gguf() -> None:
    """The optional packages cost nothing until a model is made."""
    code = (
        "import sys; from llama_router.models.tiny import bert, chat, projector; "
        "print({'gguf', 'numpy'}.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
