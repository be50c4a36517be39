"""What one model's backends print, in memory: lines, bounded, and whoever listens to them."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Final

import attrs
import structlog

from ..logs.lines import Line, LineSplitter
from ..logs.rendering import timestamp
from .output_throttle import PROTOCOL_PREFIX, OutputThrottle
from .record import LogRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = structlog.get_logger()

# What one model's log holds in memory.
_MAX_LINES: Final = 1000
_MAX_CHARS: Final = 256 * 1024

# What may be split in a second, as bytes; a line counts as this many more, for that is what
# it costs. 2 MiB of ordinary lines, 60 000 tiny ones: some 100 ms of everybody's time. A
# backend in its most talkative mode stays well below.
_LINE_COST: Final = 50
FLOOD_COST_PER_S: Final = 3 * 2**20
# In the second after one with a flood.
_CALM_COST_PER_S: Final = 96 * 1024
#: The end of a flood that has stopped is shown after so long, in seconds.
SETTLE_S: Final = 1.0


@attrs.frozen
class LogChunk:
    """Consecutive lines that became known at once.

    Attributes:
        time_s: When, in seconds since the epoch.
        texts: The lines; at least one.
        by_router: Whether the router says them; else the backend printed them.
    """

    time_s: float
    texts: list[str]
    by_router: bool = False

    def records(self, start: int = 0, end: int | None = None) -> list[LogRecord]:
        """Return the lines from the index *start* to before *end* as records."""
        ts = timestamp(self.time_s)
        return [LogRecord(ts, text, self.by_router) for text in self.texts[start:end]]


class ModelLog:
    """The output of one model's backends, across restarts; bounded whatever they print.

    Lines of llama-server's child protocol go to `on_line` only: they are not for people.

    Attributes:
        on_line: Called with every line, as it is completed. During a flood, ordinary
            lines may be left out; those of the child protocol never are.
        listeners: Called with everything that is kept, as it is; must neither block nor
            raise.
    """

    def __init__(
        self,
        model: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_flood: Callable[[], None] = lambda: None,
    ) -> None:
        """Start empty; *on_flood* is called when `settle` will have something to do."""
        self.on_line: Callable[[Line], None] | None = None
        self.listeners: list[Callable[[LogChunk], None]] = []
        self._model = model
        self._clock = clock
        self._on_flood = on_flood
        self._splitter = LineSplitter()
        self._chunks: deque[LogChunk] = deque()
        self._skip = 0  # lines of the oldest chunk that are forgotten
        self._count = 0
        self._chars = 0
        self._since_mark = 0
        self._progress: str | None = None
        self._second_started_s = clock()
        self._second_cost = 0
        self._allowed_cost = FLOOD_COST_PER_S
        self._flood: OutputThrottle | None = None

    def write(self, data: bytes) -> None:
        """Take what a backend printed. Never blocks, never raises."""
        elapsed_s = self._clock() - self._second_started_s
        if elapsed_s >= 1:
            self._settle()
            flooded = self._second_cost > self._allowed_cost and elapsed_s < 2
            self._allowed_cost = _CALM_COST_PER_S if flooded else FLOOD_COST_PER_S
            self._second_started_s += elapsed_s
            self._second_cost = 0
        self._second_cost += len(data)
        if self._flood is None:
            self._second_cost += _LINE_COST * (data.count(b"\n") + data.count(b"\r"))
        if self._second_cost <= self._allowed_cost:
            self._keep(self._splitter.feed(data))
            return
        if self._flood is None:
            self._flood = OutputThrottle(self._splitter.take_partial())
            self._on_flood()
        for line in self._flood.skim(data):
            self._notify(line)

    def note(self, text: str) -> None:
        """Say between the lines what the router did or knows, e.g. ``pid 123 ended``."""
        self._settle()
        self._record([text], by_router=True)

    def mark(self, text: str) -> None:
        """Do the same, and let `tail` tell what was before from what follows."""
        self.note(text)
        self._since_mark = 0
        self._progress = None

    def tail(self, n: int, *, since_mark: bool = False) -> tuple[str, ...]:
        """Return the last *n* complete lines, oldest first.

        A progress update is returned only if it is the newest thing printed. With
        *since_mark*, lines before the last `mark`, and the mark itself, are left out.
        """
        self._settle()
        limit = min(n, self._since_mark) if since_mark else n
        lines = [text for chunk, skip in self._newest(limit) for text in chunk.texts[skip:]]
        if self._progress is not None:
            lines.append(self._progress)
        return tuple(lines[-n:]) if n > 0 else ()

    def recent(self, n: int) -> list[LogRecord]:
        """Return the last *n* complete lines, oldest first, or what is in memory of them."""
        self._settle()
        return [record for chunk, skip in self._newest(n) for record in chunk.records(skip)]

    @property
    def flooded(self) -> bool:
        """Whether output is left out at the moment."""
        return self._flood is not None

    def settle(self) -> None:
        """Say what a flood cost, if it has been on for so long that nobody should wait more."""
        if self._clock() - self._second_started_s >= SETTLE_S:
            self._settle()

    def end_of_process(self) -> None:
        """Complete the last line: nothing more comes from this process."""
        self._settle()
        self._keep(self._splitter.flush())

    def _keep(self, lines: Iterable[Line]) -> None:
        texts: list[str] = []
        for line in lines:
            # Output without a newline, such as llama.cpp's dots, may stand before it.
            text, prefix, state = line.text.partition(PROTOCOL_PREFIX)
            if text or not prefix:
                self._notify(Line(text, line.progress))
                self._progress = text if line.progress else None
                if not line.progress:
                    texts.append(text)
            if prefix:
                self._notify(Line(prefix + state))
        if texts:
            self._record(texts)

    def _newest(self, n: int) -> list[tuple[LogChunk, int]]:
        """Return the chunks with the last *n* lines, and how many of each to leave out."""
        found: list[tuple[LogChunk, int]] = []
        left = min(n, self._count)
        for chunk in reversed(self._chunks):
            if left <= 0:
                break
            found.append((chunk, max(len(chunk.texts) - left, 0)))
            left -= len(chunk.texts)
        return found[::-1]

    def _record(self, texts: list[str], *, by_router: bool = False) -> None:
        chunk = LogChunk(time.time(), texts, by_router)
        self._since_mark += len(texts)
        self._chunks.append(chunk)
        self._count += len(texts)
        self._chars += sum(map(len, texts))
        while self._count > _MAX_LINES or self._chars > _MAX_CHARS:
            oldest = self._chunks[0].texts
            self._chars -= len(oldest[self._skip])
            self._count -= 1
            self._skip += 1
            if self._skip == len(oldest):
                self._chunks.popleft()
                self._skip = 0
        for listen in self.listeners:
            listen(chunk)

    def _notify(self, line: Line) -> None:
        if self.on_line is None:
            return
        try:
            self.on_line(line)
        except Exception:
            # The pipe must be read on, or the backend would stop.
            self.on_line = None
            log.exception("log.listener_failed", model=self._model)

    def _settle(self) -> None:
        """Say what a flood cost, and go on from its newest lines."""
        if self._flood is None:
            return
        lines, size_bytes, newest = self._flood.settle()
        self._flood = None
        if size_bytes:
            self._record([f"… {lines} lines ({size_bytes / 1e6:.1f} MB) dropped"], by_router=True)
        self._keep(self._splitter.feed(newest))
