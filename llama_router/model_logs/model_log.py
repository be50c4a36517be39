"""The log of one model in memory: a bounded number of lines, and their listeners."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

import attrs

from ..logs.events import log
from ..logs.lines import Line, LineSplitter
from ..logs.rendering import timestamp
from .output_throttle import PROTOCOL_PREFIX, OutputThrottle
from .record import LogRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Bounds of one log in memory.
_MAX_LINES: Final = 1000
_MAX_CHARS: Final = 256 * 1024

# Splitting output into lines costs CPU time: 1 per byte, and this much more per line.
_LINE_COST: Final = 50
#: Output above this cost per second is dropped. 2 MiB of ordinary lines or 60 000 tiny ones take
#: 100 ms of the event loop. A backend at its most verbose stays well below.
MAX_COST_PER_S: Final = 3 * 2**20
# The limit in the second after one with dropped output.
_THROTTLED_COST_PER_S: Final = 96 * 1024
#: Time after which the end of dropped output is shown, in seconds.
REPORT_AFTER_S: Final = 1.0


@attrs.frozen
class LogChunk:
    """Consecutive lines that were read at once.

    Attributes:
        time_s: The time of the read, in seconds since the epoch.
        texts: The lines; at least one.
        by_router: True for notes of the router, False for output of the backend.
    """

    time_s: float
    texts: list[str]
    by_router: bool = False

    def records(self, start: int = 0, end: int | None = None) -> list[LogRecord]:
        """Return the lines from the index *start* to before *end* as records."""
        ts = timestamp(self.time_s)
        return [LogRecord(ts, text, self.by_router) for text in self.texts[start:end]]


class ModelLog:
    """The output of one model's backends, across restarts; bounded in memory and CPU time.

    Lines of llama-server's child protocol go to `on_line` only: they are no log lines.

    Attributes:
        on_line: Called with every complete line. While output is dropped, ordinary lines
            may be left out; lines of the child protocol never are.
        leaves_out: Returns whether a line of output, the next one, is kept out of the log; must
            neither block nor raise.
        listeners: Called with every chunk of the log; must neither block nor raise.
        dropped_lines: Lines of output that were dropped, because they came too fast.
    """

    def __init__(
        self,
        model: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_throttled: Callable[[], None] = lambda: None,
    ) -> None:
        """Create an empty log; *on_throttled* is called when output begins to be dropped."""
        self.on_line: Callable[[Line], None] | None = None
        self.leaves_out: Callable[[str], bool] | None = None
        self.listeners: list[Callable[[LogChunk], None]] = []
        self.dropped_lines = 0
        self._model = model
        self._clock = clock
        self._on_throttled = on_throttled
        self._splitter = LineSplitter()
        self._chunks: deque[LogChunk] = deque()
        self._discarded = 0  # lines of the oldest chunk that are no longer kept
        self._line_count = 0
        self._char_count = 0
        self._lines_since_mark = 0
        self._progress: str | None = None
        self._second_started_s = clock()
        self._second_cost = 0
        self._allowed_cost = MAX_COST_PER_S
        self._throttle: OutputThrottle | None = None

    def write(self, data: bytes) -> None:
        """Add output of a backend. Never blocks, never raises."""
        elapsed_s = self._clock() - self._second_started_s
        if elapsed_s >= 1:
            self._end_throttling()
            exceeded = self._second_cost > self._allowed_cost and elapsed_s < 2
            self._allowed_cost = _THROTTLED_COST_PER_S if exceeded else MAX_COST_PER_S
            self._second_started_s += elapsed_s
            self._second_cost = 0
        self._second_cost += len(data)
        if self._throttle is None:
            self._second_cost += _LINE_COST * (data.count(b"\n") + data.count(b"\r"))
        if self._second_cost <= self._allowed_cost:
            self._keep(self._splitter.feed(data))
            return
        if self._throttle is None:
            self._throttle = OutputThrottle(self._splitter.take_partial())
            self._on_throttled()
        for line in self._throttle.drop(data):
            self._notify(line)

    def note(self, text: str) -> None:
        """Add a note of the router between the lines, e.g. ``pid 123 ended``."""
        self._end_throttling()
        self._record([text], by_router=True)

    def mark(self, text: str) -> None:
        """Add a note, from which on `tail` counts lines if asked to (*since_mark*)."""
        self.note(text)
        self._lines_since_mark = 0
        self._progress = None

    def tail(self, n: int, *, since_mark: bool = False) -> tuple[str, ...]:
        """Return the last *n* complete lines, oldest first.

        A progress update is returned only if it is the newest output. With
        *since_mark*, lines before the last `mark`, and the mark itself, are left out.
        """
        self._end_throttling()
        limit = min(n, self._lines_since_mark) if since_mark else n
        lines = [text for chunk, skip in self._newest(limit) for text in chunk.texts[skip:]]
        if self._progress is not None:
            lines.append(self._progress)
        return tuple(lines[-n:]) if n > 0 else ()

    def recent(self, n: int) -> list[LogRecord]:
        """Return the last *n* complete lines that are in memory, oldest first."""
        self._end_throttling()
        return [record for chunk, skip in self._newest(n) for record in chunk.records(skip)]

    @property
    def throttled(self) -> bool:
        """True while output is dropped."""
        return self._throttle is not None

    def report_dropped(self) -> None:
        """Report dropped output `REPORT_AFTER_S` after it began, also if no more output comes."""
        if self._clock() - self._second_started_s >= REPORT_AFTER_S:
            self._end_throttling()

    def end_of_process(self) -> None:
        """Complete the last line at the end of a process."""
        self._end_throttling()
        self._keep(self._splitter.flush())

    def _keep(self, lines: Iterable[Line]) -> None:
        texts: list[str] = []
        for line in lines:
            # Output without a newline, such as llama.cpp's dots, may precede the prefix.
            text, prefix, state = line.text.partition(PROTOCOL_PREFIX)
            if text or not prefix:
                self._notify(Line(text, line.progress))
                self._progress = text if line.progress else None
                if not line.progress and not (self.leaves_out and self.leaves_out(text)):
                    texts.append(text)
            if prefix:
                self._notify(Line(prefix + state))
        if texts:
            self._record(texts)

    def _newest(self, n: int) -> list[tuple[LogChunk, int]]:
        """Return the chunks with the last *n* lines, each with the number of lines to leave out."""
        found: list[tuple[LogChunk, int]] = []
        left = min(n, self._line_count)
        for chunk in reversed(self._chunks):
            if left <= 0:
                break
            found.append((chunk, max(len(chunk.texts) - left, 0)))
            left -= len(chunk.texts)
        return found[::-1]

    def _record(self, texts: list[str], *, by_router: bool = False) -> None:
        chunk = LogChunk(time.time(), texts, by_router)
        self._lines_since_mark += len(texts)
        self._chunks.append(chunk)
        self._line_count += len(texts)
        self._char_count += sum(map(len, texts))
        while self._line_count > _MAX_LINES or self._char_count > _MAX_CHARS:
            oldest = self._chunks[0].texts
            self._char_count -= len(oldest[self._discarded])
            self._line_count -= 1
            self._discarded += 1
            if self._discarded == len(oldest):
                self._chunks.popleft()
                self._discarded = 0
        for listen in self.listeners:
            listen(chunk)

    def _notify(self, line: Line) -> None:
        if self.on_line is None:
            return
        try:
            self.on_line(line)
        except Exception:
            # Reading of the pipe must go on, or the backend would block.
            self.on_line = None
            log.exception("log.listener_failed", model=self._model)

    def _end_throttling(self) -> None:
        """Report dropped output, and continue with the end of it."""
        if self._throttle is None:
            return
        lines, size_bytes, tail = self._throttle.finish()
        self._throttle = None
        self.dropped_lines += lines
        if size_bytes:
            self._record([f"… {lines} lines ({size_bytes / 1e6:.1f} MB) dropped"], by_router=True)
        self._keep(self._splitter.feed(tail))
