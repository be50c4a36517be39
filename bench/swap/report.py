"""The table of the swap benchmark and the verdict on its goal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from bench.results import Results, Spread, difference, spread_of

SUBJECT = "llama-router"
HAND = "by-hand"

#: Largest median of the paired differences between a swap by llama-router and one by hand,
#: in seconds.
GOAL_S = 0.015

#: Parts of a swap by contestant: name of the figure and its title.
_PARTS = {
    HAND: {
        "stop_s": "SIGTERM to exit",
        "load_s": "exec to /health 200",
        "ask_s": "request to answer",
    },
    SUBJECT: {
        "log_queue_s": "queue_s (its log)",
        "log_load_s": "load_s",
        "log_ttft_s": "ttft_s",
        "log_duration_s": "duration_s",
    },
}


@attrs.frozen
class Outcome:
    """The verdict on the goal with one server and one size of models.

    Attributes:
        workload: The server with the size.
        goal_s: Limit of the excess over a swap by hand.
        more_s: The excess; None without one.
        met: None if the goal was not measured.
        reason: Why it was not measured; empty if it was.
    """

    workload: str
    goal_s: float
    more_s: Spread | None
    met: bool | None
    reason: str = ""


def over_hand_s(results: Results, workload: str, name: str) -> list[float | None]:
    """Return how much longer than by hand each swap of *name* took, in seconds."""
    theirs = results.series(workload, name, "swap_s")
    return list(map(difference, theirs, results.series(workload, HAND, "swap_s")))


def judge(results: Results) -> list[Outcome]:
    """Return whether the goal is met in each workload."""
    return [_judged(results, workload) for workload in results.workloads()]


def _judged(results: Results, workload: str) -> Outcome:
    more_s = spread_of(over_hand_s(results, workload, SUBJECT))
    reason = "; ".join(
        reason
        for name in (SUBJECT, HAND)
        if (reason := results.unusable(workload, name)) is not None
    )
    if more_s is None or reason:
        return Outcome(workload, GOAL_S, more_s, None, reason)
    return Outcome(workload, GOAL_S, more_s, more_s.median <= GOAL_S)


def lines(results: Results, absent: Mapping[str, str], problems: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the report."""
    for workload in results.workloads():
        yield ""
        yield f"{f'{workload}; milliseconds':<36}" + "".join(
            f"{title:>10}" for title in ("median", "least", "10 %", "most")
        )
        for name in results.rounds[workload]:
            yield _row(f"swap, {name}", results.series(workload, name, "swap_s"))
            for figure, title in _PARTS.get(name, {}).items():
                yield _row(f"  {title}", results.series(workload, name, figure))
        for name in results.rounds[workload]:
            again = sum(filter(None, results.series(workload, name, "asked_again")))
            if again:
                yield f"{name} said {again:.0f} times that the model was still loading"
            if name != HAND and HAND in results.rounds[workload]:
                yield _row(f"{name} minus {HAND}", over_hand_s(results, workload, name))
    yield ""
    for outcome in judge(results):
        verdict = {True: "met", False: "MISSED", None: "not measured"}[outcome.met]
        more = "-" if outcome.more_s is None else f"{outcome.more_s.median * 1000:.1f} ms"
        yield (
            f"goal: {outcome.workload}: at most {GOAL_S * 1000:g} ms more than by hand:"
            f" {more}: {verdict}{outcome.reason and f': {outcome.reason}'}"
        )
    yield from (f"not run: {what}: {why}" for what, why in absent.items())
    yield from (f"problem: {problem}" for problem in problems)


def _row(title: str, values_s: Sequence[float | None]) -> str:
    """Return one line; it has the 10th percentile, as a busy machine changes it less."""
    there = sorted(value for value in values_s if value is not None)
    spread = spread_of(there)
    if spread is None:
        return f"{title:<36}{'-':>10}"
    cells = (spread.median, spread.least, there[len(there) // 10], spread.most)
    return f"{title:<36}" + "".join(f"{value * 1000:10.1f}" for value in cells)
