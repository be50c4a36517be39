"""router.toml over found models, field by field."""

from __future__ import annotations

from typing import Any

import pytest

from llama_router.config.merge import FoundModels, MergedDocument, merge
from llama_router.core.config.config import Config
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelState

EYES = {
    "state": "auto",
    "path": "/hub/eyes.gguf",
    "mmproj": "/hub/mmproj.gguf",
    "found_args": ["--mmproj", "$mmproj"],
    "aliases": ["eyes.gguf", "eyes"],
}
EMBEDDER = {"state": "auto", "path": "/hub/e.gguf", "found_args": ["--embeddings"]}
FOUND = FoundModels(
    models={"o/r:Q4_0": EYES, "embedder": EMBEDDER},
    files={"o/r:Q4_0": (1, 1), "embedder": (1, 2)},
)


def laid(
    document: dict[str, Any],
    *,
    running: bool = False,
    found: FoundModels = FOUND,
    **file_of: object,
) -> MergedDocument:
    return merge(document, found, file_of=file_of, running=running)


def parsed(document: dict[str, Any], **options: Any) -> Config:
    return parse_config(laid(document, **options).document)


def warnings_of(merged: MergedDocument) -> list[str]:
    return [str(warning) for warning in merged.warnings]


def test_an_empty_document_has_what_was_found() -> None:
    """In order, complete, and without a word from the user."""
    merged = laid({})
    assert merged.found_only == {"o/r:Q4_0", "embedder"}
    config = parse_config(merged.document)
    assert list(config.models) == ["o/r:Q4_0", "embedder"]
    eyes, embedder = config.models.values()
    assert eyes.state is ModelState.AUTO
    assert eyes.spawn.args == ("--mmproj", "$mmproj")
    assert embedder.spawn.args == ("--embeddings",)
    assert config.resolve("eyes.gguf") == "o/r:Q4_0"


def test_each_field_that_is_written_takes_the_place_of_the_found_one() -> None:
    """All others stay; arguments of the user's own come after those that are needed."""
    table = {"group": "g", "args": ["--ctx-size", "9"], "aliases": ["x"]}
    model = parsed({"models": {"o/r:Q4_0": table}}).models
    eyes = next(iter(model.values()))
    assert (eyes.path, eyes.mmproj, eyes.group) == (EYES["path"], EYES["mmproj"], "g")
    assert eyes.spawn.args == ("--mmproj", "$mmproj", "--ctx-size", "9")
    assert eyes.aliases == ("x",)


def test_what_was_found_necessary_can_be_taken_away() -> None:
    """The user has the last word about every argument."""
    config = parsed({"models": {"embedder": {"found_args": []}}})
    assert next(iter(config.models.values())).spawn.args == ()


def test_the_users_models_come_first_in_their_order() -> None:
    """As in the file."""
    document = {"models": {"z": {"path": "/z"}, "embedder": {}, "a": {"path": "/a"}}}
    assert list(parsed(document).models) == ["z", "embedder", "a", "o/r:Q4_0"]


def test_another_program_gets_no_arguments_of_llama_server() -> None:
    """Wherever its command is written."""
    other = {"command": ["serve", "$path", "$port"]}
    for document in (
        {"default_spawn": other},
        {"models": {"embedder": {"spawn": other}}},
        {"templates": {"t": other}, "models": {"embedder": {"template": "t"}}},
    ):
        spec = {str(m): s for m, s in parsed(document).models.items()}["embedder"]
        assert spec.spawn.args == ()


@pytest.mark.parametrize(
    "default",
    [
        {"command": ["llama-server", "--port", "$port"]},
        {"command": ["vllm", "serve", "Qwen/Qwen2.5-7B-Instruct", "--port", "$port"]},
        {"command": ["serve", "$model", "$port"], "env": {"PORT": "$port"}},
    ],
)
def test_found_models_that_the_default_command_cannot_reach_are_left_out(
    default: dict[str, Any],
) -> None:
    """One warning names them; it would serve something else in their name."""
    merged = laid({"default_spawn": default, "models": {"embedder": {"group": "g"}}})
    assert merged.document["models"] == {}
    assert parse_config(merged.with_left_out()).models.keys() == {"embedder"}
    (warning,) = merged.warnings
    assert warning.path == ("default_spawn", "command")
    assert "'embedder', 'o/r:Q4_0'" in warning.message


@pytest.mark.parametrize(
    "default",
    [
        {"command": ["sh", "-c", "exec serve --file=$path --port $port"]},
        {"command": ["serve", "$port"], "args": ["-m", "$path"]},
        {"command": ["serve", "$port"], "env": {"MODEL": "$path"}},
        {"args": ["--verbose"]},
    ],
)
def test_found_models_are_served_wherever_the_default_command_takes_their_file(
    default: dict[str, Any],
) -> None:
    """In its words, in ``args`` or in ``env``."""
    assert len(parsed({"default_spawn": default}).models) == 2


def test_a_command_for_one_found_model_may_do_without_its_file() -> None:
    """It was written for this model, by the model or by its template."""
    other = {"command": ["serve", "$port"]}
    for document in (
        {"models": {"embedder": {"spawn": other}}},
        {"templates": {"t": other}, "models": {"embedder": {"template": "t"}}},
    ):
        default = {"command": ["vllm", "$port"]}
        assert parsed({"default_spawn": default, **document}).models.keys() == {"embedder"}


def test_args_of_another_command_do_not_count_as_words_of_a_model() -> None:
    """``$path`` in the default args makes no overlay of a model with a command of its own."""
    document = {
        "default_spawn": {"args": ["--model", "$path"]},
        "models": {"api": {"spawn": {"command": ["serve", "$port"]}}},
    }
    assert "api" in parsed(document, found=FoundModels()).models


@pytest.mark.parametrize("program", ["llama-server", "/opt/llama/bin/llama-server"])
def test_another_command_of_llama_server_gets_them(program) -> None:
    """With whatever else the user gives it."""
    document = {"default_spawn": {"command": [program, "-m", "$path", "-c", "0"], "args": ["-v"]}}
    spec = {str(m): s for m, s in parsed(document).models.items()}["embedder"]
    assert spec.spawn.args == ("-v", "--embeddings")


def test_names_of_the_user_win() -> None:
    """A found model loses an alias that a model of the user's has, or all of its name."""
    document = {"models": {"eyes": {"path": "/e", "aliases": ["embedder"]}}}
    config = parsed(document)
    assert config.resolve("eyes") == "eyes"
    assert config.resolve("embedder") == "eyes"
    assert config.resolve("eyes.gguf") == "o/r:Q4_0"
    assert list(config.models) == ["eyes", "o/r:Q4_0"]


def test_a_file_that_the_user_named_is_not_there_twice() -> None:
    """The user's table is the model, without additions."""
    config = parsed({"models": {"mine": {"path": "/hub/../hub/e.gguf"}}}, mine=(1, 2))
    assert list(config.models) == ["mine", "o/r:Q4_0"]
    assert next(iter(config.models.values())).spawn.args == ()


def test_the_same_file_may_be_repeated_in_an_overlay() -> None:
    """Then the rest is still as found."""
    config = parsed({"models": {"embedder": {"path": "/hub/e.gguf"}}}, embedder=(1, 2))
    spec = {str(m): s for m, s in config.models.items()}["embedder"]
    assert spec.spawn.args == ("--embeddings",)


def test_another_file_under_a_found_name_is_another_model() -> None:
    """Nothing of the found one is mixed in."""
    config = parsed({"models": {"o/r:Q4_0": {"path": "/other.gguf"}}}, **{"o/r:Q4_0": (7, 7)})
    model = next(iter(config.models.values()))
    assert (model.path, model.mmproj, model.spawn.args) == ("/other.gguf", None, ())
    assert model.state is ModelState.MANUAL


def test_settings_for_a_model_that_is_gone_wait_for_it() -> None:
    """A file that was removed must not keep the router from starting."""
    merged = laid({"models": {"embeder": {"group": "g"}}})
    assert "embeder" not in merged.document["models"]
    (said,) = warnings_of(merged)
    assert said.startswith("models.embeder: no scan finds a model of this name")
    assert said.endswith("did you mean 'embedder'?")


def test_a_model_that_needs_no_path_is_no_overlay() -> None:
    """A backend with a command of its own is complete without a file."""
    document = {"models": {"api": {"spawn": {"command": ["serve", "$port"]}}}}
    assert "api" in parsed(document, found=FoundModels()).models


def test_a_startup_model_that_is_gone_matters_only_at_the_start() -> None:
    """A running router has had its start; a home model may always be away."""
    document = {"router": {"startup_model": "gone", "home_model": "gone"}}
    merged = laid(document)
    assert merged.document["router"] == {"startup_model": "gone"}
    merged = laid(document, running=True)
    assert merged.document["router"] == {}
    assert len(merged.warnings) == 2
    assert document["router"] == {"startup_model": "gone", "home_model": "gone"}


def test_the_machine_may_know_a_startup_model() -> None:
    """It counts where the user names none, and the model is there."""
    found = FoundModels(models=FOUND.models, files=FOUND.files, startup_model="eyes")
    assert parsed({}, found=found).router.startup_model == "eyes"
    document = {"router": {"startup_model": "embedder"}}
    assert parsed(document, found=found).router.startup_model == "embedder"
    gone = FoundModels(startup_model="eyes")
    assert parsed({}, found=gone).router.startup_model is None


@pytest.mark.parametrize(
    "document",
    [
        {"models": 3},
        {"models": {"embedder": 3}},
        {"models": {"embedder": {"aliases": 3}}},
        {"models": {"embedder": {"template": ["t"]}}},
        {"models": {"embedder": {"spawn": 3}}},
        {"models": {"embedder": {"spawn": {"command": [3]}}}},
        {"models": {"embedder": {"spawn": {"command": []}}}},
        {"models": {"x": {"spawn": {"command": "$"}}}},
        {"models": {"x": {"spawn": {"command": ["a $ b"]}}}},
        {"default_spawn": 3, "templates": [], "router": 3},
        {"templates": {"t": 3}, "models": {"embedder": {"template": "t"}}},
        {"router": {"startup_model": 3, "home_model": []}},
    ],
)
def test_malformed_documents_are_left_for_the_parser(document) -> None:
    """It says what is wrong, with lines; here nothing fails."""
    laid(document)
    laid(document, running=True)


def test_a_service_is_none_of_what_is_found() -> None:
    """Neither its table needs a file, nor do the names of several models of it count as gone."""
    tables = {"one": {"url": "http://h"}, "box": {"url": "http://h", "models": ["a"]}}
    document = {"router": {"default_model": "box/a"}, "models": tables}
    result = merge(document, FOUND, file_of={}, running=False)
    assert result.warnings == ()
    assert {"one", "box/a"} < set(map(str, parse_config(result.document).models))
    result = merge(
        {**document, "router": {"default_model": "box"}}, FOUND, file_of={}, running=True
    )
    assert [warning.path for warning in result.warnings] == [("router", "default_model")]


def test_patterns_stand_for_what_a_service_lists() -> None:
    """Once each, and never in the place of another model; its table asks for the list."""
    tables = {
        "box": {"url": "http://h", "models": ["a*", "b"]},
        "box/a2": {"url": "http://i"},
        "o": {"url": "http://h", "models": ["*"]},
    }
    listed = {"http://h": ("a1", "a2", "b", "c", "r:Q4_0"), "http://j": ("a3",)}
    found = FoundModels(models=FOUND.models, files=FOUND.files, services=listed)
    config = parsed({"models": tables}, found=found)
    own = {str(m): spec.url for m, spec in config.models.items() if spec.url is not None}
    assert own == {
        **dict.fromkeys(("box/a1", "box/b", "o/a1", "o/a2", "o/b", "o/c"), "http://h"),
        "box/a2": "http://i",
    }
    assert config.imports.keys() == {"box", "o"}
    assert parsed({"models": tables}).imports.keys() == {"box", "o"}


def test_a_default_model_that_is_gone_is_ignored() -> None:
    """The router goes on, and refuses who names no model; one with a preset is there."""
    router = {"default_model": "gone", "default_for_unknown": True}
    result = laid({"router": router})
    assert [warning.path for warning in result.warnings] == [("router", "default_model")]
    assert parse_config(result.document).router.default_model is None
    document = {
        "router": {"default_model": "embedder:small"},
        "models": {"embedder": {"presets": {"small": {"dimensions": 8}}}},
    }
    assert parse_config(laid(document).document).resolve("embedder:small") == "embedder"
