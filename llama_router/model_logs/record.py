"""Records: the lines of a model's log, as JSON and text; joining two pieces of a log. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import attrs
import msgspec

from ..logs.lines import escape_controls

# Severity of a line, by the words of the usual programs: llama-server's logger
# ("0.00.003.860 W srv ..."), Python's logging, tracebacks.
_ERROR: Final = re.compile(
    r"^[\d.]+ E |\b(?:ERROR|CRITICAL|FATAL)\b|^(?:\([^)]*\) )?(?:error:|Traceback )"
)
_WARNING: Final = re.compile(r"^[\d.]+ W |\bWARN(?:ING)?\b|^warning:")

# SGR parameters. Source: ECMA-48, section 8.3.117.
_DIM: Final = "2"
_RED: Final = "31"
_YELLOW: Final = "33"
_CYAN: Final = "36"


@attrs.frozen
class LogRecord:
    """One line of a model's log.

    Attributes:
        ts: The time of reading: RFC 3339, UTC, with milliseconds.
        line: The text.
        by_router: True for a note of the router, False for output of the backend.
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
    """Return *record* in the form of files and API; notes of the router have the field ``by``."""
    fields: dict[str, object] = {"ts": record.ts, "model": model}
    if record.by_router:
        fields["by"] = "router"
    return {**fields, "line": record.line}


def from_json(line: bytes | str) -> LogRecord | None:
    """Return the record in one line of JSON, or None if the line holds none."""
    try:
        found = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return LogRecord(found.ts, found.line, found.by == "router")


def as_text(record: LogRecord, *, ts: str | None = None, colours: bool = False) -> str:
    """Return *record* as a line of text without a line end or control characters.

    Time, ``|`` or ``*``, text: ``|`` precedes output of the backend, ``*`` a note of the router.
    The output cannot change what precedes it.

    Args:
        record: The record.
        ts: Replaces the record's time, e.g. by local time.
        colours: Use the colours of a terminal.
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
    if _ERROR.search(record.line):
        return _RED
    return _YELLOW if _WARNING.search(record.line) else None


def overlap(earlier: Sequence[LogRecord], later: Sequence[LogRecord]) -> int | None:
    """Return the index in *earlier* at which *later* begins, or None if they do not touch.

    Both are pieces of one log, read at different times or from different places. Lines
    may repeat, so the last matching index is returned.
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
    """Return both pieces as one, without records that are in both. *later* is kept whole."""
    start = overlap(earlier, later)
    if start is None:
        first_ts = later[0].ts
        return [*(record for record in earlier if record.ts < first_ts), *later]
    return [*earlier[:start], *later]


class Resume:
    """Resumes a log after an interruption: separates new records from those shown before.

    The end of the log is read again, perhaps from another source. Records up to the last one
    that was shown are skipped; all later ones are new.

    Attributes:
        gap: True if records may be missing before the latest new one: it was the first record
            that was read again, so the records before it are unknown.
    """

    def __init__(self) -> None:
        self._last_ts = ""
        self._same_time: Counter[LogRecord] = Counter()
        self._skip: Counter[LogRecord] | None = None
        self._touches = True
        self.gap = False

    def restart(self, *, complete: bool = False) -> None:
        """Prepare for reading the end of the log again.

        Args:
            complete: No record can be missing, even if the first one that is read is new.
        """
        self._skip = self._same_time.copy() if self._last_ts else None
        self._touches = complete

    def is_new(self, record: LogRecord) -> bool:
        """Return True if *record* is new, and count it as shown."""
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
