"""Models in the form of Ollama's lists."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llama_router.control.ollama.listing import (
    API_VERSION,
    ModelFile,
    Residency,
    capabilities,
    details,
    digest,
    ps_entry,
    show_answer,
    tags_entries,
)
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec
from llama_router.models.discovery.found import Header

HEADER = Header(
    architecture="qwen3",
    context_length=32768,
    chat_template="{% if tools %}{% endif %}<think>",
    size_label="0.6B",
)
FILE = ModelFile(size_bytes=7, modified_s=1.0, real_path="/a.gguf", header=HEADER)
LOADED = Residency(memory_bytes=9, expires_s=5.0)
REPORTED = {"meta": {"n_ctx": 1024, "n_params": 7_615_616_512}}


def spec_of(**fields: Any) -> ModelSpec:
    return parse_config({"models": {"a": {"path": "a.gguf", **fields}}}).models[ModelId("a")]


def test_the_version_satisfies_every_known_client() -> None:
    """The strictest known client needs 0.13.4; the form is that of a release."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", API_VERSION)
    assert tuple(map(int, API_VERSION.split("."))) >= (0, 13, 4)


def test_every_list_has_the_served_context() -> None:
    """It is the one of the command before a load, and the backend's after that."""
    spec = spec_of(args=["--ctx-size", "4096"])
    (listed,) = tags_entries(spec, FILE)
    shown = show_answer(spec, FILE)
    assert listed["context_length"] == 4096
    assert shown["model_info"]["qwen3.context_length"] == 4096
    assert shown["parameters"].split() == ["num_ctx", "4096"]
    running = ps_entry(spec, FILE, LOADED, now_s=0.0, reported=REPORTED)
    assert running["context_length"] == 1024
    assert show_answer(spec, FILE, REPORTED)["model_info"]["qwen3.context_length"] == 1024


def test_every_list_has_the_capabilities() -> None:
    """Those of the template, and those of the command."""
    spec = spec_of(args=["--mmproj", "p.gguf"])
    found = ["completion", "tools", "vision", "thinking"]
    assert tags_entries(spec, FILE)[0]["capabilities"] == found
    assert ps_entry(spec, FILE, LOADED, now_s=0.0)["capabilities"] == found
    assert show_answer(spec, FILE)["capabilities"] == found
    assert capabilities(spec_of(args=["--embeddings"]), HEADER) == ["embedding"]
    assert capabilities(spec_of(args=["--reranking"]), HEADER) == []


def test_a_model_without_a_file_can_declare_its_facts() -> None:
    """All lists show them as they are written."""
    fields = {
        "capabilities": ["completion", "tools"],
        "context_length": 65536,
        "description": "far away",
        "metadata": {"owner": "team"},
    }
    spec = spec_of(spawn={"command": ["vllm"]}, **fields)
    listed = tags_entries(spec, ModelFile())[0]
    running = ps_entry(spec, ModelFile(), LOADED, now_s=0.0)
    shown = show_answer(spec, ModelFile())
    assert fields.items() <= listed.items()
    assert fields.items() <= running.items()
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["description"] == "far away"
    architecture = shown["model_info"]["general.architecture"]
    assert shown["model_info"][f"{architecture}.context_length"] == 65536


def test_another_name_has_another_digest() -> None:
    """A preset is not its model, nor are two models with one file of the hub the same."""
    plain, preset = tags_entries(spec_of(presets={"cold": {"temperature": 0}}), FILE)
    blob = ModelFile(real_path="/blobs/" + "a" * 64)
    digests = [plain["digest"], preset["digest"], digest("a", blob), digest("b", blob)]
    assert len(set(digests)) == 4
    assert all(re.fullmatch(r"[0-9a-f]{64}", each) for each in digests)
    assert digest("a", blob) == digest("a", blob)
    assert digest("a", ModelFile(real_path="/blobs/" + "b" * 64)) != digest("a", blob)


@pytest.mark.parametrize(
    ("path", "header", "reported", "size"),
    [
        ("a.gguf", HEADER, REPORTED, "7.6B"),
        ("a.gguf", HEADER, {"meta": {"n_params": 268_098_176}}, "268.1M"),
        ("a.gguf", HEADER, {}, "0.6B"),
        ("/x/Qwen2.5-7B-Instruct-Q4_K_M.gguf", None, {}, "7B"),
        ("/x/mixtral-8x7b-v0.1.Q4_K_M.gguf", None, {}, "8x7B"),
        ("/x/gemma-3-270m-it.gguf", None, {}, "270M"),
        ("/x/phi-mini-bf16.gguf", None, {}, ""),
    ],
)
def test_the_number_of_parameters(
    path: str, header: Header | None, reported: dict[str, Any], size: str
) -> None:
    """The backend's count goes before the label in the file, and that before the name."""
    file = ModelFile(header=header)
    assert details(spec_of(path=path), file, reported)["parameter_size"] == size
