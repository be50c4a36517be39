"""The output of the log: `configure` opens it, and a thread writes it."""

from __future__ import annotations

import logging
import os
import select
import sys
from typing import Any, Final, Literal, Self, TextIO

from . import journal
from .console import ConsoleRenderer
from .events import log
from .rendering import (
    LEVELS,
    Renderer,
    render_journal,
    render_json,
    with_traceback,
)
from .threaded_writer import ThreadedWriter

#: Width of a terminal that does not say how wide it is, in columns.
_USUAL_COLUMNS: Final = 80


class LogOutput:
    """A destination of log lines; created by `configure`, closed by `close` or a ``with``.

    A thread writes the lines. Lines that the stream cannot take are dropped and counted;
    ``logs.dropped`` reports their number as soon as the stream takes lines again.
    """

    def __init__(
        self,
        stream: TextIO | None,
        render: Renderer,
        *,
        level: str,
        to: journal.Journal | None = None,
    ) -> None:
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self._journal = to  # replaces *stream* if it is set
        self._dropped = 0
        self._line_cut = False  # the last write ended in the middle of a line
        self._writer = ThreadedWriter(self._write, name="logs")
        self._render = render
        self._levels = frozenset(LEVELS[LEVELS.index(level) :])
        log.add(self)
        _library_events.begin(self)

    def take(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Queue the line of an event, if its level is logged. Never blocks, never raises."""
        if level in self._levels:
            kept = with_traceback(fields) if "exc_info" in fields else fields
            line = self._render(level, event, fields)
            log.recent.keep(level, event, kept, len(line))
            if not self._writer.put(line, len(line)):
                self._dropped += 1

    def close(self, timeout_s: float = 2.0) -> bool:
        """Undo `configure`, and write what is queued, for up to *timeout_s* seconds.

        Blocks the calling thread. Safe to call again. Returns True if everything is written.
        """
        log.remove(self)
        _library_events.end(self)
        written = self._writer.close(timeout_s)
        if written and self._journal is not None:
            self._journal.close()
        return written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, lines: list[bytes]) -> None:
        """Write a batch; runs on the writer's thread."""
        dropped, self._dropped = self._dropped, 0
        if dropped:
            log.lost_lines += dropped
            lines = [*lines, self._render("warning", "logs.dropped", {"lines": dropped})]
        if self._journal is not None:
            self._send(self._journal, lines, dropped)
            return
        data = b"".join(lines)
        try:
            if self._descriptor is not None:
                self._write_all(self._descriptor, b"\n" + data if self._line_cut else data)
            elif self._stream is not None:
                self._stream.write(data.decode())
                self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._dropped += dropped + len(lines) - (dropped > 0)

    def _send(self, to: journal.Journal, entries: list[bytes], dropped: int) -> None:
        """Send a batch to the journal; if *dropped*, its last entry reports that number."""
        for number, entry in enumerate(entries):
            try:
                to.send(entry)
            except OSError:
                last = dropped and number == len(entries) - 1
                self._dropped += dropped if last else 1

    def _write_all(self, descriptor: int, data: bytes) -> None:
        """Write *data* unbuffered: data of a failed write would stay in a buffer.

        Raises:
            OSError: if *data* could not be written completely.
        """
        rest = memoryview(data)
        while rest:
            try:
                written = os.write(descriptor, rest)
            except BlockingIOError:  # another process made the shared terminal non-blocking
                poll = select.poll()
                poll.register(descriptor, select.POLLOUT)
                poll.poll()
                continue
            # A complete write may end in a line of progress, which the next line replaces.
            self._line_cut = written < len(rest) and rest[written - 1] != ord("\n")
            rest = rest[written:]


class _LibraryEvents:
    """Makes the warnings of libraries events, as long as an output is open.

    `logging` is configured per process, and outputs may be closed in any order.
    """

    def __init__(self) -> None:
        self._outputs: list[LogOutput] = []
        self._handler = _LibraryHandler(logging.WARNING)

    def begin(self, output: LogOutput) -> None:
        """Take in the warnings of libraries until `end`."""
        if not self._outputs:
            logging.getLogger().addHandler(self._handler)
            logging.captureWarnings(capture=True)
        self._outputs.append(output)

    def end(self, output: LogOutput) -> None:
        """End what *output* began. No effect if it has ended already."""
        if output not in self._outputs:
            return
        self._outputs.remove(output)
        if not self._outputs:
            logging.getLogger().removeHandler(self._handler)
            logging.captureWarnings(capture=False)


class _LibraryHandler(logging.Handler):
    """Logs the records of libraries as events."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log *record* as ``library.logged``; never raises."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 -- a library's arguments may do anything here
            message = f"{record.msg!r} with arguments that do not fit"
        fields = {"logger": record.name, "message": message, "exc_info": record.exc_info}
        if record.levelno >= logging.ERROR:
            log.error("library.logged", **fields)
        else:
            log.warning("library.logged", **fields)


_library_events: Final = _LibraryEvents()


def configure(
    *,
    level: str = "info",
    format: Literal["auto", "console", "json"] = "auto",  # noqa: A002 -- the option's name
    stream: TextIO | None = None,
    journal_path: str = journal.SOCKET_PATH,
) -> LogOutput:
    """Send the events of this process, and its libraries' warnings, to *stream*.

    Args:
        level: The lowest level that is logged: debug, info, warning, error or critical.
        format: ``console`` for text, ``json`` for JSON lines. ``auto`` is ``console`` if
            *stream* is a terminal, entries with fields if it is the journal, else
            ``json``. Only a terminal gets colours.
        stream: The stream; None for the present standard error.
        journal_path: The socket of journald.

    Returns:
        The output; to be closed before the program ends.

    Raises:
        ValueError: if *level* is unknown.
    """
    if level not in LEVELS:
        raise ValueError(f"no log level {level!r}; there are {', '.join(LEVELS)}")
    # sys.stderr is None in a process that was started without a standard error.
    target = stream if stream is not None else sys.stderr
    terminal = target is not None and target.isatty()
    if (
        format == "auto"
        and journal.is_connected(_descriptor(target), os.environ)
        and os.path.exists(journal_path)  # noqa: PTH110 -- a socket may be out of reach; JSON is not
    ):
        to = journal.Journal(journal_path)
        return LogOutput(target, render_journal, level=level, to=to)
    if format == "json" or (format == "auto" and not terminal):
        return LogOutput(target, render_json, level=level)
    return LogOutput(target, _console_renderer(target), level=level)


def _console_renderer(stream: TextIO | None) -> ConsoleRenderer:
    """Return the renderer of text: only a terminal gets colours, and lines that fit."""
    if stream is None or not stream.isatty():
        return ConsoleRenderer(colours=False)
    is_dumb = os.environ.get("TERM") == "dumb"
    descriptor = _descriptor(stream)

    def width() -> int:
        try:
            return os.get_terminal_size(descriptor).columns if descriptor is not None else 0
        except OSError:
            return 0

    return ConsoleRenderer(
        colours=not (os.environ.get("NO_COLOR") or is_dumb),
        width=lambda: width() or _USUAL_COLUMNS,
        replaces=not is_dumb,
    )


def _descriptor(stream: TextIO | None) -> int | None:
    """Flush *stream*; return its file descriptor, or None."""
    if stream is None:
        return None
    try:
        stream.flush()
        return stream.fileno()
    except (OSError, ValueError):  # io.StringIO raises both in one
        return None
