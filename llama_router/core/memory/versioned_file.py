"""The content of files that the router keeps between its lives: JSON with a version. Pure."""

from __future__ import annotations

from typing import TypeVar

import msgspec


class Versioned(msgspec.Struct):
    """What is in a file.

    Attributes:
        format: The version of the format.
    """

    format: int


V = TypeVar("V", bound=Versioned)


def encode(file: Versioned) -> bytes:
    """Return the content of *file*, one line for each value."""
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def decode(data: bytes, kind: type[V], version: int) -> V:
    """Return what *data*, the content of a file, says.

    Raises:
        ValueError: if it cannot be read, or is of another *version*; with the reason.
    """
    try:
        file = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc
    if file.format != version:
        raise ValueError(f"its format is {file.format}, and this version knows {version}")
    return file
