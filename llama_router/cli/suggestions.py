"""Suggestions for a misspelt name of a model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, Final

#: Most models that are listed when none is close.
_FEW: Final = 6

#: Most suggestions.
_CLOSE: Final = 3


def names_of(models: Iterable[dict[str, Any]]) -> list[str]:
    """Return the ids and aliases of *models*, as the router answers them."""
    return [name for model in models for name in (model["id"], *model["aliases"])]


def close_names(name: str, known: Sequence[str]) -> list[str]:
    """Return the names that may be meant by *name*, likeliest first."""
    wanted = name.lower()
    by_lower = {each.lower(): each for each in reversed(known)}
    contained = [each for lower, each in by_lower.items() if wanted in lower][:_CLOSE]
    close = difflib.get_close_matches(wanted, by_lower, _CLOSE, 0.6)
    found = [by_lower[each] for each in close]
    return list(dict.fromkeys((*found, *sorted(contained, key=len))))[:_CLOSE]


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return a sentence about which model may be meant by *name*; empty if there is no model."""
    if found := close_names(name, known):
        return f"did you mean {_either(found)}?"
    if not known:
        return "the router has no models; 'llama-router pull user/repo' fetches one"
    if len(known) <= _FEW:
        return f"there is {', '.join(known)}" if len(known) == 1 else f"there are {_and(known)}"
    return "'llama-router list' shows all models"


def _either(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _and(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"
