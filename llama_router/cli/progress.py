"""Shows a download: a bar on a terminal, else a line now and then. On standard error."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final, Protocol, Self

from ..hub.downloads import DownloadStatus
from ..hub.units import format_duration, format_size
from ..logs.lines import escape_controls

#: Seconds between two lines where there is no terminal.
LINE_EVERY_S: Final = 10.0


class Display(Protocol):
    """Shows a status after the other, as a context manager."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""

    def show(self, status: DownloadStatus) -> None:
        """Show how it is now."""


def display() -> Display:
    """Return what suits standard error."""
    return Bar() if sys.stderr.isatty() else Lines()


def figures(status: DownloadStatus) -> str:
    """Return how much is here, how fast it comes and how long it will take."""
    if status.total_bytes is None:
        return status.note or "asking the hub"
    text = f"{format_size(status.done_bytes)} of {format_size(status.total_bytes)}"
    if status.note:
        return f"{text}, {status.note}"
    if status.bytes_per_s:
        text += f", {format_size(status.bytes_per_s)}/s"
    return text if status.left_s is None else f"{text}, {format_duration(status.left_s)} left"


class Lines:
    """A line at the beginning, every `LINE_EVERY_S` seconds, and when something is the matter."""

    def __init__(self) -> None:
        self._next_s = 0.0
        self._said: tuple[bool, str | None] = (False, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, status: DownloadStatus) -> None:
        """Print a line if there is something to say."""
        news = (status.total_bytes is not None, status.note)
        now_s = time.monotonic()
        if status.state.is_over or (news == self._said and now_s < self._next_s):
            return
        self._said, self._next_s = news, now_s + LINE_EVERY_S
        line = f"{status.model or status.reference}: {figures(status)}"
        print(escape_controls(line), file=sys.stderr, flush=True)  # noqa: T201 -- its purpose


class Bar:
    """A bar that moves."""

    def __init__(self) -> None:
        # A tenth of a second of imports, for those who have a terminal.
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
        """Move the bar."""
        self._progress.update(
            self._task,
            total=status.total_bytes,
            completed=status.done_bytes,
            name=escape_controls(status.model or str(status.reference)),
            figures=escape_controls(figures(status)),
        )
