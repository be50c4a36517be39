"""Probable mistakes in commands."""

from typing import Any

import pytest

from llama_router.config.command_warnings import command_place, command_warnings
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec

SERVER = ["llama-server", "--port", "$port"]


def spec_of(document: dict[str, Any]) -> ModelSpec:
    return next(iter(parse_config(document).models.values()))


def warnings_of(**table: Any) -> list[str]:
    return list(command_warnings(spec_of({"models": {"m": table}})))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"spawn": {"command": ["serve", "--port", "8000"]}}, "it does not use '$port'"),
        ({"path": "/m", "spawn": {"command": ["serve", "$port"]}}, "it does not use '$path'"),
        ({"spawn": {"command": ["vllm serve Qwen --port $port"]}}, "'vllm', 'serve', 'Qwen'"),
        ({"spawn": {"command": ["/opt/serve -p $port"]}}, "'/opt/serve', '-p', '$port'"),
        ({"spawn": {"command": ["serve 'a"]}}, "the whole command is one word"),
        ({"spawn": {"command": SERVER}}, "it names no model"),
        (
            {"path": "/m", "spawn": {"command": [*SERVER, "-m", "$path", "--ctx-size 99"]}},
            "'--ctx-size 99' is one argument",
        ),
        ({"path": "/m", "args": ["-c 99"]}, "'-c', '99'"),
    ],
)
def test_each_mistake_is_one_sentence_with_a_remedy(table: dict[str, Any], words: str) -> None:
    """It would cost a start that waits for its deadline."""
    (warning,) = warnings_of(**table)
    assert words in warning


@pytest.mark.parametrize(
    "table",
    [
        {"path": "/m"},
        {"path": "/m", "args": ["--chat-template-kwargs", '{"a": -1}', "-c", "9"]},
        {"spawn": {"command": ["serve"], "env": {"PORT": "$port"}}},
        {"spawn": {"command": ["sh", "-c", "exec serve --port $port"]}},
        {"spawn": {"command": ["/opt/my models/serve"], "env": {"PORT": "$port"}}},
        {"spawn": {"command": [*SERVER, "-hf", "user/repo"]}},
        {"spawn": {"command": [*SERVER, "--model=/m.gguf"]}},
        {"spawn": {"command": [*SERVER, "--gpt-oss-20b-default"]}},
        {"spawn": {"command": SERVER, "env": {"LLAMA_ARG_HF_REPO": "user/repo"}}},
    ],
)
def test_a_command_that_can_work_is_not_doubted(table: dict[str, Any]) -> None:
    """Wherever the port and the model are."""
    assert warnings_of(**table) == []


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"models": {"m": {"spawn": {"command": ["x"]}}}}, ("models", "m", "spawn", "command")),
        (
            {"templates": {"t": {"command": ["x"]}}, "models": {"m": {"template": "t"}}},
            ("templates", "t", "command"),
        ),
        (
            {"default_spawn": {"command": ["x"]}, "models": {"m": {}}},
            ("default_spawn", "command"),
        ),
        ({"models": {"m": {"path": "/m"}}}, ("models", "m")),
    ],
)
def test_the_place_of_a_command_is_where_it_is_written(
    document: dict[str, Any], place: tuple[str, ...]
) -> None:
    """In the model, its template, or the defaults."""
    assert command_place(document, spec_of(document)) == place
