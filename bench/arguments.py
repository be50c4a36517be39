"""Command-line values of several benchmarks, checked before anything is measured."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar


def count(text: str) -> int:
    """Return a whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: if *text* is not such a number.
    """
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def seconds(text: str) -> float:
    """Return a finite number of seconds over 0.

    Raises:
        argparse.ArgumentTypeError: if *text* is not such a number.
    """
    number = _number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number over 0")
    return number


def size(text: str) -> float:
    """Return a finite number from 0 on.

    Raises:
        argparse.ArgumentTypeError: if *text* is not such a number.
    """
    number = _number(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return number


class Named(Protocol):
    """An object that the command line selects by its name."""

    @property
    def name(self) -> str:
        """The name on the command line."""


N = TypeVar("N", bound=Named)


def add_choice(parser: argparse.ArgumentParser, option: str, known: Sequence[Named]) -> None:
    """Add an *option* that takes comma-separated names and may be repeated."""
    parser.add_argument(
        option,
        type=_names,
        action="extend",
        metavar="A,B",
        help=f"of: {','.join(one.name for one in known)} (default: all)",
    )


def chosen(known: Sequence[N], names: Sequence[str] | None) -> list[N]:
    """Return the elements of *known* with these names, in its order; all of them without names.

    Raises:
        ValueError: if a name is unknown.
    """
    if not names:
        return list(known)
    if unknown := set(names) - {one.name for one in known}:
        names_known = ", ".join(one.name for one in known)
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {names_known}")
    return [one for one in known if one.name in names]


def file(text: str) -> Path:
    """Return the path of a file that can be written, whether or not it exists.

    Raises:
        argparse.ArgumentTypeError: if it cannot; a benchmark would fail only at its end.
    """
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text} cannot be written: permission denied")
    return path


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number
