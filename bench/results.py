"""Statistics over rounds: medians, ranges, and ratios within a round. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import attrs

Figures = dict[str, float]


@attrs.frozen
class Spread:
    """The distribution of a figure over several rounds.

    Attributes:
        median: The median.
        least: The smallest value.
        most: The largest value.
    """

    median: float
    least: float
    most: float


@attrs.define
class Results:
    """All figures, by workload, contestant and round.

    A round in which a contestant failed is kept without figures, so that rounds stay paired.
    """

    rounds: dict[str, dict[str, list[Figures]]] = attrs.field(factory=dict)

    def add(self, workload: str, contestant: str, figures: Figures) -> None:
        """Add the figures of one contestant in one round."""
        self.rounds.setdefault(workload, {}).setdefault(contestant, []).append(figures)

    def workloads(self) -> list[str]:
        """Return the measured workloads, in the order of measurement."""
        return list(self.rounds)

    def series(self, workload: str, contestant: str, figure: str) -> list[float | None]:
        """Return one figure of every round, with None where it is missing."""
        rounds = self.rounds.get(workload, {}).get(contestant, [])
        return [figures.get(figure) for figures in rounds]

    def unusable(self, workload: str, contestant: str) -> str | None:
        """Return why the figures of a contestant prove nothing, or None if they do.

        That is so if it was not measured, if a response was wrong, or if a round failed.
        """
        rounds = self.rounds.get(workload, {}).get(contestant, [])
        if not rounds:
            return f"{contestant} was not measured"
        if errors := sum(figures.get("errors", 0) for figures in rounds):
            return f"{contestant} had {errors:.0f} error{'s' * (errors != 1)}"
        if failed := sum(not figures for figures in rounds):
            return f"{contestant} failed in {failed} of {len(rounds)} rounds"
        return None

    def spread(self, workload: str, contestant: str, figure: str) -> Spread | None:
        """Return the median and the range of one figure, or None if it was never measured."""
        return spread_of(self.series(workload, contestant, figure))

    def paired(self, workload: str, figure: str, one: str, other: str) -> Spread | None:
        """Return the spread of *one* divided by *other*, each ratio within one round."""
        ones = self.series(workload, one, figure)
        return spread_of(map(ratio, ones, self.series(workload, other, figure)))


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """Return the median and the range of the values that are not None."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return Spread(statistics.median(there), min(there), max(there))


def ratio(first: float | None, second: float | None) -> float | None:
    """Return *first* divided by *second*; None if one is missing, or *second* is 0."""
    return None if first is None or second is None or second <= 0 else first / second


def difference(first: float | None, second: float | None) -> float | None:
    """Return *first* minus *second*; None if one is missing."""
    return None if first is None or second is None else first - second
