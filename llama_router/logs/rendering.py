"""Renders events: as JSON lines, and as entries of the journal; `console` is for terminals."""

from __future__ import annotations

import re
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from . import journal
from .lines import escape_controls

#: Returns the line of an event: of its level, its name and its fields, which may be changed.
Renderer: TypeAlias = Callable[[str, str, dict[str, Any]], bytes]

LEVELS: Final = ("debug", "info", "warning", "error", "critical")

# Control characters that JSON does not escape: DEL, C1, line and paragraph separators,
# bidirectional overrides.
_UNSAFE_IN_JSON: Final = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# Source: syslog(3), in the order of LEVELS.
_PRIORITIES: Final = dict(zip(LEVELS, "76432", strict=True))

_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)


def render_json(level: str, event: str, fields: dict[str, Any]) -> bytes:
    """Render an event as one JSON object and a newline; accepts fields of any type."""
    if "exc_info" in fields and (trace := traceback_of(fields.pop("exc_info"))):
        fields["traceback"] = trace
    return json_line({"ts": timestamp(time.time()), "level": level, "event": event, **fields})


def render_journal(level: str, event: str, fields: dict[str, Any]) -> bytes:
    """Render an event as an entry of the journal: a message, and one field per event field."""
    trace = traceback_of(fields.pop("exc_info", None))
    words = [_word(event), *(f"{_word(key)}={_word(fields[key])}" for key in fields)]
    entry = {
        "MESSAGE": " ".join(words),
        "PRIORITY": _PRIORITIES[level],
        "SYSLOG_IDENTIFIER": "llama-router",
        "LLAMA_EVENT": escape_controls(text_of(event)),
    }
    for key, value in fields.items():
        if value is not None:
            entry[journal.field_name(f"LLAMA_{key}")] = escape_controls(_journal_value(value))
    if trace:
        entry["LLAMA_TRACEBACK"] = "\n".join(map(escape_controls, trace.split("\n")))
    return journal.encode(entry)


def _journal_value(value: object) -> str:
    """Return a string unchanged, any other value as JSON."""
    if isinstance(value, str):
        return text_of(value)
    try:
        return str(_ENCODER.encode(value), "utf-8")
    except Exception:  # noqa: BLE001 -- a value that cannot be encoded must not cost the entry
        return text_of(value)


def _encodable(value: object) -> object:
    """Return *value*, or its text if it cannot be encoded."""
    try:
        _ENCODER.encode(value)
    except Exception:  # noqa: BLE001 -- see json_line
        return text_of(value)
    return value


def json_line(fields: dict[str, Any]) -> bytes:
    """Return *fields*, with values of any type, as one line of JSON without control characters."""
    try:
        line = _ENCODER.encode(fields)
    except Exception:  # noqa: BLE001 -- a value that cannot be encoded must not cost the line
        line = _ENCODER.encode({text_of(key): _encodable(fields[key]) for key in fields})
    if not line.isascii() or b"\x7f" in line:
        line = _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", line.decode()).encode()
    return line + b"\n"


def timestamp(time_s: float) -> str:
    """Return *time_s*, in seconds since the epoch, as an RFC 3339 time in UTC with milliseconds."""
    second = int(time_s)
    return f"{_clock_time(second)}.{int((time_s - second) * 1000):03d}Z"


@lru_cache(maxsize=4)  # the lines of one second share it
def _clock_time(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat()


def text_of(value: object) -> str:
    """Return *value* as a string that can be encoded in UTF-8."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 -- see json_line
        text = f"<{type(value).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


def _word(value: object) -> str:
    """Return *value* as one word, or quoted; without control characters."""
    if isinstance(value, tuple):
        value = list(value)  # readers of a log need no difference
    text = text_of(value)
    quoted = not isinstance(value, list | tuple | dict) and re.search(r"[\s\"'=]|^$", text)
    return text if text.isprintable() and not quoted else repr(text)


def with_traceback(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of *fields* with the traceback as text in place of ``exc_info``."""
    others = {name: value for name, value in fields.items() if name != "exc_info"}
    trace = traceback_of(fields.get("exc_info"))
    return {**others, "traceback": trace} if trace else others


def traceback_of(exc_info: object) -> str:
    """Return the traceback for the field ``exc_info`` of an event, or an empty string."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    error = exc_info if isinstance(exc_info, BaseException) else None
    if error is None and exc_info:
        error = sys.exception()
    return "" if error is None else "".join(traceback.format_exception(error)).rstrip()
