"""Shows on a terminal what has been measured, while the rest is."""

from __future__ import annotations

import sys

import trio
from rich.console import Group
from rich.live import Live
from rich.text import Text

from ..tables import table
from ..terminal import columns, has_unicode, make_console, text_of
from .figures import COLUMNS
from .measuring import Measurement

#: Time between two pictures, in seconds: often enough to be read, too seldom to disturb.
_PAUSE_S = 0.5


async def show(measurement: Measurement) -> None:
    """Draw the table on standard error, until cancelled; the terminal is left as it was."""

    def drawn() -> Group:
        shown = [level for level in measurement.levels if level.samples or level.failures]
        mark = "…" if has_unicode() else "..."
        rows = [level.row() for level in shown]
        lines = table(COLUMNS, rows, width=columns(), mark=mark) if rows else []
        return Group(*map(text_of, lines), Text(_state_of(measurement), "dim"))

    console = make_console(sys.stderr)
    with Live(drawn(), console=console, auto_refresh=False, transient=True) as live:
        while True:
            live.update(drawn(), refresh=True)
            await trio.sleep(_PAUSE_S)


def _state_of(measurement: Measurement) -> str:
    """Return what is measured now, in words."""
    number, count = measurement.at, len(measurement.levels)
    if number is None:
        return "counting the tokens of prompts"
    level = measurement.levels[number]
    clients = "1 client" if level.clients == 1 else f"{level.clients} clients"
    return (
        f"{number + 1} of {count}: prompts of {level.prompt} tokens, {clients}, "
        f"{len(level.samples)} answers (Ctrl-C ends it)"
    )
