"""Word wrap for text that arrives in pieces: a word that crosses the edge moves down. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_TAB: Final = 8


class WordWrap:
    """Wraps a stream of text at the width of a terminal that can move its cursor back.

    Each piece is printed as it comes: only when a word reaches the edge is its beginning erased,
    and printed again on the next line.

    Args:
        width_of: Returns the columns of one character.
    """

    def __init__(self, width_of: Callable[[str], int] = len) -> None:
        self._width_of = width_of
        self._column = 0
        self._word = ""  # the end of the line since the last blank
        self._word_columns = 0

    def feed(self, text: str, columns: int) -> str:
        """Return what is to be printed for *text* on a terminal that is *columns* wide."""
        out: list[str] = []
        for char in text:
            if char == "\n":
                self._start_line()
                out.append(char)
                continue
            width = _TAB - self._column % _TAB if char == "\t" else max(0, self._width_of(char))
            if char in " \t":
                self._word, self._word_columns = "", 0
                if self._column + width >= columns:
                    self._start_line()
                    out.append("\n")
                else:
                    self._column += width
                    out.append(char)
                continue
            if self._column + width >= columns:
                out.append(self._move_word_down())
            out.append(char)
            self._column += width
            self._word += char
            self._word_columns += width
        return "".join(out)

    def _move_word_down(self) -> str:
        """Begin a line with the present word, unless it has a line of its own already."""
        word, columns = self._word, self._word_columns
        is_whole_line = columns >= self._column
        self._start_line()
        if is_whole_line:
            return "\n"
        self._column, self._word, self._word_columns = columns, word, columns
        return (f"\x1b[{columns}D\x1b[K" if columns else "") + f"\n{word}"

    def _start_line(self) -> None:
        self._column, self._word, self._word_columns = 0, "", 0
