"""Renders events for people: short lines that fit a terminal, without what they do not need."""

from __future__ import annotations

import re
import shlex
import textwrap
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from .lines import escape_controls
from .rendering import text_of, traceback_of

# SGR parameters of terminals. Source: ECMA-48, section 8.3.117.
_LEVEL_COLOURS: Final = {
    "debug": "2",
    "info": "32",
    "warning": "33",
    "error": "31",
    "critical": "31;1",
}

#: The event of a load under way, which comes once a second: on a terminal, the next line takes
#: its place.
_PROGRESS: Final = "backend.loading"

#: Fields of a command line.
_COMMANDS: Final = frozenset(("argv", "command"))

#: Longest text that stands in the first line, in characters; a longer one has lines of its own.
_INLINE: Final = 48

#: Most lines of one text on a terminal; the log of a model and the status have all of it.
_MOST_LINES: Final = 4

#: Indentation of the lines of a text: below the event, or less on a narrow terminal.
_INDENT: Final = 18
_NARROW: Final = 60

_ERASE_LINE: Final = "\r\x1b[K"

#: Texts that need quotes to be one word.
_TO_QUOTE: Final = re.compile(r"[\s\"'=]|^$")


class ConsoleRenderer:
    """Renders an event: local time, level, event, ``key=value``, and long texts below.

    Fields without a value are left out.

    Args:
        colours: Whether to use colours.
        width: Returns the columns of the terminal; None if there is none, and texts of any length
            stand in one line.
        replaces: Whether the terminal can replace a line of progress by the next line.
    """

    def __init__(
        self,
        *,
        colours: bool,
        width: Callable[[], int] | None = None,
        replaces: bool = False,
    ) -> None:
        self._colours = colours
        self._width = width
        self._replaces = replaces
        self._is_replaceable = False  # the last line is one of progress

    def __call__(self, level: str, event: str, fields: dict[str, Any]) -> bytes:
        """Return the line, and what stands below it: long texts, and a traceback."""
        trace = traceback_of(fields.pop("exc_info", None))
        return self.line(time.time(), level, event, fields, trace)

    def line(
        self, at: float, level: str, event: str, fields: dict[str, Any], trace: str = ""
    ) -> bytes:
        """Return the line of an event of the time *at*, in seconds since 1970."""
        width = None if self._width is None else max(20, self._width())
        erased = _ERASE_LINE if self._is_replaceable else ""
        self._is_replaceable = self._replaces and event == _PROGRESS
        if self._is_replaceable and width is not None:
            line = _progress_line(fields)[: width - 1]
            return f"{erased}{self._paint('2', line)}".encode("utf-8", "backslashreplace")
        words = [
            datetime.fromtimestamp(at, UTC).astimezone().strftime("%H:%M:%S"),
            self._paint(_LEVEL_COLOURS[level], f"{level:<7}"),
            self._paint("1", _clean(text_of(event))),
        ]
        below: list[str] = []
        for key, value in fields.items():
            text = _readable(key, value)
            if text is None:
                continue
            name = self._paint("36", _clean(text_of(key)))
            if width is not None and len(text) > _INLINE:
                below += self._own_lines(name, len(key), text, width)
            else:
                words.append(f"{name}={_quoted(text)}")
        below += ["    " + escape_controls(line) for line in trace.split("\n") if line]
        lines = "\n".join([" ".join(words), *below]) + "\n"
        return (erased + lines).encode("utf-8", "backslashreplace")

    def _own_lines(self, name: str, name_columns: int, text: str, width: int) -> list[str]:
        indent = " " * (_INDENT if width >= _NARROW else 4)
        lines = textwrap.wrap(
            text,
            width,
            initial_indent=indent + " " * (name_columns + 1),
            subsequent_indent=indent + "  ",
            max_lines=_MOST_LINES,
            placeholder=" ...",
            break_on_hyphens=False,
        )
        first, *rest = lines or [""]
        return [f"{indent}{name} {first.lstrip()}", *rest]

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colours else text


def _progress_line(fields: dict[str, Any]) -> str:
    """Return how far a load is, in one line."""
    words = [f"loading {_clean(text_of(fields.get('model')))}"]
    progress, left_s = fields.get("progress"), fields.get("left_s")
    if isinstance(progress, int | float):
        words.append(f"{progress:.0%}")
    if isinstance(left_s, int | float):
        words.append(f"{left_s:.0f} s left")
    words.append(f"after {_number(fields.get('waited_s', 0))} s")
    return ", ".join(words)


def _readable(key: str, value: object) -> str | None:
    """Return *value* as text without control characters; None if it says nothing."""
    if (
        value is None
        or value is False
        or (isinstance(value, str | list | tuple | dict) and not value)
    ):
        return None
    if value is True:
        return "yes"
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, list | tuple):
        words = [text_of(each) for each in value]
        return _clean(shlex.join(words) if key in _COMMANDS else ", ".join(words))
    if isinstance(value, dict):
        return _clean(", ".join(f"{text_of(k)} {text_of(v)}" for k, v in value.items()))
    return _clean(text_of(value))


def _clean(text: str) -> str:
    """Return *text* without control characters, tabs included."""
    return escape_controls(text).replace("\t", "\\t")


def _number(value: object) -> str:
    """Return a number with the digits that matter."""
    if not isinstance(value, float):
        return text_of(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _quoted(text: str) -> str:
    """Return *text* as one word: in quotes if it has blanks, or would look like two fields."""
    if not _TO_QUOTE.search(text):
        return text
    return f"'{text}'" if '"' in text and "'" not in text else '"' + text.replace('"', '\\"') + '"'
