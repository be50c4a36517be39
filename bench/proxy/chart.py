"""Bar charts of the figures that have goals. Needs matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from bench.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ChartError(Exception):
    """The chart cannot be drawn; the text has the reason."""


@attrs.frozen
class Panel:
    """One small chart: a figure, over several workloads.

    Attributes:
        title: The title.
        figure: Name of the figure in the results.
        workloads: The groups of bars.
        log: Whether the axis is logarithmic, for contestants of different orders of magnitude.
    """

    title: str
    figure: str
    workloads: tuple[str, ...]
    log: bool = False


PANELS = (
    Panel("CPU per small request, µs", "cpu_us", ("small-1", "small-16", "small-64")),
    Panel("small requests, latency p50, ms", "latency_p50_ms", ("small-1", "small-16"), log=True),
    Panel("CPU per streamed chunk, µs", "cpu_us", ("sse-32", "sse-256", "sse-512")),
    Panel("chunk latency p99, ms", "chunk_p99_ms", ("sse-32", "sse-256", "sse-512"), log=True),
    Panel("256 simultaneous starts, first byte p50, ms", "ttft_p50_ms", ("starts-256",)),
    Panel("CPU per transfer, ms", "cpu_ms", ("upload", "upload-last", "download")),
    Panel("RSS at rest, MiB", "rss_mib", ("start",)),
    Panel("RSS during 200 slow readers, MiB", "during_mib", ("slow-200",), log=True),
    Panel("/v1/models p99 under load, ms", "models_latency_p99_ms", ("mixed",), log=True),
)

_COLUMNS = 3
_BAR = 0.8


def check() -> None:
    """Check that a chart can be drawn here.

    Raises:
        ChartError: if matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ChartError(
            "no chart: matplotlib is not installed; install the extra: pip install -e '.[bench]'"
        )


def draw(
    results: Results,
    contestants: Sequence[str],
    path: Path,
    *,
    panels: Sequence[Panel] = PANELS,
) -> None:
    """Write a PNG with the medians as bars and the ranges over the rounds as whiskers.

    Panels without a measured figure are left out.

    Raises:
        ChartError: if no figure of a chart was measured, or matplotlib cannot be imported.
        OSError: if the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 -- an extra, and slow to import
        from matplotlib.patches import Patch  # noqa: PLC0415 -- same
    except ImportError as error:
        raise ChartError(f"no chart: matplotlib cannot be imported: {error}") from error
    panels = [panel for panel in panels if _measured(panel, results)]
    if not panels:
        raise ChartError("no chart: nothing was measured that is in one")
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5 * columns, 0.6 + 3.4 * rows), layout="constrained")
    for number, panel in enumerate(panels, 1):
        _draw_panel(figure.add_subplot(rows, columns, number), panel, results, contestants)
    patches = [Patch(color=f"C{place}", label=name) for place, name in enumerate(contestants)]
    figure.legend(handles=patches, loc="outside lower center", ncols=max(1, len(contestants)))
    figure.savefig(path, format="png", dpi=110)  # whatever the suffix


def _measured(panel: Panel, results: Results) -> list[str]:
    """Return the workloads of *panel* in which its figure was measured."""
    return [
        workload
        for workload in panel.workloads
        if any(
            results.spread(workload, name, panel.figure) is not None
            for name in results.rounds.get(workload, {})
        )
    ]


def _draw_panel(axes: Axes, panel: Panel, results: Results, contestants: Sequence[str]) -> None:
    """Draw one group of bars per workload, one bar per contestant."""
    workloads = _measured(panel, results)
    width = _BAR / len(contestants)
    for place, name in enumerate(contestants):
        shift = (place - (len(contestants) - 1) / 2) * width
        for group, workload in enumerate(workloads):
            spread = results.spread(workload, name, panel.figure)
            if spread is None or spread.median <= 0:  # without a proxy there is no CPU of one
                continue
            whiskers = [[spread.median - spread.least], [spread.most - spread.median]]
            bar = axes.bar(
                group + shift,
                spread.median,
                width * 0.9,
                yerr=whiskers,
                color=f"C{place}",
                ecolor="0.4",
            )
            axes.bar_label(bar, fmt="%.3g", fontsize=7, padding=2)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xticks(range(len(workloads)), workloads)
    if panel.log:
        axes.set_yscale("log")
    axes.margins(y=0.15)
