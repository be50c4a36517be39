"""The import contracts of pyproject.toml against the docstrings of the modules."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLAIM = re.compile(r"\bPure\b|\b[Ss]ans-IO\b|\bwithout I/O\b")


def modules_that_claim_to_be_pure() -> Iterator[str]:
    for path in sorted((ROOT / "llama_router").rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        if CLAIM.search(docstring.partition("\n\n")[0]):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__")


def test_every_pure_module_is_in_the_contract() -> None:
    """A docstring that calls a module pure is checked by lint-imports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (contract,) = (one for one in contracts if "sans-IO" in one["name"])
    sources = contract["source_modules"]
    missing = [
        name
        for name in modules_that_claim_to_be_pure()
        if not any(name == source or name.startswith(f"{source}.") for source in sources)
    ]
    assert not missing


def test_only_the_registry_imports_the_module_of_an_api() -> None:
    """The contract about APIs names every module with an `ApiDialect`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (contract,) = (one for one in contracts if one["name"].startswith("APIs"))
    folder = ROOT / "llama_router" / "core" / "apis"
    modules = {
        f"llama_router.core.apis.{path.stem}"
        for path in folder.glob("*.py")
        if re.search(r"^[A-Z_]+: Final = ApiDialect\(", path.read_text(), re.MULTILINE)
    }
    assert set(contract["forbidden_modules"]) == modules
