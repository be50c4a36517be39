"""What regular expressions in the source must not use."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import llama_router

SOURCES = sorted(Path(llama_router.__file__).parent.rglob("*.py"))

#: Behind a group: ``)*+``, ``)++``, ``)?+``, ``){2}+``.
POSSESSIVE = re.compile(r"(?<!\\)\)(?:[*+?]|\{[0-9,]+\})\+")

#: It is in a set of characters there.
IN_A_SET = "A-Za-z0-9\\-._~!$&'()*+,;="


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_group_is_repeated_possessively(path: Path) -> None:
    """CPython 3.11.0 to 3.11.4 match that wrongly (issue 106052): an atomic group does it."""
    text = path.read_text().replace(IN_A_SET, "")
    assert POSSESSIVE.findall(text) == []


def test_such_a_pattern_is_found() -> None:
    """The test above could fail."""
    assert POSSESSIVE.search(r"(?:a|b)*+c")
    assert POSSESSIVE.search(r"(?:a|b){1,3}+c")
    assert not POSSESSIVE.search(r"(?>(?:a|b)*)[ab]*+c")
