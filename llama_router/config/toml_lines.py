"""Line numbers of the keys of a TOML text, and problems sorted by line."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Mapping

from ..errors.config import Problem, Where


def in_file_order(lines: Mapping[Where, int], problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return *problems* in the order of the text with these *lines*, each with its line if any."""
    problems = tuple(problems)
    for problem in problems:
        # The line of a missing key is that of the innermost table around it.
        paths = (problem.path[:depth] for depth in range(len(problem.path), 0, -1))
        problem.line = next((lines[path] for path in paths if path in lines), None)
    return tuple(sorted(problems, key=lambda problem: problem.line or 0))


class LineFinder:
    """Finds the line of every key and array element in a text that tomllib has accepted.

    Attributes:
        lines: 1-based line by path. A table has the line of its header, or of
            its first mention where it has none.
    """

    _BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
    _KEY = re.compile(r"""[ \t]*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*""")
    # Strings of several lines may end in up to five quotes, two of them text.
    _SCALAR = re.compile(
        r'''"""(?:[^\\]|\\.)*?""""{0,2}|\'\'\'.*?\'\'\'\'{0,2}'''
        r"""|"(?:[^"\\]|\\.)*"|'[^']*'|[^,\]}#\n]+""",
        re.DOTALL,
    )

    def __init__(self, text: str) -> None:
        self.lines: dict[Where, int] = {}
        self._text = text
        self._at = 0
        self._line_ends = [end.start() for end in re.finditer("\n", text)]
        self._last_index: dict[Where, int] = {}  # of each [[array of tables]]
        table: Where = ()
        while self._next() != "":
            if self._accept("["):
                table = self._header()
            else:
                self._pair(table)

    def _next(self) -> str:
        """Skip blanks, line ends and comments; return the character after them."""
        self._take(self._BLANK)
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.match(self._text, self._at)
        assert found is not None, "tomllib has accepted this text"
        self._at = found.end()
        return found

    def _accept(self, character: str) -> bool:
        if self._text.startswith(character, self._at):
            self._at += 1
            return True
        return False

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while not keys or self._accept("."):
            key = self._take(self._KEY)[1]
            keys.append(tomllib.loads(f"key = {key}")["key"] if key[0] in "'\"" else key)
        return keys

    def _mention(self, path: Where, *, since: int, line: int) -> None:
        """Set the line of *path*, and of its parents after *since* that have none."""
        for depth in range(since + 1, len(path)):
            self.lines.setdefault(path[:depth], line)
        self.lines[path] = line

    def _line(self) -> int:
        return bisect_right(self._line_ends, self._at - 1) + 1

    def _header(self) -> Where:
        line, is_element = self._line(), self._accept("[")
        *parents, last = self._keys()
        self._at += 2 if is_element else 1
        path: Where = ()
        for key in parents:
            path = (*path, key)
            if path in self._last_index:
                path = (*path, self._last_index[path])
        path = (*path, last)
        if is_element:
            self._last_index[path] = self._last_index.get(path, -1) + 1
            path = (*path, self._last_index[path])
        self._mention(path, since=0, line=line)
        return path

    def _pair(self, table: Where) -> None:
        line = self._line()
        path = (*table, *self._keys())
        self._mention(path, since=len(table), line=line)
        self._accept("=")
        self._value(path)

    def _value(self, path: Where) -> None:
        self._next()
        if self._accept("["):
            index = 0
            while self._next() != "]":
                element = (*path, index)
                self._mention(element, since=len(path), line=self._line())
                self._value(element)
                self._next()
                index += self._accept(",")
            self._accept("]")
        elif self._accept("{"):
            while self._next() != "}":
                self._pair(path)
                self._next()
                self._accept(",")
            self._accept("}")
        else:
            start = self._at
            self._take(self._SCALAR)
            self._note_scalar(path, start)

    def _note_scalar(self, path: Where, start: int) -> None:
        """Take note of the value of *path*, which is neither an array nor a table."""


class TextFinder(LineFinder):
    """Finds where every string and every comment of such a text is, too.

    Attributes:
        strings: Path, start and end of each string, with its quotes.
        comments: Start and end of each comment.
    """

    _COMMENT = re.compile(r"#[^\n]*")

    def __init__(self, text: str) -> None:
        self.strings: list[tuple[Where, int, int]] = []
        self.comments: list[tuple[int, int]] = []
        super().__init__(text)

    def _next(self) -> str:
        start = self._at
        found = super()._next()
        if self._at - start > 1:
            blank = self._COMMENT.finditer(self._text, start, self._at)
            self.comments += [each.span() for each in blank if each.end() > start]
        return found

    def _note_scalar(self, path: Where, start: int) -> None:
        if self._text[start] in "'\"":
            self.strings.append((path, start, self._at))
