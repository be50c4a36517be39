"""Facts about a model's service: from its settings, its command and its backend's report."""

from __future__ import annotations

from typing import Any

import pytest

from llama_router.control.llama_cpp.model_facts import (
    abilities,
    accepts_images,
    context_length,
    described,
    serves_only,
)
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import Capability, ModelSpec
from llama_router.models.discovery.found import ModelKind

VLLM = {"spawn": {"command": ["vllm", "serve", "--max-model-len=8192", "-c", "7"]}}

VARIABLE = {"spawn": {"command": ["llama-server"], "env": {"LLAMA_ARG_CTX_SIZE": "512"}}}
OTHER = {"spawn": {"command": ["x"]}}


def spec_of(**fields: Any) -> ModelSpec:
    return parse_config({"models": {"a": {"path": "a.gguf", **fields}}}).models[ModelId("a")]


@pytest.mark.parametrize(
    ("fields", "trained", "reported", "tokens"),
    [
        ({}, 32768, {}, 32768),
        ({}, 2048, {}, 2048),
        ({}, None, {"meta": {"n_ctx_train": 1024}}, 1024),
        ({"args": ["--ctx-size", "16384"]}, 32768, {}, 16384),
        ({"args": ["-c", "16384"]}, 32768, {}, 16384),
        ({"args": ["-c", "0"]}, 32768, {}, 32768),
        ({"args": ["-c", "16384"]}, 32768, {"meta": {"n_ctx": 8192}}, 8192),
        ({"args": ["-c", "8192", "--parallel", "2"]}, 32768, {}, 4096),
        ({"args": ["-c", "8192", "-np", "2", "--kv-unified"]}, 32768, {}, 8192),
        (
            {"spawn": {"command": ["llama-server"], "env": {"LLAMA_ARG_CTX_SIZE": "512"}}},
            0,
            {},
            512,
        ),
        (VLLM, None, {}, 8192),
        ({"spawn": {"command": ["vllm", "serve"]}}, None, {"max_model_len": 2048}, 2048),
        ({"spawn": {"command": ["python3", "-c", "5"]}}, None, {}, None),
        ({"context_length": 65536}, 32768, {}, 65536),
        ({"context_length": 65536}, None, {"meta": {"n_ctx": 8192}}, 8192),
        (
            {"spawn": {"command": ["x"]}},
            None,
            {"meta": {"n_ctx": True}, "max_model_len": "9"},
            None,
        ),
        ({"args": ["-c", "9" * 5000]}, 2048, {}, 2048),
    ],
)
def test_the_context_is_the_served_one(
    fields: dict[str, Any], trained: int | None, reported: dict[str, Any], tokens: int | None
) -> None:
    """It is the smallest of trained, command and report; settings replace the first two."""
    assert context_length(spec_of(**fields), trained=trained, reported=reported) == tokens


@pytest.mark.parametrize(
    ("fields", "reported", "sees"),
    [
        ({}, {}, False),
        ({"mmproj": "p.gguf"}, {}, False),
        ({"args": ["--mmproj", "p.gguf"]}, {}, True),
        ({"args": ["-mm", "p.gguf", "--no-mmproj"]}, {}, False),
        ({"mmproj": "p.gguf", "spawn": {"command": ["serve", "--eyes=$mmproj"]}}, {}, True),
        ({"spawn": {"command": ["x"], "env": {"LLAMA_ARG_MMPROJ": "/p"}}}, {}, True),
        ({}, {"capabilities": ("completion", "multimodal")}, True),
        ({"capabilities": ["vision"]}, {}, True),
        ({"capabilities": ["completion"], "args": ["--mmproj", "p.gguf"]}, {}, False),
    ],
)
def test_a_projector_in_the_command_makes_images_an_input(
    fields: dict[str, Any],
    reported: dict[str, Any],
    sees: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """A projector that no command uses does not, and settings go before everything."""
    assert accepts_images(spec_of(**fields), reported) is sees


@pytest.mark.parametrize(
    ("fields", "only"),
    [
        ({}, None),
        ({"args": ["--embeddings"]}, Capability.EMBEDDING),
        ({"args": ["--embedding", "--reranking"]}, Capability.RERANK),
        ({"spawn": {"command": ["x"], "env": {"LLAMA_ARG_EMBEDDINGS": "1"}}}, Capability.EMBEDDING),
        ({"spawn": {"command": ["x"], "env": {"LLAMA_ARG_EMBEDDINGS": "off"}}}, None),
    ],
)
def test_a_command_may_allow_one_kind_of_request(
    fields: dict[str, Any], only: Capability | None
) -> None:
    """llama-server with such an option serves nothing else."""
    assert serves_only(spec_of(**fields)) is only


def test_texts_and_facts_of_the_settings_are_listed() -> None:
    """Fields that are not set are left out."""
    assert described(spec_of()) == {}
    fields = {"description": "quick", "metadata": {"size": 7, "tags": ["a"]}}
    assert described(spec_of(**fields)) == fields


@pytest.mark.parametrize(
    ("fields", "kind", "expected"),
    [
        ({}, ModelKind.CHAT, ["completion", "tools"]),
        ({"args": ["--mmproj", "p.gguf"]}, ModelKind.CHAT, ["completion", "tools", "vision"]),
        ({}, ModelKind.RERANK, ["rerank"]),
        ({"args": ["--embeddings"]}, ModelKind.CHAT, ["embedding"]),
        ({"capabilities": ["completion", "audio"]}, ModelKind.RERANK, ["completion", "audio"]),
        ({}, None, []),
    ],
)
def test_abilities(fields: dict[str, Any], kind: ModelKind | None, expected: list[str]) -> None:
    """Those of the settings, else of the command, else of the file; none if nothing is known."""
    assert abilities(spec_of(**fields), kind=kind, takes_tools=True, thinks=False) == expected
