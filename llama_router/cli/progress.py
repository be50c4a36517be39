"""Progress of a download on standard error: a bar on a terminal, else a line every 10 s."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Protocol, Self

from ..hub.downloads import DownloadStatus
from ..hub.units import format_duration, format_size
from ..logs.lines import escape_controls
from .printing import print_message

#: Seconds between two lines if standard error is not a terminal.
LINE_EVERY_S: Final = 10.0


class Display(Protocol):
    """Shows the status of one download within its ``with`` block."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the terminal."""

    def show(self, status: DownloadStatus) -> None:
        """Show *status*."""


def display() -> Display:
    """Return a bar if standard error is a terminal, else lines."""
    return Bar() if sys.stderr.isatty() else Lines()


def figures(status: DownloadStatus) -> str:
    """Return the bytes that have arrived, their rate, and the time that is left."""
    if status.total_bytes is None:
        return status.note or "asking the hub"
    text = f"{format_size(status.done_bytes)} of {format_size(status.total_bytes)}"
    if status.note:
        return f"{text}, {status.note}"
    if status.bytes_per_s:
        text += f", {format_size(status.bytes_per_s)}/s"
    return text if status.left_s is None else f"{text}, {format_duration(status.left_s)} left"


class Lines:
    """Prints a line at the start, every `LINE_EVERY_S` seconds, and when the note changes."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._printed: tuple[bool, str | None] = (False, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, status: DownloadStatus) -> None:
        """Print a line if one is due."""
        state = (status.total_bytes is not None, status.note)
        now_s = time.monotonic()
        if status.state.is_over or (state == self._printed and now_s < self._next_s):
            return
        self._printed, self._next_s = state, now_s + LINE_EVERY_S
        line = f"{status.model or status.reference}: {figures(status)}"
        print_message(line)


class Bar:
    """Draws a bar."""

    def __init__(self) -> None:
        # Rich takes 0.1 s to import, and is needed on a terminal only.
        from rich.console import Console  # noqa: PLC0415 -- see above
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415 -- same

        self._progress = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", name="", figures="", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, status: DownloadStatus) -> None:
        """Redraw the bar."""
        self._progress.update(
            self._task,
            total=status.total_bytes,
            completed=status.done_bytes,
            name=escape_controls(status.model or str(status.reference)),
            figures=escape_controls(figures(status)),
        )
