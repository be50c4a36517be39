"""Errors of the commands, as they are printed, and suggestions for misspelt names."""

from __future__ import annotations

import pytest

from llama_router.cli.failures import CliError, without_output
from llama_router.cli.printing import print_error
from llama_router.cli.suggestions import close_names, suggestion
from llama_router.cli.terminal import has_colours, has_unicode, shortened, wrapped
from llama_router.errors.backends import BackendExitedError


def test_an_error_says_what_happened_what_to_do_and_details(capsys) -> None:
    """One line each, and the last lines of the details only."""
    details = [f"line {number}" for number in range(20)]
    print_error(CliError("it broke; badly", cure="mend it", details=details))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["error: it broke", "  badly", "  mend it"]
    assert (lines[3], lines[-2], lines[-1]) == (
        "  line 12",
        "  line 19",
        "  and 12 lines before these",
    )


def test_no_line_of_an_error_is_endless(capsys) -> None:
    """Details are cut off, and controls cannot steer the terminal."""
    print_error(CliError("a\x1b[2Jb", details=["x" * 5000]))
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) < 310
    assert lines[0] == r"error: a\x1b[2Jb"


def test_the_output_of_a_backend_is_taken_out_of_the_sentence() -> None:
    """It has lines of its own."""
    error = BackendExitedError("m", 3, ("one", "two"))
    sentence, output = without_output(str(error))
    assert sentence == "the backend of model 'm' exited with code 3"
    assert output == ("one", "two")
    assert without_output("nothing quoted") == ("nothing quoted", ())


NAMES = ["qwen2.5-7b", "qwen2.5-14b", "gemma-3-4b", "user/Repo:Q4_K_M"]


@pytest.mark.parametrize(
    ("name", "first"),
    [("qwen2.5-7", "qwen2.5-7b"), ("gema-3-4b", "gemma-3-4b"), ("repo", "user/Repo:Q4_K_M")],
)
def test_a_close_name_is_suggested(name, first) -> None:
    """By letters, and by a part of the name in any case."""
    assert close_names(name, NAMES)[0] == first


def test_without_a_close_name_the_few_are_listed() -> None:
    """Many models are listed by a command; none are fetched."""
    assert suggestion("zzz", ["a", "b", "c"]) == "there are a, b and c"
    assert "llama-router list" in suggestion("zzz", [f"model-{n}" for n in range(50)])
    assert "llama-router pull" in suggestion("zzz", [])


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"LANG": "de_DE.UTF-8"}, True),
        ({"LANG": "en_US.utf8"}, True),
        ({"LANG": "C.UTF-8", "LC_ALL": "C"}, False),
        ({}, False),
    ],
)
def test_the_locale_decides_about_characters(environ, expected) -> None:
    """The most important variable that is set."""
    assert has_unicode(environ) is expected


class _Terminal:
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
    ],
)
def test_colours_are_for_terminals_that_have_them(environ, expected) -> None:
    """And for people that did not turn them off."""
    assert has_colours(_Terminal(), environ) is expected  # type: ignore[arg-type]  # enough of a stream


def test_text_fits() -> None:
    """Into the columns there are."""
    assert shortened("abcdefgh", 5, ellipsis="...") == "ab..."
    assert shortened("abc", 5) == "abc"
    assert wrapped("aa bb cc", indent="  ", width=8) == ["  aa bb", "  cc"]
    assert wrapped("", width=8) == [""]
