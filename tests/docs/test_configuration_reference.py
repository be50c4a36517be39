"""router.toml and the configuration reference say what the code does."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import attrs
import jsonschema
import pytest

from llama_router.config.example import example_config, meanings
from llama_router.config.load import load_config
from llama_router.core.config import placeholders
from llama_router.core.config.json_schema import json_schema
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import (
    DEFAULT_SPAWN,
    DeviceSpec,
    ModelSpec,
    OnChange,
    RouterSpec,
    SchedulerSpec,
    SpawnSpec,
)

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "router.toml"
REFERENCE = ROOT / "docs" / "reference" / "configuration.md"

# An example in a comment: a whole table header, or a key with a value.
EXAMPLE_LINE = re.compile(r"^# (\[[^\]]+\]|[a-z_]+ = .+)$", re.MULTILINE)
ROW = re.compile(r"^\| `(\w+)` \| .+ \| (.+) \| .+ \| (.+) \|$", re.MULTILINE)

# What a model's table may have: not quite the fields of its spec.
ARGS = {"args", "found_args", "models"}
MODEL_KEYS = {field.name for field in attrs.fields(ModelSpec)} - {"id"} | ARGS
SECTIONS: dict[str, tuple[type[attrs.AttrsInstance], Any]] = {
    "## `[router]`": (RouterSpec, RouterSpec()),
    "## `[scheduler]`": (SchedulerSpec, SchedulerSpec()),
    "## Devices: `[devices.NAME]`": (DeviceSpec, DeviceSpec()),
    "## Spawn settings": (SpawnSpec, DEFAULT_SPAWN),
}


def uncommented() -> str:
    return EXAMPLE_LINE.sub(r"\1", EXAMPLE.read_text())


def _section(name: str) -> str:
    """Return the text of the example from the first table of a section to the next section."""
    return re.split(rf"^# \[{name}\.", EXAMPLE.read_text(), flags=re.MULTILINE)[1].split("[api_")[0]


def rows(heading: str) -> dict[str, tuple[str, str]]:
    """Return default and restart column of each field under *heading*."""
    text = REFERENCE.read_text()
    (section,) = (part for part in re.split(r"\n(?=## )", text) if part.startswith(heading))
    return {name: (default, restart) for name, default, restart in ROW.findall(section)}


def fields(spec: type[attrs.AttrsInstance]) -> set[str]:
    return {field.name for field in attrs.fields(spec)}


def test_the_example_can_be_used_as_it_is() -> None:
    """A new user starts from it; that it has no models is the only thing to say."""
    loaded = load_config(EXAMPLE)
    assert loaded.config == parse_config({})
    assert [str(warning) for warning in loaded.warnings] == ["no models are configured"]


def test_the_example_has_every_field() -> None:
    """Everything that can be set is in it."""
    document = tomllib.loads(uncommented())
    assert document["router"].keys() == fields(RouterSpec)
    assert document["scheduler"].keys() == fields(SchedulerSpec) - {"max_models"}
    assert "# # max_models = " in EXAMPLE.read_text()  # it contradicts the default policy
    shown = set(re.findall(r"^#(?: #)? (\w+) = ", _section("devices"), re.MULTILINE))
    assert shown == fields(DeviceSpec)
    assert document["default_spawn"].keys() == fields(SpawnSpec)
    assert set[str]().union(*document["models"].values()) == MODEL_KEYS


def test_the_uncommented_example_is_valid() -> None:
    """Every example line works, all of them together as well."""
    config = parse_config(tomllib.loads(uncommented()))
    assert list(config.models) == [
        *("qwen-7b", "vllm-qwen", "big", "beside/qwen-7b", "beside/gemma-4b")
    ]
    assert config.resolve("qwen") == "qwen-7b"


def test_the_schema_accepts_the_uncommented_example() -> None:
    """An editor marks nothing in it."""
    document = tomllib.loads(uncommented())
    jsonschema.Draft202012Validator(json_schema(meanings(example_config()))).validate(document)


def test_the_written_schema_is_the_generated_one() -> None:
    """``llama-router schema > docs/reference/router.schema.json`` writes it."""
    written = json.loads((REFERENCE.parent / "router.schema.json").read_text())
    assert written == json_schema(meanings(example_config()))


def test_the_example_shows_the_defaults() -> None:
    """A line that is uncommented and not edited changes nothing."""
    document = tomllib.loads(uncommented())
    without_default = {
        *(
            "startup_model",
            "state_dir",
            "llama_server",
            "models_dirs",
            "safetensors_template",
            "cwd",
            "stop_command",
            "check_port_owner",
            "ready_limit_s",
            "admin_token",
            "home_model",
            "default_model",
            "pages_origin",
        )
    }
    router = {k: v for k, v in document["router"].items() if k not in without_default}
    scheduler = document["scheduler"]
    spawn = {k: v for k, v in document["default_spawn"].items() if k not in without_default}
    config = parse_config(
        {
            "router": router,
            "scheduler": scheduler,
            "models": {"a": {"path": "/m", "spawn": spawn}},
        }
    )
    assert config == parse_config({"models": {"a": {"path": "/m"}}})


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_reference_has_every_field_with_its_default(heading: str) -> None:
    """The tables are compared with the code, value by value."""
    spec, defaults = SECTIONS[heading]
    table = rows(heading)
    assert table.keys() == fields(spec)
    for name, (default, _) in table.items():
        expected = getattr(defaults, name)
        if default == "none":
            assert expected is None, name
        elif default == "see below":
            assert name == "command"
        else:
            value = tomllib.loads(f"value = {default.strip('`')}")["value"]
            assert value == (list(expected) if isinstance(expected, tuple) else expected), name


def test_the_reference_has_every_field_of_a_model() -> None:
    """Fields without a default of their own say `none` or where it comes from."""
    table = rows('## Models: `[models."NAME"]`')
    assert table.keys() == MODEL_KEYS
    spec = ModelSpec(id=ModelId("a"), spawn=DEFAULT_SPAWN)
    assert {name for name, (default, _) in table.items() if default == "none"} == {
        name for name in MODEL_KEYS - ARGS if getattr(spec, name) is None
    }


def test_the_reference_says_what_needs_a_restart() -> None:
    """The last column is the metadata of the fields."""
    written, actual = {}, {}
    specs: list[tuple[str, type[attrs.AttrsInstance]]] = [
        *((heading, spec) for heading, (spec, _) in SECTIONS.items()),
        ('## Models: `[models."NAME"]`', ModelSpec),
    ]
    for heading, spec in specs:
        for field in attrs.fields(spec):
            if field.name == "id":
                continue
            key = (spec.__name__, field.name)
            written[key] = rows(heading)[field.name][1]
            actual[key] = {
                OnChange.RESTART: "yes",
                OnChange.RETUNE: "no",
                OnChange.INSIDE: "as there",
            }[field.metadata["on_change"]]
    assert written == actual


def test_the_examples_in_the_reference_are_valid() -> None:
    """The first is the built-in command, the second a file of its own."""
    command, example = re.findall(r"```toml\n(.*?)```", REFERENCE.read_text(), re.DOTALL)
    assert tuple(tomllib.loads(command)["command"]) == DEFAULT_SPAWN.command
    (spec,) = parse_config(tomllib.loads(example)).models.values()
    assert spec.spawn == attrs.evolve(
        DEFAULT_SPAWN,
        args=("--ctx-size", "32768"),
        ready_timeout_s=300,
        env={"CUDA_VISIBLE_DEVICES": "1"},
    )


def test_the_reference_has_every_placeholder() -> None:
    """And no other."""
    named = set(re.findall(r"^\| `\$(\w+)` \|", REFERENCE.read_text(), re.MULTILINE))
    assert named == placeholders.STOP_NAMES
