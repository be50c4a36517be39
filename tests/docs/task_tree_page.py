"""The generated part of docs/explanation/task-tree.md.

``python -m tests.docs.task_tree_page`` writes it into the page.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from tests.docs.generated_parts import with_parts

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "explanation" / "task-tree.md"
SUPERVISOR: Final = ROOT / "llama_router" / "supervisor"

#: The function at the root of the tree: its module in the supervisor, and its name.
START: Final = ("tree", "_run_tree")

#: Further functions with nurseries, by the expression that calls them.
FUNCTIONS: Final = {
    "load_startup_model": ("startup_model", "load_startup_model"),
    "frontend.serve": ("frontend", "serve"),
    "self._accept": ("frontend", "_accept"),
}

_OPEN: Final = "trio.open_nursery()"

#: Arrows for the two ways to start a task, and for a nursery that is opened inside another.
_ARROWS: Final = {"start": "-->", "start_soon": "-.->", "nested": "==>"}


def parsed(module: str) -> ast.Module:
    """Return the syntax tree of a module of the supervisor."""
    return ast.parse((SUPERVISOR / f"{module}.py").read_text())


def opens_nursery(node: ast.AST) -> bool:
    """Return whether *node* is a block that opens a nursery."""
    return isinstance(node, ast.AsyncWith) and any(
        ast.unparse(item.context_expr) == _OPEN for item in node.items
    )


@attrs.define
class Flowchart:
    """A Mermaid flowchart of nurseries and the tasks in them.

    Attributes:
        lines: Its lines so far.
        functions: The functions that it covers, each a module and a name.
    """

    lines: list[str] = attrs.field(factory=list[str])
    functions: set[tuple[str, str]] = attrs.field(factory=set[tuple[str, str]])

    def add_function(self, module: str, name: str, parent: str | None = None) -> None:
        """Add the nurseries and tasks of a function, below the node *parent*."""
        self.functions.add((module, name))
        (function,) = (
            node
            for node in ast.walk(parsed(module))
            if isinstance(node, ast.AsyncFunctionDef) and node.name == name
        )
        self._add_children(function, module, parent, {})

    def _add_children(
        self, node: ast.AST, module: str, parent: str | None, nurseries: Mapping[str, str]
    ) -> None:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                self._add(child, module, parent, nurseries)

    def _add(
        self, node: ast.AST, module: str, parent: str | None, nurseries: Mapping[str, str]
    ) -> None:
        """Add a part of a function.

        Args:
            node: The part.
            module: The module of the function.
            parent: The node of the innermost nursery around it.
            nurseries: The nodes of all nurseries around it, by their variables.
        """
        if isinstance(node, ast.AsyncWith) and opens_nursery(node):
            assert node.items[0].optional_vars is not None
            variable = ast.unparse(node.items[0].optional_vars)
            parent = self._node(f'(["{variable} · {module}.py"])', parent, "nested")
            nurseries = {**nurseries, variable: parent}
        elif isinstance(node, ast.Call):
            match node.func:
                case ast.Attribute(ast.Name(owner), how) if owner in nurseries and how in _ARROWS:
                    task = ast.unparse(node.args[0]).removeprefix("parts.").removeprefix("self.")
                    self._node(f'["{task}"]', nurseries[owner], how)
                case called if (expression := ast.unparse(called)) in FUNCTIONS:
                    self.add_function(*FUNCTIONS[expression], parent)
                case _:
                    pass
        self._add_children(node, module, parent, nurseries)

    def _node(self, shape: str, parent: str | None, arrow: str) -> str:
        """Add a node and the arrow to it; return its name."""
        name = f"n{len(self.lines)}"
        self.lines.append(
            f"    {name}{shape}"
            if parent is None
            else f"    {parent} {_ARROWS[arrow]} {name}{shape}"
        )
        return name


def flowchart() -> Flowchart:
    """Return the flowchart of the whole supervisor."""
    made = Flowchart()
    made.add_function(*START)
    return made


def tree() -> str:
    """Return the flowchart as a fenced block."""
    return "\n".join(["```mermaid", "flowchart LR", *flowchart().lines, "```", ""])


def generated(page: str) -> str:
    """Return *page* with its generated part as the code has it."""
    return with_parts(page, {"tree": tree})


if __name__ == "__main__":
    PAGE.write_text(generated(PAGE.read_text()))
