"""The table of error codes says neither more nor less than the code."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import llama_router
from llama_router.errors.base import RouterError
from llama_router.errors.causes import PERMANENT_CAUSES, Cause

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
ROW = re.compile(
    r"^\| `(\w+)` \| (\d{3})([^|]*) \| `(\w+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE
)


def errors() -> Iterator[type[RouterError]]:
    """Yield every class of the tree, wherever in the package it is."""
    for module in pkgutil.walk_packages(llama_router.__path__, "llama_router."):
        if module.name != "llama_router.__main__":
            importlib.import_module(module.name)
    found = [RouterError]
    for error in found:
        found += error.__subclasses__()
    yield from (error for error in found if error.__module__.startswith("llama_router."))


def test_no_two_errors_share_a_code() -> None:
    """A client that sees a code knows which failure it was."""
    codes = [error.code for error in errors()]
    assert sorted(codes) == sorted(set(codes))


def test_table_and_code_agree() -> None:
    """Every error has one row, with its status and type, and every row is an error."""
    rows = {
        code: (int(status), type_) for code, status, _, type_, _, _ in ROW.findall(PAGE.read_text())
    }
    assert rows == {error.code: (int(error.status), error.type) for error in errors()}


def test_rows_are_in_order() -> None:
    """A code is found by its alphabet, and none is there twice."""
    codes = [row[0] for row in ROW.findall(PAGE.read_text())]
    assert codes == sorted(set(codes))


def test_every_cause_is_explained() -> None:
    """Causes are part of the API: each has one row, in order."""
    causes = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE)
    assert causes == sorted(Cause)


def test_permanent_causes_are_listed() -> None:
    """The sentence below the table names each of them, in order."""
    (listed,) = re.findall(r"^Permanent causes, [^:]+: (.+)\.$", PAGE.read_text(), re.MULTILINE)
    assert re.findall(r"`(\w+)`", listed) == sorted(PERMANENT_CAUSES)
