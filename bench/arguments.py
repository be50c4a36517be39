"""What several benchmarks take from the command line, checked before anything is measured."""

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
        argparse.ArgumentTypeError: if *text* is none.
    """
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def seconds(text: str) -> float:
    """Return a number of seconds that is more than none, and ends.

    Raises:
        argparse.ArgumentTypeError: if *text* is none.
    """
    number = _number(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number over 0")
    return number


def size(text: str) -> float:
    """Return a number from 0 on.

    Raises:
        argparse.ArgumentTypeError: if *text* is none.
    """
    number = _number(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return number


class Named(Protocol):
    """Something that the command line knows by its name."""

    @property
    def name(self) -> str:
        """As on the command line."""


N = TypeVar("N", bound=Named)


def add_choice(parser: argparse.ArgumentParser, option: str, known: Sequence[Named]) -> None:
    """Add an *option* that takes names with commas between them, and may be repeated."""
    parser.add_argument(
        option,
        type=_names,
        action="extend",
        metavar="A,B",
        help=f"of: {','.join(one.name for one in known)} (default: all)",
    )


def chosen(known: Sequence[N], names: Sequence[str] | None) -> list[N]:
    """Return those with these names, in their usual order, or all of them.

    Raises:
        ValueError: if there is none of that name.
    """
    if not names:
        return list(known)
    if unknown := set(names) - {one.name for one in known}:
        names_known = ", ".join(one.name for one in known)
        raise ValueError(f"unknown: {', '.join(sorted(unknown))}; there are {names_known}")
    return [one for one in known if one.name in names]


def file(text: str) -> Path:
    """Return the path of a file that can be written, there or not.

    Raises:
        argparse.ArgumentTypeError: if it cannot; a benchmark would notice at its end only.
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
