"""The tables of the schedule benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from .figures import Figures
from .goals import Runs, Verdict, mean

_COLUMNS = (
    ("swaps", "swaps", "{:.1f}"),
    ("makespan_s", "makespan s", "{:.0f}"),
    ("wait_p50_s", "wait p50 s", "{:.1f}"),
    ("wait_p99_s", "p99 s", "{:.1f}"),
    ("longest_wait_s", "longest s", "{:.1f}"),
    ("jain", "Jain", "{:.3f}"),
    ("failed", "failed", "{:.1f}"),
    ("overcommit_s", "overcommit s", "{:.1f}"),
    ("evicted_busy", "busy evicted", "{:.1f}"),
    ("crashes", "crashes", "{:.1f}"),
)


def print_figures(console: Console, title: str, runs: Runs) -> None:
    """Print one workload: a row for each rule, means over the seeds."""
    table = Table(title=title, title_justify="left")
    table.add_column("rule")
    for _, heading, _ in _COLUMNS:
        table.add_column(heading, justify="right")
    for name, figures in runs.items():
        cells = (form.format(mean(figures, figure)) for figure, _, form in _COLUMNS)
        table.add_row(name, *cells)
    console.print(table)


def print_clients(console: Console, runs: Runs) -> None:
    """Print the waits of each client with the first seed: p50 / p99 in seconds, served share."""
    table = Table(title="p50 / p99 wait in s, share of its time served", title_justify="left")
    table.add_column("client")
    for name in runs:
        table.add_column(name, justify="right")
    first: Mapping[str, Figures] = {name: figures[0] for name, figures in runs.items()}
    for client in next(iter(first.values())).clients:
        waits = [figures.clients[client] for figures in first.values()]
        table.add_row(
            client, *(f"{w.p50_s:.1f} / {w.p99_s:.1f}  {w.served_share:.0%}" for w in waits)
        )
    console.print(table)


def print_verdicts(console: Console, verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    """Print the goals that were missed in full, and count the others."""
    met = sum(each.met for some in verdicts.values() for each in some)
    missed = [(where, each) for where, some in verdicts.items() for each in some if not each.met]
    console.print(f"{met} goals met, {len(missed)} missed")
    for where, each in missed:
        console.print(f"missed: {where}: {each.goal}: {each.detail}", highlight=False)
