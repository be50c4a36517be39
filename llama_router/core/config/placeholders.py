"""The placeholders of a command line, such as ``$path`` and ``$port``. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


NAMES = frozenset({"path", "port", "host", "mmproj", "model", "container"})
"""Every placeholder of a backend's command, without its dollar sign."""

STOP_NAMES = NAMES | {"pid"}
"""Those of the command that stops it: its process exists."""

# A dollar sign with another dollar sign, a name, or nothing valid after it.
_TOKEN = re.compile(r"\$(\$|[A-Za-z_][A-Za-z0-9_]*|)")


def names_in(argument: str, known: frozenset[str] = NAMES) -> frozenset[str]:
    """Return the placeholders that *argument* uses, without their dollar signs.

    Args:
        argument: A word of a command line.
        known: Those that it may use.

    Raises:
        ValueError: if one of them is unknown, or no name follows a dollar sign.
    """
    if "$" not in argument:  # most words of a configuration
        return frozenset()
    names = frozenset(_TOKEN.findall(argument)) - {"$"}
    if "" in names:
        raise ValueError("no name follows '$'; write '$$' for a dollar sign")
    if unknown := sorted(names - known):
        listed = ", ".join(f"${name}" for name in sorted(known))
        raise ValueError(
            f"unknown placeholder '${unknown[0]}'; known are {listed}; write '$$' for a dollar sign"
        )
    return names


def expand(argument: str, values: Mapping[str, str]) -> str:
    """Return *argument* with its placeholders replaced and ``$$`` as one dollar sign.

    An inserted value is not expanded again: dollar signs in it stay.

    Raises:
        ValueError: as `names_in`, or if *values* lacks a placeholder that is used.
    """
    if missing := sorted(names_in(argument, STOP_NAMES) - values.keys()):
        raise ValueError(f"there is no value for '${missing[0]}'")
    return _TOKEN.sub(lambda found: "$" if found[1] == "$" else values[found[1]], argument)


def escape(text: str) -> str:
    """Return *text* escaped: `expand` returns it unchanged."""
    return text.replace("$", "$$")
