"""The last step of every translation: the draft must be a valid configuration. Pure."""

from __future__ import annotations

from ..core.config.parse import parse_config
from ..errors.config import ConfigError, Problem
from .draft import Draft


def verify(draft: Draft) -> None:
    """Check that *draft* is a valid configuration, as far as that needs no files.

    Raises:
        ConfigError: if it is not, because a value of the old file is not allowed in the new one.
            Each problem has the line of its model.
    """
    try:
        parse_config(draft.document())
    except ConfigError as exc:
        raise ConfigError(tuple(_located(draft, problem) for problem in exc.problems)) from exc


def _located(draft: Draft, problem: Problem) -> Problem:
    section, *keys = problem.path or ("",)
    model = draft.models.get(str(keys[0])) if section == "models" and keys else None
    return Problem(problem.path, problem.message, None if model is None else model.line)
