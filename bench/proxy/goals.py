"""The goals and the verdicts on them. Pure."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum, auto
from typing import assert_never

import attrs

from bench.results import Results, Spread, difference, ratio, spread_of

#: The contestant that the goals are set for.
SUBJECT = "llama-router"

#: The contestant without a proxy.
DIRECT = "direct"


class Verdict(StrEnum):
    """The verdict on a goal."""

    MET = "met"
    MISSED = "MISSED"
    NOT_MEASURED = "not measured"


class Measure(StrEnum):
    """The computation of a goal's value from the rounds."""

    ITSELF = auto()
    """The figure."""
    TIMES = auto()
    """The figure divided by the peer's, round by round."""
    MORE = auto()
    """The figure minus the peer's, round by round."""
    ADDED_TIMES = auto()
    """The excess over the direct figure divided by the peer's excess, round by round."""


@attrs.frozen
class Goal:
    """A limit for the median of a value.

    Attributes:
        title: Description of the value.
        workload: Workload of the figure.
        figure: Name of the figure in the results.
        limit: Largest median that meets the goal.
        form: Format of value and limit.
        measure: Computation of the value.
        peer: Contestant compared with, if any.
    """

    title: str
    workload: str
    figure: str
    limit: float
    form: str = "{:.2f} x"
    measure: Measure = Measure.ITSELF
    peer: str = ""

    def contestants(self) -> list[str]:
        """Return the contestants that the value is computed from."""
        match self.measure:
            case Measure.ITSELF:
                return [SUBJECT]
            case Measure.TIMES | Measure.MORE:
                return [SUBJECT, self.peer]
            case Measure.ADDED_TIMES:
                return [SUBJECT, self.peer, DIRECT]
            case _:
                assert_never(self.measure)

    def value(self, results: Results) -> Spread | None:
        """Return the median value and its range; None if a part of it was not measured."""
        ours = results.series(self.workload, SUBJECT, self.figure)
        peers = results.series(self.workload, self.peer, self.figure)
        match self.measure:
            case Measure.ITSELF:
                return spread_of(ours)
            case Measure.TIMES:
                return spread_of(map(ratio, ours, peers))
            case Measure.MORE:
                return spread_of(map(difference, ours, peers))
            case Measure.ADDED_TIMES:
                direct = results.series(self.workload, DIRECT, self.figure)
                added, peer_added = map(difference, ours, direct), map(difference, peers, direct)
                return spread_of(map(ratio, added, peer_added))
            case _:
                assert_never(self.measure)


@attrs.frozen
class Outcome:
    """The verdict on a goal.

    Attributes:
        goal: The goal.
        verdict: Met, missed or not measured.
        value: The measured value; None without one.
        reason: Why it was not measured; empty if it was.
    """

    goal: Goal
    verdict: Verdict
    value: Spread | None
    reason: str = ""


def judge(results: Results, workloads: Collection[str]) -> list[Outcome]:
    """Return the goals of these workloads, each with its verdict.

    A goal is not measured, whatever its value, if the workload had errors with one of the
    contestants compared: a contestant that refuses requests spends little time on each.
    """
    return [_judged(goal, results) for goal in GOALS if goal.workload in workloads]


def _judged(goal: Goal, results: Results) -> Outcome:
    value = goal.value(results)
    reason = "; ".join(
        reason
        for name in goal.contestants()
        if (reason := results.unusable(goal.workload, name)) is not None
    )
    if value is None or reason:
        return Outcome(goal, Verdict.NOT_MEASURED, value, reason or "there is nothing to compare")
    verdict = Verdict.MISSED if value.median > goal.limit else Verdict.MET
    return Outcome(goal, verdict, value)


def _times(title: str, workload: str, figure: str, **limits: float) -> tuple[Goal, ...]:
    """Return one goal per peer: at most that many times its figure."""
    return tuple(
        Goal(
            f"{title}, against {(peer := name.replace('_', '-'))}",
            *(workload, figure, limit),
            measure=Measure.TIMES,
            peer=peer,
        )
        for name, limit in limits.items()
    )


def _latencies(which: str, limits_ms: dict[int, float]) -> tuple[Goal, ...]:
    """Return one goal per number of streams: the percentile *which* of their chunks' latency."""
    return tuple(
        Goal(
            f"chunk latency {which}, {count} streams",
            *(f"sse-{count}", f"chunk_{which}_ms", limit_ms, "{:.2f} ms"),
        )
        for count, limit_ms in limits_ms.items()
    )


GOALS: tuple[Goal, ...] = (
    *_times("CPU per small request, 16 at a time", "small-16", "cpu_us", nginx=3.9, llama_swap=0.4),
    *_times("CPU per small request, 64 at a time", "small-64", "cpu_us", llama_swap=0.28),
    Goal(
        "p50 of small requests one at a time, over direct",
        *("small-1", "latency_p50_ms", 0.14, "{:.3f} ms", Measure.MORE, DIRECT),
    ),
    Goal(
        "the same, against what nginx adds",
        *("small-1", "latency_p50_ms", 1.3, "{:.2f} x", Measure.ADDED_TIMES, "nginx"),
    ),
    Goal(
        "the same, against what llama-swap adds",
        *("small-1", "latency_p50_ms", 0.35, "{:.2f} x", Measure.ADDED_TIMES, "llama-swap"),
    ),
    *_times("CPU per chunk, 256 streams", "sse-256", "cpu_us", nginx=1.55, llama_swap=0.65),
    *_times("CPU per chunk, 32 streams", "sse-32", "cpu_us", nginx=2.1, llama_swap=0.8),
    *_latencies("p50", {256: 0.15, 512: 0.25}),
    *_latencies("p99", {32: 0.4, 256: 0.6}),
    Goal("512 streams: chunks that did not arrive", "sse-512", "lost_share", 0, "{:.2%}"),
    Goal("512 streams: how late the last one ends", "sse-512", "late_s", 0.25, "{:.3f} s"),
    Goal("512 streams: CPU, of one core", "sse-512", "core_share", 0.65, "{:.0%}"),
    *_times(
        *("first byte p50, 256 simultaneous starts", "starts-256", "ttft_p50_ms"),
        nginx=2.5,
        llama_swap=0.4,
    ),
    *_times("CPU of a 15 MB upload", "upload", "cpu_ms", nginx=4),
    Goal("RSS after 200 slow readers, over before", "slow-200", "grown_mib", 20, "{:.1f} MiB"),
    # Its guardian is another process of 9 MiB. Both share 6 MiB of the interpreter, which a sum
    # of RSS counts twice.
    Goal("RSS at rest, the router", "start", "root_rss_mib", 58, "{:.1f} MiB"),
    Goal("CPU from exec to listening", "start", "start_cpu_s", 0.25, "{:.2f} s"),
)
