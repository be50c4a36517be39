"""Tables of all figures of all contestants, and of the goals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from bench.results import Results, Spread

from .goals import DIRECT, Outcome


@attrs.frozen
class Row:
    """A row of the table.

    Attributes:
        figure: Name of the figure in the results.
        title: Its name in the table.
        form: Format of a number.
        per_peer: Whether a second row has the ratio to the peer.
    """

    figure: str
    title: str
    form: str = "{:.2f}"
    per_peer: bool = False


#: In the order of the table; a workload has the rows of its figures.
ROWS = (
    Row("start_cpu_s", "CPU from exec to listening, s"),
    Row("start_s", "time from exec to listening, s"),
    Row("rss_mib", "RSS at rest, MiB", "{:.1f}"),
    Row("root_rss_mib", "of its first process", "{:.1f}"),
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
    Row("lost_share", "chunks that did not arrive", "{:.2%}"),
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
    Row("reconnects", "connections closed after an answer", "{:.0f}"),
    Row("errors", "errors", "{:.0f}"),
)

_PEER = "nginx"

#: Share of their processor above which the stub and the client limit the figures.
BUSY_HELPERS_SHARE = 0.9

#: Share of all processors above which other programs disturb a measurement.
BUSY_OTHERS_SHARE = 0.15

_WIDTH = 28

#: Number of doubtful measurements that are named; the others are counted.
_NAMED = 4


def figures(results: Results, titles: dict[str, str], contestants: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the table: median, and the range over the rounds."""
    for workload in results.workloads():
        yield ""
        yield f"{titles[workload]:<44}" + "".join(f"{name:>{_WIDTH}}" for name in contestants)
        for row in ROWS:
            spreads = [results.spread(workload, name, row.figure) for name in contestants]
            if not any(spread is not None for spread in spreads):
                continue
            if row.figure in {"errors", "closed", "reconnects"} and not any(
                s and s.most for s in spreads
            ):
                continue
            cells = "".join(f"{cell(spread, row.form):>{_WIDTH}}" for spread in spreads)
            yield f"  {row.title:<42}{cells}"
            if row.per_peer and _PEER in contestants:
                times = [
                    None
                    if name in {_PEER, DIRECT}
                    else results.paired(workload, row.figure, name, _PEER)
                    for name in contestants
                ]
                if any(spread is not None for spread in times):
                    cells = "".join(f"{cell(spread, '{:.2f}'):>{_WIDTH}}" for spread in times)
                    yield f"  {'  times ' + _PEER + ', paired':<42}{cells}"


def goals(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the lines of the table of goals."""
    yield ""
    yield f"{'goal':<60}{'at most':>10}{'measured':>36}  verdict"
    for outcome in outcomes:
        form = outcome.goal.form
        measured = cell(outcome.value, form)
        yield (
            f"{outcome.goal.title:<60}{form.format(outcome.goal.limit):>10}"
            f"{measured:>36}  {outcome.verdict}{outcome.reason and f': {outcome.reason}'}"
        )


def cell(spread: Spread | None, form: str) -> str:
    """Return the text of a figure: the median, and the range if there is one."""
    if spread is None:
        return "-"
    middle = form.format(spread.median)
    least, most = form.format(spread.least), form.format(spread.most)
    return middle if least == most else f"{middle} ({least}..{most})"


def doubts(results: Results) -> Iterator[str]:
    """Yield reasons to doubt the figures: a busy machine, or a client at its limit."""
    disturbed: list[tuple[float, str]] = []
    at_limit: list[tuple[float, str]] = []
    for workload in results.workloads():
        for name in results.rounds[workload]:
            helpers = results.spread(workload, name, "helpers_share")
            others = results.spread(workload, name, "others_share")
            if helpers and helpers.median > BUSY_HELPERS_SHARE and name != DIRECT:
                at_limit.append((helpers.median, f"{workload} of {name}"))
            if others and others.median > BUSY_OTHERS_SHARE:
                disturbed.append((others.median, f"{workload} of {name}"))
    if disturbed:
        yield f"other programs used the machine during {_worst(disturbed)}"
    if at_limit:
        yield f"stub and client were near their own limit during {_worst(at_limit)}"


def _worst(shares: list[tuple[float, str]]) -> str:
    """Return the names of the largest few, and the number of the others."""
    largest = sorted(shares, reverse=True)[:_NAMED]
    text = ", ".join(f"{what} ({share:.0%})" for share, what in largest)
    return text if len(shares) <= _NAMED else f"{text} and {len(shares) - _NAMED} more"
