"""One line of a model's log: as a value, as text, and how two pieces of a log join. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import attrs
import msgspec

from ..logs.lines import escape_controls

# How loud a line is, by the words of the usual programs: llama-server's logger
# ("0.00.003.860 W srv ..."), Python's logging, tracebacks.
_LOUD: Final = re.compile(
    r"^[\d.]+ E |\b(?:ERROR|CRITICAL|FATAL)\b|^(?:\([^)]*\) )?(?:error:|Traceback )"
)
_LOUDER: Final = re.compile(r"^[\d.]+ W |\bWARN(?:ING)?\b|^warning:")

# SGR parameters. Source: ECMA-48, section 8.3.117.
_DIM: Final = "2"
_RED: Final = "31"
_YELLOW: Final = "33"
_CYAN: Final = "36"


@attrs.frozen
class LogRecord:
    """One line of a model's log.

    Attributes:
        ts: When it was read, in UTC as in RFC 3339, to the millisecond.
        line: Its text.
        by_router: Whether the router says it; else the backend printed it.
    """

    ts: str
    line: str
    by_router: bool = False


class _Json(msgspec.Struct):
    ts: str
    line: str
    by: str = ""


_DECODER: Final = msgspec.json.Decoder(_Json)


def as_json(record: LogRecord, model: str) -> dict[str, object]:
    """Return *record* as it is in files and in the API; ``by`` is there for the router's own."""
    fields: dict[str, object] = {"ts": record.ts, "model": model}
    if record.by_router:
        fields["by"] = "router"
    return {**fields, "line": record.line}


def from_json(line: bytes | str) -> LogRecord | None:
    """Return the record in one line of JSON, or None if it is something else."""
    try:
        found = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return LogRecord(found.ts, found.line, found.by == "router")


def as_text(record: LogRecord, *, ts: str | None = None, colours: bool = False) -> str:
    """Return *record* as a line for people, without its end; it steers no terminal.

    Time, ``|`` or ``*``, text: after ``|`` speaks the backend, after ``*`` the router. A
    backend has no influence on what stands before.

    Args:
        record: Which.
        ts: Its time in other words.
        colours: Whether to use those of a terminal.
    """
    when = escape_controls(record.ts) if ts is None else ts
    text = escape_controls(record.line)
    mark = "*" if record.by_router else "|"
    if not colours:
        return f"{when} {mark} {text}"
    colour = _colour(record)
    painted = text if colour is None else f"\x1b[{colour}m{text}\x1b[0m"
    return f"\x1b[{_DIM}m{when} {mark}\x1b[0m {painted}"


def _colour(record: LogRecord) -> str | None:
    if record.by_router:
        return _CYAN
    if _LOUD.search(record.line):
        return _RED
    return _YELLOW if _LOUDER.search(record.line) else None


def overlap(earlier: Sequence[LogRecord], later: Sequence[LogRecord]) -> int | None:
    """Return where in *earlier* the piece *later* begins, or None if they do not touch.

    Both are pieces of one log, read at different times or from different places. Lines
    may repeat, so the latest place that fits is taken.
    """
    if not later:
        return len(earlier)
    for start in range(len(earlier) - 1, -1, -1):
        if earlier[start].ts < later[0].ts:
            return None  # times only grow
        length = min(len(earlier) - start, len(later))
        if earlier[start : start + length] == later[:length]:
            return start
    return None


def join(earlier: Sequence[LogRecord], later: Sequence[LogRecord]) -> list[LogRecord]:
    """Return both pieces as one; what is in both, only once. *later* is kept whole."""
    start = overlap(earlier, later)
    if start is None:
        first_ts = later[0].ts
        return [*(record for record in earlier if record.ts < first_ts), *later]
    return [*earlier[:start], *later]


class Resume:
    """Picks up a log where it was left: tells what was not shown yet from what was.

    The end of a log is read again from somewhere else; of that, everything up to the last
    line that was shown is left out. From the first new line on, everything is new.

    Attributes:
        gap: Whether lines may be missing before the last one that was new: it was the first
            of what was read again, and so nobody knows what was before it.
    """

    def __init__(self) -> None:
        self._last_ts = ""
        self._same_time: Counter[LogRecord] = Counter()
        self._skip: Counter[LogRecord] | None = None
        self._touches = True
        self.gap = False

    def again(self, *, whole: bool = False) -> None:
        """Expect the end of the log from the start once more.

        Args:
            whole: Nothing can have been left out: what comes may begin with a new line.
        """
        self._skip = self._same_time.copy() if self._last_ts else None
        self._touches = whole

    def is_new(self, record: LogRecord) -> bool:
        """Say whether *record* is to be shown; then it counts as shown."""
        if self._skip is not None:
            if record.ts < self._last_ts or self._skip[record] > 0:
                self._skip[record] -= 1
                self._touches = True
                return False
            self._skip = None
            self.gap = not self._touches
        else:
            self.gap = False
        if record.ts != self._last_ts:
            self._last_ts = record.ts
            self._same_time.clear()
        self._same_time[record] += 1
        return True
