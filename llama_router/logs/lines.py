"""Lines of text without control characters: splitting raw output, escaping any text. Pure."""

from __future__ import annotations

import re
from typing import Final

import attrs

# 16 KiB: longer than any line meant for reading, short enough to keep a thousand of them.
MAX_LINE_BYTES: Final = 16_384

# Control sequences of terminals: CSI sequences (colours, cursor moves) and OSC sequences
# (titles, links). Source: ECMA-48, sections 5.4 and 8.3.89.
_TERMINAL_SEQUENCE: Final = re.compile(
    r"\x1b\[[0-?]*+[ -/]*+[@-~]|\x1b\][^\x07\x1b]*+(?:\x07|\x1b\\)"
)

# C0 but for tab, DEL, C1, line and paragraph separators, bidirectional overrides.
# `str.isprintable` would also refuse joiners inside emoji and no-break spaces.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_ESCAPES: Final = {
    char: char.encode("unicode_escape").decode("ascii")
    for char in map(chr, (*range(0xA0), *range(0x2028, 0x206A)))
}


@attrs.frozen
class Line:
    """One line of output.

    Attributes:
        text: The text without its line end; contains no control characters except tabs.
        progress: True for a progress update: it ended with a lone carriage return, and the
            next line replaces it.
    """

    text: str
    progress: bool = False


class LineSplitter:
    r"""Splits a stream of bytes, in chunks of any size, into lines.

    ``\n`` and ``\r\n`` end a line. A lone ``\r`` ends a progress update; only the next byte
    distinguishes it from ``\r\n``, so an update is returned when that byte has arrived.
    Bytes that are not UTF-8 become ``\xNN``. At most *max_line_bytes* of an unfinished
    line are kept: a longer line is returned in pieces.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._partial = bytearray()
        self._return_seen = False  # a carriage return after _partial; the next byte decides

    def feed(self, data: bytes) -> list[Line]:
        """Return the lines that *data* completes, in order. Takes time linear in its size."""
        lines: list[Line] = []
        *ended, rest = data.split(b"\n")
        for content in ended:
            self._append(content, lines)
            self._return_seen = False
            self._end(lines, progress=False)
        self._append(rest, lines)
        return lines

    def flush(self) -> list[Line]:
        """Return the unfinished line, if any; to be called at the end of the stream."""
        lines: list[Line] = []
        if self._partial:
            self._end(lines, progress=self._return_seen)
        self._return_seen = False
        return lines

    def take_partial(self) -> bytes:
        """Remove and return the bytes of the unfinished line."""
        partial = bytes(self._partial) + (b"\r" if self._return_seen else b"")
        self._partial.clear()
        self._return_seen = False
        return partial

    def _append(self, content: bytes, lines: list[Line]) -> None:
        """Add *content*, which contains no newline, to the unfinished line."""
        for index, segment in enumerate(content.split(b"\r")):
            if index > 0:
                self._return_seen = True
            if not segment:
                continue
            if self._return_seen:
                self._return_seen = False
                self._end(lines, progress=True)
            self._partial += segment
            while len(self._partial) > self._max_line_bytes:
                self._cut(lines)

    def _cut(self, lines: list[Line]) -> None:
        """Move one full piece of an over-long line to *lines*."""
        size_bytes = self._max_line_bytes
        # Do not split a character: step back over its continuation bytes (10xxxxxx).
        for candidate in range(size_bytes, max(size_bytes - 4, 0), -1):
            if self._partial[candidate] & 0xC0 != 0x80:
                size_bytes = candidate
                break
        lines.append(Line(_decode(self._partial[:size_bytes])))
        del self._partial[:size_bytes]

    def _end(self, lines: list[Line], *, progress: bool) -> None:
        text = _decode(self._partial)
        self._partial.clear()
        # "\r 10%\r 20%" begins with an empty update.
        if text or not progress:
            lines.append(Line(text, progress))


def escape_controls(text: str) -> str:
    r"""Return *text* with control characters, except tabs, as escapes such as ``\x1b``."""
    return _CONTROL.sub(lambda match: _ESCAPES[match[0]], text)


def _decode(raw: bytes | bytearray) -> str:
    """Return *raw* as text, without terminal sequences, with other control characters escaped."""
    text = raw.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else escape_controls(_TERMINAL_SEQUENCE.sub("", text))
