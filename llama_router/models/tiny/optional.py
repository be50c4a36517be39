"""Import of packages that are needed only to write models."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def optional(module: str) -> Any:  # noqa: ANN401 -- gguf is untyped
    """Import a module of the extra ``embedded``."""
    try:
        return import_module(module)
    except ImportError as exc:
        raise ImportError(
            f"making a model needs the Python package {module!r}; "
            "install llama-router[embedded] to get it"
        ) from exc
