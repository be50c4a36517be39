"""The dependencies of pyproject.toml against the imports of the code."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = re.compile(r"\boptional\(\"(\w+)\"\)")
#: Packages that another one of the extra depends on.
INDIRECT = {"numpy"}
#: Packages that a dependency is made of: Quart of Werkzeug.
PARTS = {"werkzeug"}


def sources() -> Iterator[str]:
    """Yield the source of each module of the program."""
    return (path.read_text() for path in (ROOT / "llama_router").rglob("*.py"))


def named_in(requirements: list[str]) -> set[str]:
    """Return the names of the packages in *requirements*."""
    names = (re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements)
    return {normal(name) for name in names}


def normal(name: str) -> str:
    """Return the name of a package in its normal form. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_by(source: str) -> Iterator[str]:
    """Yield the top-level packages that *source* imports."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (each.name.partition(".")[0] for each in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module.partition(".")[0]


def test_the_demo_has_its_packages() -> None:
    """The extra that the README installs has every package that writes the demo's models."""
    installed = named_in(PROJECT["optional-dependencies"]["embedded"])
    needed = {name for source in sources() for name in OPTIONAL.findall(source)}
    assert needed
    assert needed - INDIRECT <= installed


def test_each_imported_package_is_a_dependency() -> None:
    """A package that only the tests' environment has would be missing for users."""
    imported = {package for source in sources() for package in imported_by(source)}
    others = imported - sys.stdlib_module_names - {"llama_router", "__future__"}
    distributions = packages_distributions()
    needed = {normal(distributions.get(package, [package])[0]) for package in others}
    embedded = PROJECT["optional-dependencies"]["embedded"]
    assert needed - INDIRECT - PARTS <= named_in([*PROJECT["dependencies"], *embedded])
