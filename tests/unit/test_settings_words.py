"""Settings as people type them for ``llama-router set``, and the difference that they make."""

from __future__ import annotations

import pytest

from llama_router.cli.failures import CommandError
from llama_router.cli.settings_words import parse_assignment, with_option


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("ttl_s=600", ("ttl_s", 600)),
        ("ttl=5m", ("ttl_s", "5m")),
        ("keep_loaded=yes", ("keep_loaded", True)),
        ("autoload=off", ("autoload", False)),
        ("group=1", ("group", "1")),
        ('group="g h"', ("group", "g h")),
        ("aliases=a,b c", ("aliases", ["a", "b c"])),
        ('aliases=["x"]', ("aliases", ["x"])),
        ("args=--jinja -c 5", ("args", ["--jinja", "-c", "5"])),
        ("spawn.ready_timeout_s=3", ("spawn.ready_timeout_s", 3)),
        ("path=a = b", ("path", "a = b")),
        ("x=1\ny=2", ("x", "1\ny=2")),
    ],
)
def test_words_are_settings(word, setting) -> None:
    """TOML, plain words, and short names."""
    assert parse_assignment(word) == setting


@pytest.mark.parametrize("word", ["nonsense", "=1", " =1"])
def test_another_word_is_a_mistake(word) -> None:
    """With an example of the form."""
    with pytest.raises(CommandError, match="is not KEY=VALUE"):
        parse_assignment(word)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], ["--ctx-size", "8192"]),
        (["--jinja"], ["--jinja", "--ctx-size", "8192"]),
        (["-c", "1", "--jinja"], ["--ctx-size", "8192", "--jinja"]),
        (["--ctx-size=1", "-c", "2"], ["--ctx-size", "8192"]),
        (["--ctx-size"], ["--ctx-size", "8192"]),
    ],
)
def test_an_option_of_llama_server_takes_its_own_place(args, expected) -> None:
    """In every spelling, once."""
    assert with_option(args, "ctx", 8192) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ctx", "abc"),
        ("ctx", -5),
        ("ctx", 1.5),
        ("ctx", ""),
        ("ctx", True),
        ("parallel", 0),
        ("gpu_layers", "some"),
        ("threads", "x"),
    ],
)
def test_an_option_of_llama_server_is_checked(key, value) -> None:
    """A model that works is not restarted with what its server cannot read."""
    with pytest.raises(CommandError, match=f"{key} must be a whole number"):
        with_option([], key, value)


def test_words_that_llama_server_takes_for_numbers() -> None:
    """As many layers as fit, or all of them."""
    assert with_option([], "gpu_layers", "all") == ["--n-gpu-layers", "all"]
