"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

#: Lines of the past that a router tells at most (`control.log_routes.MAX_TAIL`).
MAX_LINES: Final = 10_000

_MAX_PORT: Final = 65_535


# Cyclopts has a validator for ranges, in a module that costs each start some milliseconds.


def _port(_: object, value: int | None) -> None:
    if value is not None and not 0 <= value <= _MAX_PORT:
        raise ValueError(f"A port is a number from 0 to {_MAX_PORT}.")


def _lines(_: object, value: int) -> None:
    if not 0 <= value <= MAX_LINES:
        raise ValueError(f"It can be from 0 to {MAX_LINES}.")


Config = Annotated[Path | None, Parameter(name=["--config", "-c"])]
"""A configuration file."""

Output = Annotated[Path, Parameter(name=["--output", "-o"], allow_leading_hyphen=True)]
"""Where a translated configuration goes."""

DEFAULT_OUTPUT: Final = Path("router.toml")

HubFile = Annotated[str | None, Parameter(name=["--hf-file", "-hff"])]
"""A file in a repository of the hub."""

Url = Annotated[str | None, Parameter(name="--url")]
"""The base URL of a running router."""

TokenFile = Annotated[Path | None, Parameter(name="--token-file")]
"""The file with its admin token."""

Json = Annotated[bool, Parameter(name="--json", negative="")]
"""Whether to answer with JSON."""

Port = Annotated[int | None, Parameter(validator=_port)]
"""A port to listen on."""

Lines = Annotated[int, Parameter(name=["--lines", "-n"], validator=_lines)]
"""How many lines of a log."""
