"""The text format of Prometheus: families, labels, numbers. Pure.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import attrs

#: The media type of a page.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Kind = Literal["counter", "gauge", "histogram"]

_ESCAPED: Final = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


@attrs.frozen
class Family:
    """A family of metrics.

    Attributes:
        name: Its name, with its unit; that of a counter ends with ``_total``.
        kind: Its type.
        help: One sentence.
    """

    name: str
    kind: Kind
    help: str

    @property
    def head(self) -> str:
        """Return the lines before its samples."""
        return f"# HELP {self.name} {self.help}\n# TYPE {self.name} {self.kind}\n"


def labels(**values: str) -> str:
    """Return labels as they stand between the braces of a sample, without the braces."""
    return ",".join(f'{name}="{escaped(value)}"' for name, value in values.items())


def escaped(value: str) -> str:
    """Return *value* as it stands between the quotes of a label; half a character is replaced."""
    if value.isascii():
        return value.translate(_ESCAPED)
    return value.encode("utf-8", "replace").decode().translate(_ESCAPED)


def number(value: float) -> str:
    """Return *value* as the value of a sample."""
    if isinstance(value, int) or not value.is_integer() or abs(value) >= 1e15:
        return repr(value)
    return str(int(value))


def samples(family: Family, values: Iterable[tuple[str, float]]) -> str:
    """Return *family*, a counter or a gauge, with a sample for each pair of labels and value."""
    name = family.name
    lines = [f"{name}{{{tags}}} {number(value)}\n" for tags, value in values]
    return family.head + "".join(lines)


class Histogram:
    """A histogram of seconds.

    Attributes:
        count: Number of observations.
        sum: Their sum.
    """

    __slots__ = ("_bounds", "_counts", "count", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count *value*."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.count += 1
        self.sum += value

    def lines(self, name: str, tags: str) -> str:
        """Return its samples.

        Args:
            name: The name of its family.
            tags: Its labels, without braces; perhaps none.
        """
        braced, lead = (f"{{{tags}}}", f"{tags},") if tags else ("", "")
        lines, below = [], 0
        for bound, count in zip(self._bounds, self._counts, strict=False):
            below += count
            lines.append(f'{name}_bucket{{{lead}le="{bound:g}"}} {below}\n')
        lines.append(f'{name}_bucket{{{lead}le="+Inf"}} {self.count}\n')
        lines.append(
            f"{name}_sum{braced} {round(self.sum, 6)}\n{name}_count{braced} {self.count}\n"
        )
        return "".join(lines)
