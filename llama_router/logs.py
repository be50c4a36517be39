"""Structured logs: lines on a terminal, fields in the journal, JSON lines for everything else.

Modules log with ``structlog.get_logger()`` and events named ``noun.past_participle``;
the program calls `configure` once. Every event is in ``docs/reference/log-events.md``.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import select
import sys
import threading
import time
import traceback
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TextIO, TypeVar

import msgspec

from . import journal
from .core.lines import escape_controls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Let imports of *name* fail meanwhile, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # documented to make imports fail
    try:
        yield
    finally:
        del sys.modules[name]


# structlog imports rich for a renderer that is not used here; that takes 40 of its 88 ms.
with _absent("rich"):
    import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

Item = TypeVar("Item")

# A writer that has just written waits this long, to take the lines of a burst together:
# waking its thread for each would cost the other threads more than the lines do.
_BATCH_S: Final = 0.01

_LEVELS: Final = ("debug", "info", "warning", "error", "critical")

# What JSON allows in a string and a terminal may still obey: DEL, C1, line and paragraph
# separators, bidirectional overrides. JSON itself escapes the rest.
_UNSAFE_IN_JSON: Final = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# On a terminal: SGR parameters. Source: ECMA-48, section 8.3.117.
_LEVEL_COLOURS: Final = {
    "debug": "2",
    "info": "32",
    "warning": "33",
    "error": "31",
    "critical": "31;1",
}


# Source: syslog(3), in the order of _LEVELS.
_PRIORITIES: Final = dict(zip(_LEVELS, "76432", strict=True))


class ThreadedWriter(Generic[Item]):
    """Takes items on any thread, never blocking; one daemon thread writes them in order."""

    def __init__(
        self,
        write: Callable[[list[Item]], None],
        *,
        name: str,
        max_items: int = 10_000,
        max_bytes: int = 8 * 2**20,
    ) -> None:
        """Start the thread.

        Args:
            write: Called on the thread with one or more items, or with none at the
                end. May block; must not raise.
            name: Of the thread.
            max_items: Items that may wait.
            max_bytes: What they may hold together, about.
        """
        self._write = write
        self._max_items = max_items
        self._max_bytes = max_bytes
        # SimpleQueue.put may be interrupted by itself: a finalizer that logs cannot deadlock.
        self._queue: queue.SimpleQueue[tuple[Item, int] | None] = queue.SimpleQueue()
        self._put_bytes = 0
        self._written_bytes = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item, size_bytes: int) -> bool:
        """Hand over *item*; False if it is not taken: too much waits, or it is closed."""
        if (
            self._queue.qsize() >= self._max_items
            or self._put_bytes - self._written_bytes + size_bytes > self._max_bytes
            or self._closing.is_set()
        ):
            return False
        self._put_bytes += size_bytes
        self._queue.put((item, size_bytes))
        return True

    def close(self, timeout_s: float) -> bool:
        """Take nothing more and wait until all is written, up to *timeout_s* seconds.

        Blocks the calling thread. Safe to call again. Returns whether all is written.
        """
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        closed = False
        while not closed:
            batch = [self._queue.get()]
            batch += [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            closed = None in batch
            entries = [entry for entry in batch if entry is not None]
            self._write([item for item, _ in entries])
            self._written_bytes += sum(size_bytes for _, size_bytes in entries)
            self._closing.wait(_BATCH_S)


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
        self._render = render if _LEVELS.index(level) <= _LEVELS.index("info") else None
        self._found = structlog.get_config() if structlog.is_configured() else None
        structlog.configure(
            processors=[render],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=lambda *_: self,
            # A module's logger would stay with the first configuration of the process
            # for good. Caching saves 1.3 of 8 microseconds.
            cache_logger_on_first_use=False,
        )
        self._handler = _LibraryHandler(logging.WARNING)
        logging.getLogger().addHandler(self._handler)
        logging.captureWarnings(capture=True)
        _in_force.append(self)

    def put(self, line: bytes) -> None:
        """Queue one rendered line; never blocks, never raises."""
        if not self._writer.put(line, len(line)):
            self._dropped += 1

    def put_info(self, event: str, fields: EventDict) -> None:
        """Log *event* at the level info; see `info`."""
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
        root = logging.getLogger()
        if self._handler in root.handlers:
            root.removeHandler(self._handler)
            logging.captureWarnings(capture=False)
            _in_force.remove(self)
            if self._found is None:
                structlog.reset_defaults()
            else:
                structlog.configure(**self._found)
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


_in_force: list[LogOutput] = []  # the last one counts


def info(event: str, fields: EventDict) -> None:
    """Log what ``structlog.get_logger().info(event, **fields)`` does, at half the cost.

    For the one line that every request writes: structlog's own part of it, 5 us, would be
    a twentieth of what a request costs.
    """
    if _in_force:
        _in_force[-1].put_info(event, fields)
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
    if level not in _LEVELS:
        raise ValueError(f"no log level {level!r}; there are {', '.join(_LEVELS)}")
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


def render_json(_logger: object, level: str, fields: EventDict) -> bytes:
    """Render an event as one JSON object and a newline, whatever its fields hold."""
    head = {
        "ts": timestamp(time.time()),
        "level": level,
        "event": fields.pop("event"),
    }
    if "exc_info" in fields and (trace := _traceback(fields.pop("exc_info"))):
        fields["traceback"] = trace
    return json_line({**head, **fields})


def render_journal(_logger: object, level: str, fields: EventDict) -> bytes:
    """Render an event as an entry of the journal: a sentence, and a field for each fact."""
    trace = _traceback(fields.pop("exc_info", None))
    event = fields.pop("event")
    words = [_shown(event), *(f"{_shown(key)}={_shown(fields[key])}" for key in fields)]
    entry = {
        "MESSAGE": " ".join(words),
        "PRIORITY": _PRIORITIES[level],
        "SYSLOG_IDENTIFIER": "llama-router",
        "LLAMA_EVENT": escape_controls(_text(event)),
    }
    for key, value in fields.items():
        if value is not None:
            entry[journal.field_name(f"LLAMA_{key}")] = escape_controls(_journal_value(value))
    if trace:
        entry["LLAMA_TRACEBACK"] = "\n".join(map(escape_controls, trace.split("\n")))
    return journal.encode(entry)


def _journal_value(value: object) -> str:
    """Return text as it is, everything else as in JSON."""
    if isinstance(value, str):
        return _text(value)
    try:
        return str(_ENCODER.encode(value), "utf-8")
    except Exception:  # noqa: BLE001 -- a value that cannot be encoded must not cost the entry
        return _text(value)


def json_line(fields: dict[str, Any]) -> bytes:
    """Return *fields* as one line that steers no terminal, whatever they hold."""
    try:
        line = _ENCODER.encode(fields)
    except Exception:  # noqa: BLE001 -- a value that cannot be encoded must not cost the line
        line = _ENCODER.encode({_text(key): _text(fields[key]) for key in fields})
    if not line.isascii() or b"\x7f" in line:
        line = _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", line.decode()).encode()
    return line + b"\n"


def timestamp(time_s: float) -> str:
    """Return *time_s*, in seconds since the epoch, in UTC as in RFC 3339, to the millisecond."""
    second = int(time_s)
    return f"{_clock_time(second)}.{int((time_s - second) * 1000):03d}Z"


@lru_cache(maxsize=4)  # the lines of one second share it
def _clock_time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat()


class ConsoleRenderer:
    """Renders an event for a person: local time, level, event, ``key=value``."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, _logger: object, level: str, fields: EventDict) -> bytes:
        """Return the line and, indented below it, the traceback if there is one."""
        event = self._paint("1", _shown(fields.pop("event")))
        trace = _traceback(fields.pop("exc_info", None))
        words = [
            datetime.now().astimezone().strftime("%H:%M:%S.%f")[:-3],
            self._paint(_LEVEL_COLOURS[level], f"{level:<8}"),
            event,
            *(f"{self._paint('36', _shown(key))}={_shown(fields[key])}" for key in fields),
        ]
        below = ["    " + escape_controls(line) for line in trace.split("\n") if line]
        return ("\n".join([" ".join(words), *below]) + "\n").encode("utf-8", "backslashreplace")

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text


_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)


def _text(value: object) -> str:
    """Return *value* as text that can be encoded."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 -- see json_line
        text = f"<{type(value).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


def _shown(value: object) -> str:
    """Return *value* as one word if it can be, else quoted; never a control character."""
    text = _text(value)
    quoted = not isinstance(value, list | tuple | dict) and re.search(r"[\s\"'=]|^$", text)
    return text if text.isprintable() and not quoted else repr(text)


def _traceback(exc_info: object) -> str:
    """Return the traceback that structlog's *exc_info* stands for, or nothing."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    error = exc_info if isinstance(exc_info, BaseException) else None
    if error is None and exc_info:
        error = sys.exception()
    return "" if error is None else "".join(traceback.format_exception(error)).rstrip()


def _descriptor(stream: TextIO | None) -> int | None:
    """Return the file descriptor below *stream*, which is flushed, if it has one."""
    if stream is None:
        return None
    try:
        stream.flush()
        return stream.fileno()
    except (OSError, ValueError):  # io.StringIO raises both in one
        return None
