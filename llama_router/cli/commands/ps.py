"""``ps``: the models that a running router has loaded."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from ..client import STATUS, connected, reporting_failures
from ..failures import CommandError
from ..model_rows import COLUMNS, is_listed, remarks, row_of
from ..options import DEFAULT_CONNECTION, Connection, Json
from ..printing import print_json, print_message, print_styled
from ..tables import Cell, table
from ..terminal import columns, has_unicode, is_movable, wrapped


@reporting_failures
def ps(
    *,
    all: Annotated[bool, Parameter(name=["--all", "-a"], negative="")] = False,  # noqa: A002 -- the option's name
    watch: Annotated[bool, Parameter(name=["--watch", "-w"], negative="")] = False,
    json: Json = False,
    connection: Connection = DEFAULT_CONNECTION,
) -> int:
    """List the models that a running router has loaded.

    Models that crashed and were not started since are among them.

    Args:
        all: Include the models that are not loaded.
        watch: Show it live, with devices and events, until q is typed.
        json: Print JSON.
        connection: How to find the router.
    """
    if watch:
        if not is_movable(sys.stdout) or not sys.stdin.isatty():
            raise CommandError("--watch needs a terminal", cure="for scripts there is --json")
        from .. import watch as live  # noqa: PLC0415 -- a fifth of a second, for this only

        live.watch(connection, show_all=all)
        return 0
    with connected(connection) as client:
        state = client.get(STATUS)
    listed = [model for model in state["models"] if all or is_listed(model)]
    if json:
        print_json(listed)
        return 0
    _print(listed)
    for program in state["programs"]:
        if program["warning"]:
            print_message(f"warning: {program['warning']}")
    return 0


def _print(models: list[dict[str, Any]]) -> None:
    width = columns() if sys.stdout.isatty() else None
    mark = "…" if has_unicode() else "..."
    for line in table(COLUMNS, [row_of(model) for model in models], width=width, mark=mark):
        print_styled(line)
    for remark in remarks(models):
        lines = [remark.text]
        if width is not None:
            lines = wrapped(remark.text, width=width)
        for number, part in enumerate(lines):
            print_styled([Cell("  " * (number > 0) + part, remark.styles)])
