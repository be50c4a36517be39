"""What several benchmarks take from the command line, checked before anything is measured."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path


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


def names(text: str) -> list[str]:
    """Return the names in *text*, which has commas between them; for ``action="extend"``."""
    return [name for part in text.split(",") if (name := part.strip())]


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


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return number
