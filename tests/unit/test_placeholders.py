"""Placeholders: what is replaced, what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config import placeholders
from llama_router.core.config.command import command_line, environment
from llama_router.core.config.names import ModelId
from llama_router.core.config.specs import ModelSpec, SpawnSpec


def model(*command: str, env: dict[str, str] | None = None, path: str | None = None) -> ModelSpec:
    spawn = SpawnSpec(command=command, args=("--alias", "$model"), env=env or {})
    return ModelSpec(id=ModelId("a/b:c"), spawn=spawn, path=path)


@pytest.mark.parametrize(
    ("argument", "expanded"),
    [
        ("--port", "--port"),
        ("", ""),
        ("$port", "8000"),
        ("http://$host:$port/", "http://::1:8000/"),
        ("$$port", "$port"),
        ("$$$port", "$8000"),
        ("$port$$", "8000$"),
    ],
)
def test_names_are_replaced_inside_an_argument(argument: str, expanded: str) -> None:
    """A placeholder may stand anywhere in an argument; `$$` is one dollar sign."""
    assert placeholders.expand(argument, {"port": "8000", "host": "::1"}) == expanded


def test_a_replaced_value_is_not_expanded_again() -> None:
    """A file name with a dollar sign reaches the program as it is."""
    assert placeholders.expand("$path", {"path": "$port$$"}) == "$port$$"


def test_names_in_returns_each_name_once() -> None:
    """Names come without dollar signs, and an escaped one is none."""
    assert placeholders.names_in("$path:$port:$path:$$host") == {"path", "port"}


@pytest.mark.parametrize("argument", ["$prot", "$PORT", "$port_", "x $pathname"])
def test_an_unknown_name_is_refused_with_the_known_ones(argument: str) -> None:
    """A typing error never reaches a command line as text."""
    with pytest.raises(ValueError, match=r"unknown placeholder.*\$mmproj.*\$port.*'\$\$'"):
        placeholders.names_in(argument)


@pytest.mark.parametrize("argument", ["$", "a$ b", "$1", "${path}", "$$$", "$-x"])
def test_a_dollar_sign_without_a_name_is_refused(argument: str) -> None:
    """The message says how a dollar sign is written."""
    with pytest.raises(ValueError, match=r"write '\$\$'"):
        placeholders.names_in(argument)


def test_a_name_without_a_value_is_refused() -> None:
    """`expand` leaves no placeholder behind."""
    with pytest.raises(ValueError, match=r"no value for '\$path'"):
        placeholders.expand("$path", {"port": "1"})


@given(st.text())
def test_escaped_text_survives_expansion(text: str) -> None:
    """`escape` is undone by `expand`, whatever the text."""
    assert placeholders.expand(placeholders.escape(text), {}) == text


def test_command_line_is_the_command_and_then_the_args() -> None:
    """Nothing is added to what is configured, and `$model` is the id."""
    spec = model("serve", "$path", "--bind=$host:$port", path="/m.gguf")
    assert command_line(spec, port=50001, host="127.0.0.1") == (
        *("serve", "/m.gguf", "--bind=127.0.0.1:50001"),
        *("--alias", "a/b:c"),
    )


def test_values_of_the_environment_are_expanded() -> None:
    """Names of variables stay, placeholders in their values are replaced."""
    spec = model("serve", env={"PORT": "$port", "PRICE": "5$$"})
    assert environment(spec, port=7, host="h") == {"PORT": "7", "PRICE": "5$"}
