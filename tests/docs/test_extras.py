"""The extras of pyproject.toml against the imports of the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPTIONAL = re.compile(r"\boptional\(\"(\w+)\"\)")
#: Packages that another one of the extra depends on.
INDIRECT = {"numpy"}


def test_the_demo_has_its_packages() -> None:
    """The extra that the README installs has every package that writes the demo's models."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["embedded"]
    installed = {re.split(r"[^\w-]", requirement)[0] for requirement in extra}
    sources = (path.read_text() for path in (ROOT / "llama_router").rglob("*.py"))
    needed = {name for source in sources for name in OPTIONAL.findall(source)}
    assert needed
    assert needed - INDIRECT <= installed
