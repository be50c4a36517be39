"""Where the events of this process go, from `configure` until it ends."""

from __future__ import annotations

import logging
import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TextIO

from . import journal
from .quick_structlog import structlog
from .rendering import (
    LEVELS,
    ConsoleRenderer,
    json_line,
    render_journal,
    render_json,
    timestamp,
)
from .threaded_writer import ThreadedWriter

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor


class LogOutput:
    """Where log lines go until `close`; made by `configure`, usable in a ``with``.

    A thread writes the lines. Those that the stream cannot take are dropped and counted:
    ``logs.dropped`` says how many, as soon as it takes lines again.
    """

    def __init__(
        self,
        stream: TextIO | None,
        render: Processor,
        *,
        level: str,
        to: journal.Journal | None = None,
    ) -> None:
        self._stream = stream
        self._descriptor = _descriptor(stream)
        self._journal = to  # then *stream* is not used
        self._dropped = 0
        self._torn = False  # the stream ends in a part of a line
        self._direct = structlog.wrap_logger(
            _Returning(), [render], structlog.make_filtering_bound_logger("debug")
        )
        self._writer = ThreadedWriter(self._write, name="logs")
        self._render = render if LEVELS.index(level) <= LEVELS.index("info") else None
        self._processor, self._level = render, level
        _in_force.begin(self)

    def use(self) -> None:
        """Send the events of this process here."""
        structlog.configure(
            processors=[self._processor],
            wrapper_class=structlog.make_filtering_bound_logger(self._level),
            logger_factory=lambda *_: self,
            # A module's logger would stay with the first configuration of the process
            # for good. Caching saves 1.3 of 8 microseconds.
            cache_logger_on_first_use=False,
        )

    def put(self, line: bytes) -> None:
        """Queue one rendered line; never blocks, never raises."""
        if not self._writer.put(line, len(line)):
            self._dropped += 1

    def put_info(self, event: str, fields: EventDict) -> None:
        """Log *event* at the level info; see `log_info`."""
        if self._render is render_json:
            stamp = timestamp(time.time())
            self.put(json_line({"ts": stamp, "level": "info", "event": event, **fields}))
        elif self._render is not None:
            line = self._render(None, "info", {"event": event, **fields})
            assert isinstance(line, bytes), "what both renderers return"
            self.put(line)

    debug = info = warning = error = critical = put  # structlog calls the level's name

    def close(self, timeout_s: float = 2.0) -> bool:
        """Undo `configure` and write what is queued, for up to *timeout_s* seconds.

        Blocks the calling thread. Safe to call again. Returns whether all is written.
        """
        _in_force.end(self)
        written = self._writer.close(timeout_s)
        if written and self._journal is not None:
            self._journal.close()
        return written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, lines: list[bytes]) -> None:
        """Write a batch; on the thread."""
        dropped, self._dropped = self._dropped, 0
        if dropped:
            lines = [*lines, self._direct.warning("logs.dropped", lines=dropped)]
        if self._journal is not None:
            self._send(self._journal, lines, dropped)
            return
        data = b"".join(lines)
        try:
            if self._descriptor is not None:
                self._write_all(self._descriptor, b"\n" + data if self._torn else data)
            elif self._stream is not None:
                self._stream.write(data.decode())
                self._stream.flush()
        except (OSError, ValueError):  # ValueError: it was closed
            self._dropped += dropped + len(lines) - (dropped > 0)

    def _send(self, to: journal.Journal, entries: list[bytes], dropped: int) -> None:
        """Send a batch to the journal; its last one says that *dropped* are missing, if any."""
        for number, entry in enumerate(entries):
            try:
                to.send(entry)
            except OSError:
                last = dropped and number == len(entries) - 1
                self._dropped += dropped if last else 1

    def _write_all(self, descriptor: int, data: bytes) -> None:
        """Write *data*, through no buffer: a failed write would fill it.

        Raises:
            OSError: if not all of it could be written.
        """
        rest = memoryview(data)
        while rest:
            try:
                written = os.write(descriptor, rest)
            except BlockingIOError:  # whoever shares the terminal made it non-blocking
                poll = select.poll()
                poll.register(descriptor, select.POLLOUT)
                poll.poll()
                continue
            self._torn = rest[written - 1] != ord("\n")
            rest = rest[written:]


class _InForce:
    """The outputs that are open, and what the process logged with before the first.

    The configurations of structlog and of `logging` belong to the process. So they are changed
    here only: outputs may be closed in any order, and the last one that is open is used.
    """

    def __init__(self) -> None:
        self._outputs: list[LogOutput] = []
        self._before: dict[str, Any] | None = None  # of structlog; None is its defaults
        self._handler = _LibraryHandler(logging.WARNING)

    @property
    def last(self) -> LogOutput | None:
        """Return the output that is used, if there is one."""
        return self._outputs[-1] if self._outputs else None

    def begin(self, output: LogOutput) -> None:
        """Use *output* until it ends or another one begins."""
        if not self._outputs:
            self._before = structlog.get_config() if structlog.is_configured() else None
            logging.getLogger().addHandler(self._handler)
            logging.captureWarnings(capture=True)
        self._outputs.append(output)
        output.use()

    def end(self, output: LogOutput) -> None:
        """Use *output* no longer. Does nothing if it has ended already."""
        if output not in self._outputs:
            return
        self._outputs.remove(output)
        if self.last is not None:
            self.last.use()
            return
        logging.getLogger().removeHandler(self._handler)
        logging.captureWarnings(capture=False)
        if self._before is None:
            structlog.reset_defaults()
        else:
            structlog.configure(**self._before)


def log_info(event: str, fields: EventDict) -> None:
    """Log what ``structlog.get_logger().info(event, **fields)`` does, at half the cost.

    For the one line that every request writes: structlog's own part of it, 5 us, would be
    a twentieth of what a request costs.
    """
    if (output := _in_force.last) is not None:
        output.put_info(event, fields)
    else:
        structlog.get_logger().info(event, **fields)


class _Returning:
    """A logger that gives the rendered line back."""

    @staticmethod
    def warning(line: bytes) -> bytes:
        return line


class _LibraryHandler(logging.Handler):
    """Turns the records of libraries into events."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log *record* as ``library.logged``; never raises."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 -- a library's arguments may do anything here
            message = f"{record.msg!r} with arguments that do not fit"
        fields = {"logger": record.name, "message": message, "exc_info": record.exc_info}
        if record.levelno >= logging.ERROR:
            structlog.get_logger().error("library.logged", **fields)
        else:
            structlog.get_logger().warning("library.logged", **fields)


_in_force: Final = _InForce()


def configure(
    *,
    level: str = "info",
    format: Literal["auto", "console", "json"] = "auto",  # noqa: A002 -- the option's name
    stream: TextIO | None = None,
    journal_path: str = journal.SOCKET_PATH,
) -> LogOutput:
    """Send the events of this process, and its libraries' warnings, to *stream*.

    Args:
        level: The least that is logged: debug, info, warning, error or critical.
        format: ``console`` for people, ``json`` for programs; ``auto`` is ``console``
            if *stream* is a terminal, and if it leads to the journal, an entry there with
            a field for each fact; else ``json``. Only a terminal gets colours.
        stream: Standard error if not given, as it is now.
        journal_path: Where journald listens.

    Returns:
        The output, to be closed when the program ends.

    Raises:
        ValueError: if there is no such level.
    """
    if level not in LEVELS:
        raise ValueError(f"no log level {level!r}; there are {', '.join(LEVELS)}")
    # A process started without a standard error has None here.
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
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return LogOutput(target, ConsoleRenderer(colours=terminal and not plain), level=level)


def _descriptor(stream: TextIO | None) -> int | None:
    """Return the file descriptor below *stream*, which is flushed, if it has one."""
    if stream is None:
        return None
    try:
        stream.flush()
        return stream.fileno()
    except (OSError, ValueError):  # io.StringIO raises both in one
        return None
