"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

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
