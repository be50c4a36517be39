"""Shows an answer on standard output while it arrives: thoughts dimmed, words wrapped."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Final

from ...logs.lines import escape_controls
from ..terminal import columns, has_colours, has_unicode, is_movable, painted, shortened, wrapped
from .word_wrap import WordWrap

#: Line ends, which are no control characters to be escaped here.
_LINE_ENDS: Final = re.compile(r"\r\n?|\n")

_ERASE_LINE: Final = "\r\x1b[K"


class AnswerScreen:
    """Writes one answer to standard output.

    Where that is no terminal, it gets the text of the answer as it is, and nothing else.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._colours = has_colours(sys.stdout)
        self._wrap = WordWrap(_width_of()) if is_movable(sys.stdout) else None
        self._notice_shown = False
        self._thinking = False
        self._begun = False
        self._at_line_start = True

    def notice(self, text: str) -> None:
        """Show why the request waits, until something else is shown."""
        if self._wrap is None:  # it could not be erased
            return
        line = shortened(escape_controls(text), columns() - 1)
        self._put(_ERASE_LINE + painted(line, "dim", on=self._colours))
        self._notice_shown = True

    def thought(self, text: str) -> None:
        """Show the next piece of what the model thinks; on a terminal only."""
        if not self._is_terminal:
            return
        if not self._thinking and not text.strip():
            return
        self._thinking = True
        self._text(text, "dim")

    def content(self, text: str) -> None:
        """Show the next piece of the answer."""
        if not text:
            return
        if self._thinking:
            self._thinking = False
            self._text("\n" if self._at_line_start else "\n\n")
            text = text.lstrip("\n")
        self._text(text)

    def end(self) -> None:
        """Erase a notice, and begin a new line, unless the answer ended with one."""
        self._erase_notice()
        if self._begun and not self._at_line_start:
            self._put("\n")
        self._at_line_start = True

    def aside(self, text: str) -> None:
        """Show a dimmed line about the answer, on a terminal only."""
        self.end()
        if self._is_terminal:
            for line in wrapped(escape_controls(text)):
                self._put(painted(line, "dim", on=self._colours) + "\n")

    def _text(self, text: str, *styles: str) -> None:
        self._erase_notice()
        if not text:
            return
        self._begun = True
        self._at_line_start = text.endswith("\n")
        if not self._is_terminal:
            self._put(text)
            return
        lines = _LINE_ENDS.split(text)
        safe = "\n".join(map(escape_controls, lines))
        if self._wrap is not None:
            safe = self._wrap.feed(safe, columns())
        self._put(painted(safe, *styles, on=self._colours and bool(styles)))

    def _erase_notice(self) -> None:
        if self._notice_shown:
            self._put(_ERASE_LINE)
            self._notice_shown = False

    @staticmethod
    def _put(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _width_of() -> Callable[[str], int]:
    """Return a function that returns the columns of a character."""
    if not has_unicode():
        return len
    from wcwidth import wcwidth  # noqa: PLC0415 -- on a terminal only

    return wcwidth
