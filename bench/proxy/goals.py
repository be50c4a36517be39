"""The goals: what each demands of the figures, and whether they meet it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import attrs

from .results import Results, Spread, difference, ratio, spread_of

SUBJECT = "llama-router"


class Verdict(StrEnum):
    """What came of a goal."""

    MET = "met"
    MISSED = "MISSED"
    NOT_MEASURED = "not measured"


@attrs.frozen
class Goal:
    """One demand.

    Attributes:
        title: What is demanded.
        limit: The most that the median may be.
        value: Takes it from the results; None if a part of it was not measured.
        form: How the value is written; ``{}`` is the number.
    """

    title: str
    limit: float
    value: Callable[[Results], Spread | None]
    form: str = "{:.2f}"


@attrs.frozen
class Outcome:
    """A goal and what came of it."""

    goal: Goal
    verdict: Verdict
    value: Spread | None


def judge(results: Results) -> list[Outcome]:
    """Return every goal with its verdict."""
    outcomes = []
    for goal in GOALS:
        value = goal.value(results)
        if value is None:
            verdict = Verdict.NOT_MEASURED
        elif value.median <= goal.limit:
            verdict = Verdict.MET
        else:
            verdict = Verdict.MISSED
        outcomes.append(Outcome(goal, verdict, value))
    return outcomes


def _itself(workload: str, figure: str) -> Callable[[Results], Spread | None]:
    return lambda results: results.spread(workload, SUBJECT, figure)


def _times(workload: str, figure: str, peer: str) -> Callable[[Results], Spread | None]:
    return lambda results: results.paired(workload, figure, SUBJECT, peer, ratio)


def _more(workload: str, figure: str, peer: str) -> Callable[[Results], Spread | None]:
    return lambda results: results.paired(workload, figure, SUBJECT, peer, difference)


def _added_times(workload: str, figure: str, peer: str) -> Callable[[Results], Spread | None]:
    """Compare what the two add to going there directly."""

    def value(results: Results) -> Spread | None:
        rounds = zip(
            *(results.series(workload, name, figure) for name in (SUBJECT, peer, "direct")),
            strict=False,
        )
        return spread_of(
            ratio(ours - direct, theirs - direct)
            for ours, theirs, direct in rounds
            if ours is not None and theirs is not None and direct is not None
        )

    return value


def _missing_chunks(workload: str) -> Callable[[Results], Spread | None]:
    def value(results: Results) -> Spread | None:
        return spread_of(
            None if share is None else 1 - share
            for share in results.series(workload, SUBJECT, "delivered_share")
        )

    return value


_RATIO = "{:.2f} x"

GOALS = (
    Goal(
        "CPU per small request, 16 at a time: at most 5 x nginx",
        5,
        _times("small-16", "cpu_us", "nginx"),
        _RATIO,
    ),
    Goal(
        "CPU per small request, 16 at a time: at most 0.3 x llama-swap",
        0.3,
        _times("small-16", "cpu_us", "llama-swap"),
        _RATIO,
    ),
    Goal(
        "added p50, one at a time: at most 0.2 ms over direct",
        0.2,
        _more("small-1", "latency_p50_ms", "direct"),
        "{:.3f} ms",
    ),
    Goal(
        "added p50, one at a time: at most 0.35 x llama-swap",
        0.35,
        _added_times("small-1", "latency_p50_ms", "llama-swap"),
        _RATIO,
    ),
    Goal(
        "CPU per chunk, 256 streams: at most 1.7 x nginx",
        1.7,
        _times("sse-256", "cpu_us", "nginx"),
        _RATIO,
    ),
    Goal(
        "CPU per chunk, 256 streams: at most 0.8 x llama-swap",
        0.8,
        _times("sse-256", "cpu_us", "llama-swap"),
        _RATIO,
    ),
    Goal(
        "CPU per chunk, 32 streams: at most 2.3 x nginx",
        2.3,
        _times("sse-32", "cpu_us", "nginx"),
        _RATIO,
    ),
    Goal(
        "CPU per chunk, 32 streams: at most 1.0 x llama-swap",
        1.0,
        _times("sse-32", "cpu_us", "llama-swap"),
        _RATIO,
    ),
    Goal("512 streams x 50/s: every chunk arrives", 0, _missing_chunks("sse-512"), "{:.2%} lost"),
    Goal(
        "512 streams x 50/s: and in time, within 0.25 s",
        0.25,
        _itself("sse-512", "late_s"),
        "{:.3f} s",
    ),
    Goal(
        "512 streams x 50/s: at most 70 % of one core",
        0.7,
        _itself("sse-512", "core_share"),
        "{:.0%}",
    ),
    Goal(
        "TTFT p50 of 256 simultaneous starts: at most 2.5 x nginx",
        2.5,
        _times("starts-256", "ttft_p50_ms", "nginx"),
        _RATIO,
    ),
    Goal(
        "TTFT p50 of 256 simultaneous starts: at most 0.6 x llama-swap",
        0.6,
        _times("starts-256", "ttft_p50_ms", "llama-swap"),
        _RATIO,
    ),
    Goal(
        "CPU of a 15 MB upload: at most 4 x nginx", 4, _times("upload", "cpu_ms", "nginx"), _RATIO
    ),
    Goal(
        "RSS after 200 slow readers: at most 20 MiB more than before",
        20,
        _itself("slow-200", "grown_mib"),
        "{:.1f} MiB",
    ),
    Goal("RSS at rest: at most 60 MiB", 60, _itself("start", "rss_mib"), "{:.1f} MiB"),
    Goal(
        "CPU from exec to listening: at most 0.6 s",
        0.6,
        _itself("start", "start_cpu_s"),
        "{:.2f} s",
    ),
)
