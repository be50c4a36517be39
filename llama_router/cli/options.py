"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import attrs
from cyclopts import Parameter

#: Largest number of past lines that a router returns (``MAX_TAIL`` of its admin API).
MAX_LINES: Final = 10_000

_MAX_PORT: Final = 65_535


# Cyclopts has a validator for ranges, in a module that costs each start some milliseconds.


def _check_port(_: object, value: int | None) -> None:
    if value is not None and not 0 <= value <= _MAX_PORT:
        raise ValueError(f"A port is a number from 0 to {_MAX_PORT}.")


def _check_lines(_: object, value: int) -> None:
    if not 0 <= value <= MAX_LINES:
        raise ValueError(f"It can be from 0 to {MAX_LINES}.")


Flag = Annotated[bool, Parameter(negative="")]
"""A flag without a ``--no-`` form."""

Config = Annotated[Path | None, Parameter(name=["--config", "-c"])]
"""The path of a configuration file."""

HubFile = Annotated[str | None, Parameter(name=["--hf-file", "-hff"])]
"""The path of a file in a repository of the hub."""

Json = Annotated[bool, Parameter(name="--json", negative="")]
"""Selects JSON as the output format."""

Port = Annotated[int | None, Parameter(validator=_check_port)]
"""A port to listen on."""

Lines = Annotated[int, Parameter(name=["--lines", "-n"], validator=_check_lines)]
"""A number of lines of a log."""


KeyFile = Annotated[Path | None, Parameter(name="--key-file")]
"""A file with an API key of the router."""


@Parameter(name="*")
@attrs.frozen(kw_only=True)
class Connection:
    """How a command finds the running router: the options ``--url --token-file --config``.

    Attributes:
        url: The router's base URL; read from its runtime file by default.
        token_file: File with the admin token; by default the router's own.
        config: The configuration that the router was started with.
    """

    url: str | None = None
    token_file: Path | None = None
    config: Config = None


#: The options' defaults: the router is found by its runtime file, in a default place.
DEFAULT_CONNECTION: Final = Connection()
