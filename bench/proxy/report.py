"""The tables: every figure of every contestant, and the goals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from .goals import Outcome
from .results import Results, Spread, ratio


@attrs.frozen
class Row:
    """A figure as it is printed.

    Attributes:
        figure: Its name in the results.
        title: Its name in the table.
        form: How a number is written.
        per_peer: Whether "how many times the peer" says something.
    """

    figure: str
    title: str
    form: str = "{:.2f}"
    per_peer: bool = False


#: In the order of the table; a workload has those that it measured.
ROWS = (
    Row("start_cpu_s", "CPU from exec to listening, s"),
    Row("start_s", "time from exec to listening, s"),
    Row("rss_mib", "RSS at rest, MiB", "{:.1f}"),
    Row("cpu_us", "CPU each, µs", "{:.1f}", per_peer=True),
    Row("cpu_ms", "CPU each, ms", "{:.1f}", per_peer=True),
    Row("idle_cpu_share", "CPU at rest, of one core", "{:.1%}"),
    Row("per_s", "per second", "{:.0f}"),
    Row("latency_p50_ms", "latency p50, ms", "{:.3f}"),
    Row("latency_p99_ms", "latency p99, ms", "{:.3f}"),
    Row("ttft_p50_ms", "first byte p50, ms", per_peer=True),
    Row("ttft_p99_ms", "first byte p99, ms"),
    Row("chunk_p50_ms", "chunk latency p50, ms", "{:.3f}"),
    Row("chunk_p99_ms", "chunk latency p99, ms", "{:.3f}"),
    Row("core_share", "of one core", "{:.0%}"),
    Row("delivered_share", "chunks that arrived", "{:.2%}"),
    Row("late_s", "late at the end, s", "{:.3f}"),
    Row("before_mib", "RSS before, MiB", "{:.1f}"),
    Row("during_mib", "RSS during, MiB", "{:.1f}"),
    Row("held_mib", "RSS meanwhile, MiB", "{:.1f}"),
    Row("after_mib", "RSS after, MiB", "{:.1f}"),
    Row("kib_each", "RSS each, KiB", "{:.1f}"),
    Row("read_share", "of the reading speed", "{:.0%}"),
    Row("closed", "closed by the other side", "{:.0f}"),
    Row("health_latency_p50_ms", "/health p50, ms"),
    Row("health_latency_p99_ms", "/health p99, ms"),
    Row("health_latency_max_ms", "/health longest, ms"),
    Row("models_latency_p50_ms", "/v1/models p50, ms"),
    Row("models_latency_p99_ms", "/v1/models p99, ms"),
    Row("models_latency_max_ms", "/v1/models longest, ms"),
    Row("errors", "errors", "{:.0f}"),
)

_PEER = "nginx"
_WIDTH = 25


def figures(results: Results, titles: dict[str, str], contestants: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the table: median, and the range over the rounds."""
    for workload in results.workloads():
        yield ""
        yield f"{titles[workload]:<44}" + "".join(f"{name:>{_WIDTH}}" for name in contestants)
        for row in ROWS:
            spreads = [results.spread(workload, name, row.figure) for name in contestants]
            if not any(spread is not None for spread in spreads):
                continue
            if row.figure in {"errors", "closed"} and not any(s and s.most for s in spreads):
                continue
            cells = "".join(f"{_cell(spread, row.form):>{_WIDTH}}" for spread in spreads)
            yield f"  {row.title:<42}{cells}"
            if row.per_peer and _PEER in contestants:
                times = [
                    None
                    if name in {_PEER, "direct"}
                    else results.paired(workload, row.figure, name, _PEER, ratio)
                    for name in contestants
                ]
                if any(spread is not None for spread in times):
                    cells = "".join(f"{_cell(spread, '{:.2f}'):>{_WIDTH}}" for spread in times)
                    yield f"  {'  times ' + _PEER + ', paired':<42}{cells}"


def goals(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the lines of the table of goals."""
    yield ""
    yield f"{'goal':<68}{'measured':>14}  verdict"
    for outcome in outcomes:
        value = "-" if outcome.value is None else outcome.goal.form.format(outcome.value.median)
        yield f"{outcome.goal.title:<68}{value:>14}  {outcome.verdict}"


def _cell(spread: Spread | None, form: str) -> str:
    if spread is None:
        return "-"
    middle = form.format(spread.median)
    if spread.least == spread.most:
        return middle
    return f"{middle} ({form.format(spread.least)}..{form.format(spread.most)})"
