"""Tables that fit into a terminal: what matters least is left out where it is narrow. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import attrs

#: Columns between two cells.
_GAP: Final = "  "

#: Least width to which a flexible column is shortened, in columns.
_LEAST: Final = 8


@attrs.frozen
class Cell:
    """A text, and how it is painted: a colour, ``bold``, ``dim``."""

    text: str
    styles: tuple[str, ...] = ()


Line: TypeAlias = list[Cell]


@attrs.frozen(kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Its heading.
        rank: In a narrow terminal, columns with a higher rank are left out first; those with
            rank 0 never.
        right: Whether its cells end at the same place.
        is_flexible: Whether its cells may be shortened.
        is_optional: Whether it is left out if all its cells are empty or ``-``.
    """

    heading: str
    rank: int = 0
    right: bool = False
    is_flexible: bool = False
    is_optional: bool = False


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    width: int | None = None,
    mark: str = "...",
) -> list[Line]:
    """Return the lines of a table, headings first.

    Args:
        columns: The columns.
        rows: As many cells in each as there are columns.
        width: Columns of the terminal; None for as many as it takes.
        mark: Stands for what was cut off.
    """
    chosen = [
        number
        for number, column in enumerate(columns)
        if not column.is_optional or any(row[number].text not in ("", "-") for row in rows)
    ]
    widths = {
        number: max(
            text_width(columns[number].heading), *(text_width(row[number].text) for row in rows), 0
        )
        for number in chosen
    }
    if width is not None:
        _make_room(columns, chosen, widths, width)
    head = [Cell(columns[number].heading, ("bold",)) for number in chosen]
    lines = [_line(columns, chosen, widths, head, mark)]
    lines += [
        _line(columns, chosen, widths, [row[number] for number in chosen], mark) for row in rows
    ]
    return lines


def _make_room(
    columns: Sequence[Column], chosen: list[int], widths: dict[int, int], width: int
) -> None:
    """Shorten flexible columns a little, leave out columns, then shorten what is needed."""

    def excess() -> int:
        return sum(widths[n] for n in chosen) + len(_GAP) * (len(chosen) - 1) - width

    def shorten(least: int) -> None:
        for number in reversed(chosen):
            if columns[number].is_flexible and (over := excess()) > 0:
                widths[number] = max(min(widths[number], least), widths[number] - over)

    shorten(24)
    while excess() > 0:
        lowest = max(chosen, key=lambda number: columns[number].rank)
        if columns[lowest].rank == 0:
            break
        chosen.remove(lowest)
    shorten(_LEAST)


def _line(
    columns: Sequence[Column],
    chosen: Sequence[int],
    widths: dict[int, int],
    cells: Sequence[Cell],
    mark: str,
) -> Line:
    line: Line = []
    for place, (number, cell) in enumerate(zip(chosen, cells, strict=True)):
        text = cut(cell.text, widths[number], mark)
        blank = " " * (widths[number] - text_width(text))
        is_last = place == len(chosen) - 1
        if columns[number].right:
            line += [Cell(blank), Cell(text, cell.styles)]
        else:
            line += [Cell(text, cell.styles), Cell("" if is_last else blank)]
        if not is_last:
            line.append(Cell(_GAP))
    return [cell for cell in line if cell.text]


def text_width(text: str) -> int:
    """Return the columns that *text* takes on a terminal."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth  # noqa: PLC0415 -- for names in other scripts only

    return max(0, wcswidth(text))


def cut(text: str, width: int, mark: str = "...") -> str:
    """Return the beginning of *text* that fits into *width* columns, with *mark* if it was cut."""
    if text_width(text) <= width:
        return text
    room = width - text_width(mark)
    while text and text_width(text) > room:
        text = text[:-1]
    return text + mark if room > 0 else text


def plain(line: Line) -> str:
    """Return *line* as text."""
    return "".join(cell.text for cell in line).rstrip()
