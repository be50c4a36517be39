"""Texts and their vectors, as ``embed`` reads and shows them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import attrs

from ..logs.lines import escape_controls
from .tables import Cell, Column

#: Most texts in one request: few enough for the first vectors to come soon.
BATCH: Final = 32

#: Largest text, in bytes.
MOST_BYTES: Final = 16 * 2**20

#: Longest beginning of a text in a table, in characters, and numbers of its vector.
_TEXT_CHARACTERS: Final = 60
_FIRST_NUMBERS: Final = 3

COLUMNS: Final = (
    Column(heading="TEXT", is_flexible=True),
    Column(heading="NUMBERS", rank=2, right=True),
    Column(heading="LENGTH", rank=3, right=True),
    Column(heading="LIKE THE FIRST", rank=1, right=True, is_optional=True),
    Column(heading="BEGINS WITH", rank=4),
)

#: What to do about refusals of a backend, by words in them.
_CURES: Final = (
    (
        "does not support embeddings",
        "ask a model for embeddings, or add '--embeddings', '--pooling', 'mean' to its args",
    ),
    ("Pooling type 'none'", "add '--pooling', 'mean' (or 'cls', 'last') to the model's args"),
    (
        "too large to process",
        "give a shorter text, or set '--ubatch-size' and '--batch-size' to as many in its args",
    ),
)


@attrs.frozen
class Embedded:
    """A text and its vector; None for a text without a word."""

    text: str
    vector: list[float] | None


class TextTooLongError(ValueError):
    """A line has more than `MOST_BYTES`."""


def batches_of(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield the lines of a file that comes in *pieces*, at most `BATCH` at once.

    Lines that are there are not held back for those that are still to come.

    Raises:
        TextTooLongError: if a line is too long.
    """
    begun: list[bytes] = []
    for piece in pieces:
        *ended, rest = piece.split(b"\n")
        if ended:
            ended[0] = b"".join((*begun, ended[0]))
            begun.clear()
            yield from in_batches([line.removesuffix(b"\r") for line in ended])
        begun.append(rest)
        if sum(map(len, begun)) > MOST_BYTES:
            raise TextTooLongError
    if last := b"".join(begun):
        yield [last.removesuffix(b"\r")]


def in_batches(texts: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield *texts*, at most `BATCH` at once."""
    for start in range(0, len(texts), BATCH):
        yield list(texts[start : start + BATCH])


def vectors_in(answer: object, count: int) -> list[list[float]]:
    """Return the vectors in an answer of ``/v1/embeddings``, in the order of their texts.

    Raises:
        ValueError: if it has not *count* of them.
    """
    try:
        entries = sorted(answer["data"], key=lambda entry: entry["index"])  # type: ignore[index]  # JSON
        vectors = [[*map(_number, entry["embedding"])] for entry in entries]
    except (TypeError, KeyError) as exc:
        raise ValueError("it has no vectors") from exc
    if len(vectors) != count:
        raise ValueError(f"it has {len(vectors)} vectors for {count} texts")
    return vectors


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError("a vector consists of numbers")
    return value


def cure_of(message: str) -> str:
    """Return what to do about a backend's refusal; empty if that is not known."""
    return next((cure for words, cure in _CURES if words in message), "")


@attrs.define(eq=False)
class Summary:
    """A table about vectors: it keeps the first vector, and of the others what it shows."""

    rows: list[list[Cell]] = attrs.field(factory=list)
    _first: list[float] | None = None

    def add(self, each: Embedded) -> None:
        """Add a row."""
        text = Cell(escape_controls(" ".join(each.text[: 2 * _TEXT_CHARACTERS].split())))
        vector = each.vector
        if vector is None:
            self.rows.append([text, *(Cell("-") for _ in COLUMNS[1:])])
            return
        likeness = "" if self._first is None else f"{cosine(self._first, vector):.3f}"
        self._first = vector if self._first is None else self._first
        begins = " ".join(f"{number:.4f}" for number in vector[:_FIRST_NUMBERS])
        self.rows.append(
            [
                attrs.evolve(text, text=text.text[:_TEXT_CHARACTERS]),
                Cell(str(len(vector))),
                Cell(f"{math.hypot(*vector):.3f}"),
                Cell(likeness),
                Cell(begins, ("dim",)),
            ]
        )


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors; 0 if one has no direction."""
    if len(one) != len(other):
        return 0.0
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(map(float.__mul__, map(float, one), map(float, other))) / lengths if lengths else 0.0
