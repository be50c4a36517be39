"""The kind of an installation: compiled or pure."""

import importlib.machinery
import tomllib
from pathlib import Path

import pytest

from llama_router import build_kind

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with the source of the module that is looked for."""
    monkeypatch.setattr(build_kind, "_FOLDER", tmp_path)
    (tmp_path / "framing.py").touch()
    return tmp_path


def test_sources_are_pure_python(folder) -> None:
    """A folder with sources only is a pure build."""
    assert build_kind.build_kind() == build_kind.PURE


def test_a_module_for_this_python_is_compiled(folder) -> None:
    """A compiled module beside its source is what Python imports."""
    (folder / f"framing{importlib.machinery.EXTENSION_SUFFIXES[0]}").touch()
    assert build_kind.build_kind() == build_kind.COMPILED


def test_a_module_for_another_python_counts_for_nothing(folder) -> None:
    """Python does not import it, and takes the source."""
    (folder / "framing.cpython-36m-x86_64-linux-gnu.so").touch()
    assert build_kind.build_kind() == build_kind.PURE


def test_the_module_that_is_looked_for_is_compiled_in_every_wheel() -> None:
    """It is in the list of pyproject.toml, and every module of the list exists."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    modules = [ROOT / each for each in build["targets"]["wheel"]["hooks"]["custom"]["modules"]]
    assert build_kind._FOLDER / "framing.py" in [
        build_kind._FOLDER / each.name for each in modules if each.parent.name == "http1"
    ]
    assert all(each.is_file() for each in modules)
