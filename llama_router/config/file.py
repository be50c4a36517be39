"""A configuration file as a TOML document; what cannot be read is said with its line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from ..errors.config import ConfigError, Problem
from ..files import read_up_to, reason_of

#: No configuration is larger; something else that was named by mistake may be.
MAX_BYTES: Final = 16 * 1024 * 1024

# Only what tomllib itself puts at the end of its sentences.
_TOML_POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


def read(path: Path) -> bytes:
    """Return what is in the file *path*.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        return read_up_to(path, MAX_BYTES)
    except OSError as exc:
        raise ConfigError((Problem((), f"cannot read {path}: {reason_of(exc)}"),)) from exc


def decoded(data: bytes) -> str:
    """Return the text in *data*.

    Raises:
        ConfigError: if it is not UTF-8.
    """
    try:
        # Some editors begin a UTF-8 file with a byte order mark; it means nothing.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError((Problem((), "not UTF-8 text", line),)) from exc


def parse(text: str) -> dict[str, Any]:
    """Return the document that *text* is.

    Raises:
        ConfigError: if it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as exc:
        raise ConfigError((Problem((), "arrays or tables are nested too deeply"),)) from exc
    except ValueError as exc:  # TOMLDecodeError, or int() that refuses thousands of digits
        message = str(exc)
        line = None
        if position := _TOML_POSITION.search(message):
            message = message[: position.start()]
            line = int(position[1] or len(text.splitlines()))
        raise ConfigError((Problem((), f"not valid TOML: {message}", line),)) from exc


def tables(document: dict[str, Any], section: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the tables of *section* with their names; what is not one is left out."""
    found = document.get(section)
    items = found.items() if isinstance(found, dict) else ()
    return [(name, table) for name, table in items if isinstance(table, dict)]
