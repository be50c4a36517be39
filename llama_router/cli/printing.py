"""Output of the commands: lines and JSON on standard output, messages on standard error.

Control characters are escaped, so that no text of a file or of a router can steer the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors.config import Problem
from ..logs.lines import escape_controls


def print_line(text: str) -> None:
    """Print *text* as one line on standard output."""
    print(escape_controls(text), flush=True)  # noqa: T201 -- the command's output


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print *rows* as lines with aligned columns; the first one has the headings."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


def print_json(document: object, *, indent: int = 2) -> None:
    """Print *document* as JSON on standard output."""
    print(json.dumps(document, indent=indent), flush=True)  # noqa: T201 -- same


def print_message(text: str) -> None:
    """Print *text* as one line on standard error."""
    print(escape_controls(text), file=sys.stderr, flush=True)  # noqa: T201 -- same


def fail(text: str) -> int:
    """Print *text* on standard error; return the exit status of a failure."""
    print_message(text)
    return 1


def print_problem(path: Path | None, problem: Problem, severity: str) -> None:
    """Print *problem* of the configuration file *path* on standard error."""
    # The form that editors and CI systems recognise: file:line: severity: message
    line = "" if problem.line is None else f":{problem.line}"
    prefix = f"{path}{line}: " if path is not None else ""
    message = f"{problem.location}: {problem.message}" if problem.path else problem.message
    print_message(f"{prefix}{severity}: {message}")
