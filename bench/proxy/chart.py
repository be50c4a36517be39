"""The chart: the figures that the goals are about, side by side. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from .results import Results


class ChartError(Exception):
    """The chart cannot be drawn; the text says why."""


@attrs.frozen
class Panel:
    """One small chart: a figure, over several workloads.

    Attributes:
        title: What is drawn.
        figure: Its name in the results.
        workloads: The groups of bars.
    """

    title: str
    figure: str
    workloads: tuple[str, ...]


PANELS = (
    Panel("CPU per small request, µs", "cpu_us", ("small-1", "small-16", "small-64")),
    Panel("Latency p50 of small requests, ms", "latency_p50_ms", ("small-1", "small-16")),
    Panel("CPU per streamed chunk, µs", "cpu_us", ("sse-32", "sse-256", "sse-512")),
    Panel("First byte p50, 256 starts, ms", "ttft_p50_ms", ("starts-256",)),
    Panel("CPU per transfer, ms", "cpu_ms", ("upload", "upload-last", "download")),
    Panel("RSS, MiB: at rest", "rss_mib", ("start",)),
)

_COLUMNS = 3
_BAR = 0.8


def draw(results: Results, contestants: Sequence[str], path: Path) -> None:
    """Write a PNG with the medians as bars and the ranges over the rounds as whiskers.

    Raises:
        ChartError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 -- an extra, and slow to import
        from matplotlib.patches import Patch  # noqa: PLC0415 -- same
    except ImportError as error:
        raise ChartError(
            f"no chart: {error}; install the extra: pip install -e '.[bench]'"
        ) from error
    rows = -(-len(PANELS) // _COLUMNS)
    figure = Figure(figsize=(5 * _COLUMNS, 3.6 * rows), layout="constrained")
    for number, panel in enumerate(PANELS, 1):
        axes = figure.add_subplot(rows, _COLUMNS, number)
        axes.set_title(panel.title)
        width = _BAR / max(1, len(contestants))
        for place, name in enumerate(contestants):
            shift = (place - (len(contestants) - 1) / 2) * width
            for group, workload in enumerate(panel.workloads):
                spread = results.spread(workload, name, panel.figure)
                if spread is None:
                    continue
                whiskers = [[spread.median - spread.least], [spread.most - spread.median]]
                bar = axes.bar(
                    group + shift, spread.median, width * 0.9, yerr=whiskers, color=f"C{place}"
                )
                axes.bar_label(bar, fmt="%.3g", fontsize=7, padding=2)
        axes.set_xticks(range(len(panel.workloads)), panel.workloads)
        axes.margins(y=0.15)
    patches = [Patch(color=f"C{place}", label=name) for place, name in enumerate(contestants)]
    figure.legend(handles=patches, loc="outside lower center", ncols=max(1, len(contestants)))
    figure.savefig(path, dpi=110)
