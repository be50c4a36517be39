"""``router.toml`` parsed over found models: what does not fit of these is left out."""

from __future__ import annotations

from typing import Any

import attrs

from ..core.config.overlay import Found, Overlaid, overlay
from ..core.config.parse import parse_config
from ..core.config.whole import Config
from ..errors.config import ConfigError, Problem
from .file import tables
from .paths import identity_of


def parse_over(
    document: dict[str, Any], found: Found, doubts: list[Problem], *, running: bool
) -> Config:
    """Parse *document* over what was found; what does not fit of the latter is left out.

    Raises:
        ConfigError: with what is wrong in *document*.
    """
    file_of = {
        name: identity
        for name, table in tables(document, "models")
        if (identity := identity_of(table.get("path"))) is not None
    }
    while True:
        overlaid = overlay(document, found, file_of=file_of, running=running)
        try:
            config = _parse_whole(overlaid)
        except ConfigError as exc:
            unfit = {
                str(problem.path[1]): problem
                for problem in exc.problems
                if len(problem.path) > 1 and problem.path[1] in overlaid.found_only
            }
            if not unfit:
                doubts += overlaid.doubts
                raise
            doubts += (Problem((), f"{p.location}: {p.message}") for p in unfit.values())
            models = {name: table for name, table in found.models.items() if name not in unfit}
            found = attrs.evolve(found, models=models)
        else:
            doubts += overlaid.doubts
            return config


def _parse_whole(overlaid: Overlaid) -> Config:
    """Parse a document; say what is wrong in the models that were left out of it, too.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems: list[Problem] = []
    config: Config | None = None
    if overlaid.left_out:
        try:
            parse_config(overlaid.with_left_out())
        except ConfigError as exc:
            problems += exc.problems
    try:
        config = parse_config(overlaid.document)
    except ConfigError as exc:
        said = {(problem.path, problem.message) for problem in problems}
        problems += (p for p in exc.problems if (p.path, p.message) not in said)
    if config is None or problems:
        raise ConfigError(tuple(problems))
    return config
