"""The terminal of a command: its colours, its characters and its width."""

from __future__ import annotations

import os
import shutil
import sys
import termios
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from .tables import Line

#: Width of text for people, in columns: longer lines are hard to read.
_READABLE: Final = 100

#: Width of a terminal that does not say how wide it is, in columns.
_USUAL: Final = 80

_STYLES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
}

#: The variables that name the character set, most important first.
_LOCALE: Final = ("LC_ALL", "LC_CTYPE", "LANG")


def has_colours(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether *stream* is a terminal that shows colours, and they are wanted.

    ``NO_COLOR`` turns them off; source: https://no-color.org.
    """
    plain = environ.get("NO_COLOR") or environ.get("TERM", "dumb") == "dumb"
    return not plain and stream.isatty()


def has_unicode(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether the locale has more than ASCII.

    Python writes UTF-8 in the locale C, too, where a terminal may show two odd characters for each
    ellipsis.
    """
    locale = next((value for name in _LOCALE if (value := environ.get(name))), "")
    return locale.lower().replace("-", "").endswith("utf8")


def is_movable(stream: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether *stream* is a terminal on which text can be replaced."""
    return environ.get("TERM", "dumb") != "dumb" and stream.isatty()


def columns() -> int:
    """Return the width of the terminal, at least 20 columns."""
    return max(20, shutil.get_terminal_size((_USUAL, 24)).columns)


@contextmanager
def quiet_input() -> Iterator[None]:
    """Show nothing of what is typed in the block; it is read after it. Ctrl-C works as always."""
    descriptor = sys.stdin.fileno()
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(descriptor)
    silent = before.copy()
    silent[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON)
    termios.tcsetattr(descriptor, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def painted(text: str, *styles: str, on: bool) -> str:
    """Return *text* in *styles* (a colour, ``bold``, ``dim``); as it is unless *on*."""
    if not on or not text:
        return text
    return f"\x1b[{';'.join(_STYLES[style] for style in styles)}m{text}\x1b[0m"


def wrapped(text: str, *, indent: str = "", width: int | None = None) -> list[str]:
    """Return *text* as lines that fit into the terminal, or into *width* columns."""
    room = min(width or columns(), _READABLE)
    return textwrap.wrap(
        text,
        room,
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
    ) or [indent.rstrip()]


def shortened(text: str, width: int, *, ellipsis: str | None = None) -> str:
    """Return the beginning of *text* that fits into *width* columns, with a mark if it was cut."""
    if len(text) <= width:
        return text
    mark = ellipsis if ellipsis is not None else ("…" if has_unicode() else "...")
    return text[: max(0, width - len(mark))].rstrip() + mark


def make_console(stream: TextIO) -> Console:
    """Return a console of rich on *stream*: ASCII where the locale has no more."""
    # Rich takes 0.1 s to import, and is needed on a terminal only.
    from rich.console import Console  # noqa: PLC0415 -- see above

    class LocaleConsole(Console):
        """Draws with the characters of the locale."""

        @property
        def encoding(self) -> str:
            return "utf-8" if has_unicode() else "ascii"

    return LocaleConsole(
        file=stream,
        no_color=not has_colours(stream),
        highlight=False,
        emoji=False,
        markup=False,
    )


def text_of(line: Line) -> Text:
    """Return *line* as rich draws it: with its styles, cut off at the edge of the terminal."""
    from rich.text import Text  # noqa: PLC0415 -- as above

    text = Text(no_wrap=True, overflow="crop", end="")
    for cell in line:
        text.append(cell.text, " ".join(cell.styles))
    text.append("\n")
    return text
