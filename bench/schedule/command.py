"""Replays workloads against the real scheduler and models of its peers, with simulated time.

Each workload is a trace of clients and incidents that depends on the seed only, so every rule gets
the same one. Nothing is started, and nothing is waited for.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from rich.console import Console

from bench import arguments, versions
from bench.proxy import chart as bars
from bench.results import Results

from . import chart, decisions, report
from .figures import Figures, figures_of
from .goals import SUBJECT, Runs, Verdict, judge
from .peers import PEERS
from .router import Router
from .simulation import Rule, Simulation
from .workloads import WORKLOADS, Workload, trace_of

#: Where the figures go without ``--json``.
_OUT = Path(__file__).parents[1] / "out" / "schedule.json"

RULES: Final = (*(peer.name for peer in PEERS), SUBJECT)

_ROUNDS = 20
_QUICK_ROUNDS = 4
_WIDTH = 140


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.description = __doc__
    arguments.add_choice(parser, "--only", WORKLOADS)
    parser.add_argument(
        "--gpus",
        type=arguments.count,
        action="append",
        help="number of GPUs, repeatable (default: 1 and 3)",
    )
    parser.add_argument("--seeds", type=arguments.count, help="traces of each kind (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one short trace of each kind")
    parser.add_argument("--clients", action="store_true", help="the waits of each client, too")
    parser.add_argument(
        "--decisions", action="store_true", help="measure only the processor time of decisions"
    )
    parser.add_argument("--json", type=arguments.file, help=f"file for every figure ({_OUT.name})")
    parser.add_argument("--chart", type=arguments.file, help="draw a PNG; needs the extra 'bench'")


def run(options: argparse.Namespace) -> int:
    """Run the benchmark; return 1 if a goal was missed, 2 if it could not be run."""
    if options.decisions:
        return _run_decisions()
    try:
        workloads = arguments.chosen(WORKLOADS, options.only)
        if options.chart is not None:
            bars.check()
    except (ValueError, bars.ChartError) as error:
        print(f"bench schedule: {error}", file=sys.stderr)
        return 2
    gpus = tuple(dict.fromkeys(options.gpus or (1, 3)))
    seeds = range(1, 1 + (options.seeds or (1 if options.quick else 5)))
    rounds = _QUICK_ROUNDS if options.quick else _ROUNDS
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    console.print("\n".join(versions.lines()), highlight=False)
    console.print(f"{len(seeds)} seeds, means; {rounds} rounds", highlight=False)
    results, verdicts = Results(), dict[str, Sequence[Verdict]]()
    document: dict[str, Any] = {"versions": versions.machine(), "rounds": rounds, "runs": {}}
    for count in gpus:
        for workload in workloads:
            runs = simulate(workload, gpus=count, rounds=rounds, seeds=seeds)
            key = chart.workload_key(workload.name, count)
            report.print_figures(console, f"{key} GPU{'s' * (count > 1)}: {workload.title}", runs)
            if options.clients:
                report.print_clients(console, runs)
            verdicts[key] = judge(runs, has_goal=workload.has_goal)
            document["runs"][key] = {
                name: [attrs.asdict(each) for each in some] for name, some in runs.items()
            }
            _add(results, key, runs)
    document["goals"] = {key: [attrs.asdict(v) for v in some] for key, some in verdicts.items()}
    report.print_verdicts(console, verdicts)
    try:
        _write(options, document, results, gpus)
    except (bars.ChartError, OSError) as error:
        print(f"bench schedule: {error}", file=sys.stderr)
        return 1
    return int(not all(each.met for some in verdicts.values() for each in some))


def simulate(workload: Workload, *, gpus: int, rounds: int, seeds: Sequence[int]) -> Runs:
    """Return the figures of every rule on the traces of a workload."""
    runs: dict[str, list[Figures]] = {name: [] for name in RULES}
    for seed in seeds:
        trace = trace_of(workload, gpus=gpus, rounds=rounds, seed=seed)
        rules: list[Rule] = [*(peer(trace) for peer in PEERS), Router(trace, workload.settings)]
        for name, rule in zip(RULES, rules, strict=True):
            runs[name].append(figures_of(Simulation(trace, rule).run()))
    return runs


def _add(results: Results, key: str, runs: Runs) -> None:
    for name, some in runs.items():
        for figures in some:
            numbers = attrs.asdict(figures, filter=lambda field, _: field.name != "clients")
            results.add(key, name, numbers)


def _write(
    options: argparse.Namespace, document: dict[str, Any], results: Results, gpus: tuple[int, ...]
) -> None:
    path = options.json
    if path is None:
        path = _OUT
        path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1))
    if options.chart is not None:
        bars.draw(results, RULES, options.chart, panels=chart.panels(gpus))


def _run_decisions() -> int:
    measured = decisions.measure()
    print("\n".join(versions.lines()))
    print(
        f"{SUBJECT}: {measured.count} decisions with 300 models, 8 GPUs and "
        f"{measured.waiting:.0f} requests waiting: p50 {measured.p50_ms:.2f} ms, "
        f"p99 {measured.p99_ms:.2f} ms, longest {measured.longest_ms:.2f} ms of processor time "
        f"(goal: p99 below {decisions.GOAL_MS:g} ms)"
    )
    return int(not measured.met)
