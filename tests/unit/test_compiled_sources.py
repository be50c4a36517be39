"""The sources that a compiled wheel has compiled avoid what mypyc gets wrong."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
MODULES = BUILD["targets"]["wheel"]["hooks"]["custom"]["modules"]

#: Functions and methods without side effects, whose result is the same a second time.
PURE_CALLS = frozenset(("end", "find", "index", "len", "max", "min", "rfind", "rindex", "start"))

#: What the C compiler takes for a word of its own, once mypyc has put an underscore before it.
RESERVED = frozenset(("_thread", "_Thread_local"))


def calls_in_slices(tree: ast.AST) -> Iterator[str]:
    """Yield the bounds of slices that call something, or assign."""
    for slice_ in (each for each in ast.walk(tree) if isinstance(each, ast.Slice)):
        for node in ast.walk(slice_):
            if isinstance(node, ast.Await | ast.Yield | ast.NamedExpr):
                yield f"line {slice_.lineno}: {ast.unparse(slice_)}"
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name not in PURE_CALLS:
                    yield f"line {slice_.lineno}: {ast.unparse(slice_)}"


def aliases_of_methods(tree: ast.AST) -> Iterator[str]:
    """Yield the assignments in classes that give a method another name."""
    for class_ in (each for each in ast.walk(tree) if isinstance(each, ast.ClassDef)):
        methods = {each.name for each in class_.body if isinstance(each, ast.FunctionDef)}
        for each in class_.body:
            value = each.value if isinstance(each, ast.Assign) else None
            if isinstance(value, ast.Name) and value.id in methods:
                yield f"line {each.lineno}: {ast.unparse(each)}"


def reserved_attributes(tree: ast.AST) -> Iterator[str]:
    """Yield the attributes with names that C has another meaning for."""
    for each in ast.walk(tree):
        if isinstance(each, ast.Attribute) and each.attr in RESERVED:
            yield f"line {each.lineno}: {ast.unparse(each)}"


def interpreted_only(tree: ast.AST) -> Iterator[str]:
    """Yield what works in an interpreted module only: msgspec's classes, generators as waits."""
    for each in ast.walk(tree):
        if isinstance(each, ast.ClassDef) and any("Struct" in ast.unparse(b) for b in each.bases):
            yield f"line {each.lineno}: class {each.name}"
        decorators = each.decorator_list if isinstance(each, ast.FunctionDef) else []
        if any(ast.unparse(decorator).endswith("coroutine") for decorator in decorators):
            yield ast.unparse(each)[:80]


def values_of_attrs(tree: ast.AST) -> Iterator[str]:
    """Yield the classes of attrs, which compiled code compares by identity instead of by value."""
    for each in ast.walk(tree):
        decorators = each.decorator_list if isinstance(each, ast.ClassDef) else []
        if any("attrs" in ast.unparse(decorator) for decorator in decorators):
            yield ast.unparse(each)[:80]


def classes_of(path: Path) -> Iterator[ast.ClassDef]:
    """Yield the classes of a module."""
    yield from (
        each for each in ast.walk(ast.parse(path.read_text())) if isinstance(each, ast.ClassDef)
    )


def test_no_interpreted_class_extends_a_compiled_one() -> None:
    """None of its objects could be made."""
    compiled = {each.name for module in MODULES for each in classes_of(ROOT / module)}
    others = {*(ROOT / "llama_router").rglob("*.py")} - {ROOT / module for module in MODULES}
    assert not [
        f"{path.relative_to(ROOT)}: {each.name}"
        for path in others
        for each in classes_of(path)
        if compiled & {ast.unparse(base) for base in each.bases}
    ]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    "faults",
    [
        calls_in_slices,
        aliases_of_methods,
        reserved_attributes,
        interpreted_only,
        values_of_attrs,
    ],
)
def test_a_compiled_module_avoids_what_mypyc_gets_wrong(module: str, faults) -> None:
    """Each of these was met; docs/contributing/compiled-builds.md says what happened."""
    assert list(faults(ast.parse((ROOT / module).read_text()))) == []


def test_a_call_with_side_effects_in_a_slice_is_found() -> None:
    """It is the fault that loses bytes."""
    assert list(calls_in_slices(ast.parse("data = data[self._send(data) :]")))
    assert not list(calls_in_slices(ast.parse("data = data[len(head) : data.find(b' ')]")))
