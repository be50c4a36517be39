"""Output of the commands: lines and JSON on standard output, messages on standard error.

Control characters are escaped, so that no text of a file or of a router can steer the terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..errors.config import Problem
from ..logs.lines import escape_controls
from .failures import CliError
from .tables import Line
from .terminal import has_colours, painted, shortened, wrapped


def print_line(text: str) -> None:
    """Print *text* as one line on standard output."""
    print(escape_controls(text), flush=True)  # noqa: T201 -- the command's output


def print_styled(line: Line) -> None:
    """Print *line* on standard output, painted where that is a terminal with colours."""
    colours = has_colours(sys.stdout)
    text = "".join(painted(escape_controls(c.text), *c.styles, on=colours) for c in line)
    print(text.rstrip(), flush=True)  # noqa: T201 -- same


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print *rows* as lines with aligned columns; the first one has the headings."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_line("  ".join(cells).rstrip())


def print_json(document: object, *, indent: int | None = 2) -> None:
    """Print *document* as JSON on standard output."""
    print(json.dumps(document, indent=indent), flush=True)  # noqa: T201 -- same


def print_message(text: str) -> None:
    """Print *text* as one line on standard error."""
    print(escape_controls(text), file=sys.stderr, flush=True)  # noqa: T201 -- same


#: Most lines of details that are printed with an error, and characters of each.
_DETAILS: Final = 8
_DETAIL_CHARACTERS: Final = 300


def print_error(error: Exception) -> None:
    """Print *error* on standard error: what happened, what to do, and dimmed its details.

    On a terminal, lines fit into its width.
    """
    is_terminal = sys.stderr.isatty()
    colours = has_colours(sys.stderr)

    def put(text: str, *, first: str = "  ", styles: tuple[str, ...] = ()) -> None:
        lines = wrapped(text, indent="  ") if is_terminal else [f"  {text}"]
        lines[0] = first + lines[0].removeprefix("  ")
        for line in lines:
            print(painted(line, *styles, on=colours), file=sys.stderr, flush=True)  # noqa: T201 -- same

    what, _, more = escape_controls(str(error)).partition("; ")
    put(what, first=painted("error:", "red", "bold", on=colours) + " ")
    if more:
        put(more)
    if isinstance(error, CliError):
        if error.cure:
            put(escape_controls(error.cure))
        left = len(error.details) - _DETAILS
        for detail in error.details[-_DETAILS:]:
            put(shortened(escape_controls(detail), _DETAIL_CHARACTERS), styles=("dim",))
        if left > 0:
            put(f"and {left} lines before these", styles=("dim",))


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
