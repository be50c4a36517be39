"""The templates that ``init --template`` writes: known-good spawn settings of other programs."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

_SUFFIX: Final = ".toml"


def template_names() -> list[str]:
    """Return the names of all templates, sorted."""
    return sorted(
        entry.name.removesuffix(_SUFFIX)
        for entry in _folder().iterdir()
        if entry.name.endswith(_SUFFIX)
    )


def template_text(name: str) -> str:
    """Return the text of one template: tables of ``router.toml`` with comments.

    Raises:
        KeyError: if there is none of this name.
    """
    if name not in template_names():
        raise KeyError(name)
    return _folder().joinpath(f"{name}{_SUFFIX}").read_text(encoding="utf-8")


def _folder() -> Traversable:
    return resources.files("llama_router.config").joinpath("templates")
