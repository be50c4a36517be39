"""The JSON Schema of router.toml accepts what the parser accepts, and refuses plain mistakes."""

import tomllib
from typing import Any

import jsonschema
import pytest

from llama_router.config.example import example_config, meanings, with_schema_beside
from llama_router.core.config import tables
from llama_router.core.config.json_schema import json_schema, schema_of
from llama_router.core.config.parse import parse_config
from llama_router.errors.config import ConfigError

SCHEMA = json_schema(meanings(example_config()))
CHECK = jsonschema.Draft202012Validator(SCHEMA)


def test_it_is_a_valid_schema() -> None:
    """An editor can load it."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_it_describes_every_key() -> None:
    """The text comes from the comment above the key in the example."""
    for name, section in SCHEMA["properties"].items():
        table = SCHEMA["$defs"]["spawn"] if name == "default_spawn" else section
        table = table.get("properties") or table["additionalProperties"]["properties"]
        assert [key for key, about in table.items() if "description" not in about] == [], name
    port = SCHEMA["properties"]["router"]["properties"]["port"]
    assert port == {
        "type": "integer",
        "minimum": 0,
        "maximum": 65535,
        "description": "The TCP port to listen on; 0 takes any free one.",
        "default": 8082,
    }


def test_it_has_every_table() -> None:
    """A table that the parser knows is in the schema, and no other."""
    assert tuple(SCHEMA["properties"]) == tables.SECTIONS


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"router": {"host": ["127.0.0.1", "[::1]:9000"], "drain_s": 5, "ttl_s": 0.5}},
        {"router": {"ttl_s": "5m", "drain_s": "1h 30m", "cooldown_s": "250ms"}},
        {"router": {"cors_origins": ["*", "http://localhost:*", "null"]}},
        {"router": {"pages_origin": "https://pages.example.org"}},
        {"router": {"llama_server": "llama-server-cuda"}},
        {"default_spawn": {"env": {"A": ""}, "cwd": "/srv", "ready_limit_s": 10}},
        {"templates": {"t": {"command": ["a", "$port"], "autoload": False}}},
        {"api_keys": {"a": {"sha256": "aB" * 32, "models": ["*"]}}},
        {"devices": {"p": {"kind": "pool", "amount": 1}, "nvidia0": {"ignore": True}}},
        {
            "devices": {"p": {"kind": "pool", "amount": 1}},
            "models": {
                "name with spaces: ü": {
                    "path": "/m",
                    "memory_mib": {"host": 5},
                    "devices": ["nvidia0"],
                    "needs": {"p": 1},
                    "presets": {"x": {"temperature": 0.5, "stop": ["a"]}},
                    "spawn": {"args": [""], "stop_timeout_s": 1},
                },
                "b": {"path": "/m", "memory_mib": 5, "devices": "auto", "capabilities": []},
            },
        },
    ],
)
def test_it_accepts_what_the_parser_accepts(document: dict[str, Any]) -> None:
    """An editor marks no valid file."""
    parse_config(document)
    CHECK.validate(document)


@pytest.mark.parametrize(
    "document",
    [
        {"routr": {}},
        {"router": {"prot": 1}},
        {"router": {"port": "80"}},
        {"router": {"port": 65536}},
        {"router": {"host": []}},
        {"router": {"host": ""}},
        {"router": {"log_level": "loud"}},
        {"router": {"drain_s": -1}},
        {"router": {"read_timeout_s": 0}},
        {"router": {"ttl_s": "5"}},
        {"scheduler": {"swap_patience": "5m"}},
        {"router": {"admin_token": "short"}},
        {"router": {"llama_server": "/opt/vllm"}},
        {"router": {"cors_origins": ["https://chat.example.org/path"]}},
        {"router": {"pages_origin": "http://127.0.0.1:*"}},
        {"default_spawn": {"command": []}},
        {"default_spawn": {"health_endpoint": "health"}},
        {"default_spawn": {"env": {"A=B": "1"}}},
        {"templates": {"t": {"ttl_s": 1}}},
        {"api_keys": {"a": {}}},
        {"api_keys": {"a": {"key": "sk-0123456789", "sha256": "a" * 64}}},
        {"api_keys": {"a": {"sha256": "a" * 63}}},
        {"models": {"a": {"path": "/m", "memory_mib": 0}}},
        {"models": {"a": {"path": "/m", "devices": "nvidia0"}}},
        {"models": {"a": {"path": "/m", "aliases": "b"}}},
        {"models": {"a": {"path": "/m", "capabilities": ["flying"]}}},
        {"models": {"a": {"path": "/m", "set_params": {"model": "x"}}}},
        {"models": {"a": {"path": "/m", "spawn": {"path": "/m"}}}},
    ],
)
def test_it_refuses_a_plain_mistake(document: dict[str, Any]) -> None:
    """What is wrong in one value is marked while it is written."""
    with pytest.raises(ConfigError):
        parse_config(document)
    assert not CHECK.is_valid(document)


def test_a_type_that_is_no_kind_has_no_schema() -> None:
    """A new kind is not forgotten here silently."""
    with pytest.raises(TypeError, match="bytes"):
        schema_of(bytes)


def test_the_example_that_init_writes_names_the_schema_beside_it() -> None:
    """In its first line, where editors look; nothing else differs."""
    first, *rest = with_schema_beside(example_config()).splitlines()
    assert first == "#:schema ./router.schema.json"
    assert rest == example_config().splitlines()[1:]
    assert tomllib.loads("\n".join(rest)) == tomllib.loads(example_config())
