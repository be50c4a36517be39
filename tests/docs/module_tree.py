"""docs/explanation/modules.md: every package and module with the first line of its docstring.

``python -m tests.docs.module_tree`` writes the page.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "modules.md"
PACKAGE = ROOT / "llama_router"

_HEAD = """\
# Modules

Every package and module, with the first line of its docstring. [Design](design.md) explains the
division. This page is written by `python -m tests.docs.module_tree`.
"""


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring, f"{path} has no docstring"
    return docstring.partition("\n")[0]


def page() -> str:
    """Return the page as the code has it."""
    return "\n".join([_HEAD, *_entries(PACKAGE, depth=0), ""])


def _entries(package: Path, depth: int) -> Iterator[str]:
    modules = sorted(path for path in package.glob("*.py") if path.name != "__init__.py")
    packages = sorted(path.parent for path in package.glob("*/__init__.py"))
    indent = "  " * depth
    for folder in packages:
        yield f"{indent}- **`{folder.name}/`** {first_line(folder / '__init__.py')}"
        yield from _entries(folder, depth + 1)
    for path in modules:
        yield f"{indent}- `{path.name}` {first_line(path)}"


if __name__ == "__main__":
    PAGE.write_text(page())
