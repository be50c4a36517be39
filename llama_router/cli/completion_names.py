"""The names of models for shell completion, from files: no router is asked, nothing is scanned.

It must not import the configuration or an HTTP client: a shell runs it at each press of the tab
key.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs

from ..files import read_up_to
from ..logs.lines import escape_controls
from .failures import NoRouterError
from .router_search import find_router, models_of, state_dirs

#: The file of found models in a state directory: `models.found_file.NAME`.
_FOUND: Final = "models.toml"

_MAX_BYTES: Final = 64 * 2**20


@attrs.frozen(kw_only=True)
class _AnyRouter:
    """Names no router: the running one, or the one that would be started."""

    url: str | None = None
    token_file: Path | None = None
    config: Path | None = None


def print_names() -> None:
    """Print every name of a model, one a line; nothing if no file can be read."""
    with suppress(OSError):
        sys.stdout.write("".join(f"{escape_controls(name)}\n" for name in sorted(known_names())))


def known_names() -> set[str]:
    """Return the ids and aliases in the configuration, and those of found models."""
    anywhere = _AnyRouter()
    configs: list[Path] = []
    with suppress(NoRouterError):
        configs.append(Path(find_router(anywhere, os.environ).config))
    names: set[str] = set()
    for config in configs or (None,):
        chosen = _AnyRouter(config=config)
        names |= _names(models_of(chosen, os.environ))
        for folder in state_dirs(chosen, os.environ):
            with suppress(OSError, ValueError, RecursionError):
                text = read_up_to(folder / _FOUND, _MAX_BYTES).decode()
                names |= _names([tomllib.loads(text).get("models")])
    return names


def _names(documents: Iterable[Any]) -> set[str]:
    names: set[str] = set()
    for models in documents:
        for model, table in models.items() if isinstance(models, dict) else ():
            names.add(str(model))
            aliases = table.get("aliases") if isinstance(table, dict) else None
            names |= set(map(str, aliases)) if isinstance(aliases, list) else set()
    return names
