"""``python -m bench proxy``: its options, rounds, report and files."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from bench import arguments, machine, versions
from bench.build import BuildError, build
from bench.programs import StartError
from bench.results import Results

from . import chart, report
from .client import LoadError
from .contestants import CONTESTANTS, Contestant, Setting
from .goals import Outcome, Verdict, judge
from .workloads import WORKLOADS, Scale, Stage, Workload

#: Pause before each measurement, in seconds, so that the previous contestant comes to rest.
_SETTLE_S = 0.2

_QUICK = Scale(seconds=0.5, transfers=3, bursts=1, slow_readers=50, idle=200, rest_s=0.3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "--rounds", type=arguments.count, help="measurements of each kind (default: 5)"
    )
    parser.add_argument(
        "--seconds", type=arguments.seconds, help="duration of each load (default: 3)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one short round, to check that it works"
    )
    arguments.add_choice(parser, "--only", WORKLOADS)
    arguments.add_choice(parser, "--contestants", CONTESTANTS)
    parser.add_argument("--json", type=arguments.file, help="write every figure to this file")
    parser.add_argument("--chart", type=arguments.file, help="draw a PNG; needs the extra 'bench'")
    parser.add_argument(
        "--pin",
        action=argparse.BooleanOptionalAction,
        help="give the proxy a processor of its own (default: if there are two)",
    )


def run(options: argparse.Namespace) -> int:
    """Measure and report; return 1 if a goal was missed or anything failed, 2 if nothing ran."""
    try:
        workloads = arguments.chosen(WORKLOADS, options.only)
        contestants = arguments.chosen(CONTESTANTS, options.contestants)
        pinning = machine.choose_pinning(pin=options.pin)
        if options.chart is not None:
            chart.check()
        native = build()
    except (ValueError, BuildError, chart.ChartError) as error:
        print(f"bench proxy: {error}", file=sys.stderr)
        return 2
    scale = _QUICK if options.quick else Scale()
    if options.seconds is not None:
        scale = attrs.evolve(scale, seconds=options.seconds)
    rounds = options.rounds or (1 if options.quick else 5)
    absent = {c.name: reason for c in contestants if (reason := c.missing()) is not None}
    present = [c for c in contestants if c.name not in absent]
    machine.allow_descriptors()
    begun_s = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="llama-router-bench-") as folder:
        bench = Bench(Setting(native, pinning, Path(folder)), scale, absent)
        bench.measure(present, workloads, rounds)
    print(f"took {time.perf_counter() - begun_s:.0f} s", file=sys.stderr)
    return bench.finish(options, workloads, rounds)


class Bench:
    """One run of the benchmark."""

    def __init__(self, setting: Setting, scale: Scale, absent: dict[str, str]) -> None:
        self._setting = setting
        self._scale = scale
        self._absent = absent
        self._results = Results()
        self._problems: list[str] = []
        self._names: list[str] = []
        self._versions: dict[str, str] = {}

    def measure(
        self, contestants: Sequence[Contestant], workloads: Sequence[Workload], rounds: int
    ) -> None:
        """Start all contestants, and run each workload against one after the other, in turns."""
        with contextlib.ExitStack() as stack:
            stages = []
            for contestant in contestants:
                try:
                    running = stack.enter_context(contestant.running(self._setting))
                except StartError as error:
                    self._absent[contestant.name] = str(error)
                else:
                    stages.append(Stage(self._setting, contestant, running, self._scale))
            self._names = [stage.contestant.name for stage in stages]
            self._versions = {stage.contestant.name: stage.contestant.version() for stage in stages}
            for number in range(rounds):
                for place, workload in enumerate(workloads):
                    # The place in a round might matter: each round begins with another contestant.
                    first = (number + place) % max(1, len(stages))
                    for stage in (*stages[first:], *stages[:first]):
                        self._measure_one(stage, workload, f"round {number + 1} of {rounds}")

    def _measure_one(self, stage: Stage, workload: Workload, where: str) -> None:
        name = stage.contestant.name
        if workload.name == "start" and stage.running.root is None:
            return
        print(f"{where}: {workload.name}, {name}", file=sys.stderr, flush=True)
        time.sleep(_SETTLE_S)
        try:
            figures = workload.run(stage)
        except (LoadError, StartError) as error:
            figures = {}
            self._problems.append(f"{where}: {workload.name}, {name}: {error}")
        if figures.get("errors"):
            text = "; ".join(dict.fromkeys(stage.complaints))
            self._problems.append(
                f"{where}: {workload.name}, {name}: {figures['errors']:.0f} errors: {text}"
            )
        stage.complaints.clear()
        self._results.add(workload.name, name, figures)

    def finish(
        self, options: argparse.Namespace, workloads: Sequence[Workload], rounds: int
    ) -> int:
        """Print the tables, write the files, and return the exit status."""
        outcomes = judge(self._results, [workload.name for workload in workloads])
        print("\n".join(self._lines(workloads, outcomes, rounds)))
        if not self._results.rounds:
            print("bench proxy: no contestant could be measured", file=sys.stderr)
            return 2
        failed = self._problems or any(one.verdict is Verdict.MISSED for one in outcomes)
        try:
            if options.json is not None:
                options.json.write_text(json.dumps(self._document(outcomes, rounds), indent=1))
            if options.chart is not None:
                chart.draw(self._results, self._names, options.chart)
        except (chart.ChartError, OSError) as error:
            print(f"bench proxy: {error}", file=sys.stderr)
            failed = True
        return int(bool(failed))

    def _lines(
        self, workloads: Sequence[Workload], outcomes: Sequence[Outcome], rounds: int
    ) -> list[str]:
        titles = {workload.name: workload.title for workload in workloads}
        pinning = self._setting.pinning
        pinned = "nothing pinned"
        if pinning.proxy is not None:
            pinned = f"proxy on {pinning.proxy}, stub on {pinning.stub}, client on {pinning.load}"
        lines = [
            f"{rounds} rounds, median (least..most); {os.cpu_count()} processors, {pinned}",
            *versions.lines(self._versions),
        ]
        lines += report.figures(self._results, titles, self._names)
        lines += report.goals(outcomes)
        lines += [""] + [f"not run: {name}: {why}" for name, why in self._absent.items()]
        lines += [f"problem: {problem}" for problem in self._problems]
        lines += [f"doubtful: {doubt}" for doubt in report.doubts(self._results)]
        return lines

    def _document(self, outcomes: Sequence[Outcome], rounds: int) -> dict[str, object]:
        return {
            "at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "machine": {
                "processors": os.cpu_count(),
                "kernel": platform.release(),
                "python": platform.python_version(),
                "load_average": os.getloadavg(),
            },
            "versions": versions.machine() | self._versions,
            "pinning": attrs.asdict(self._setting.pinning),
            "scale": attrs.asdict(self._scale),
            "rounds": rounds,
            "contestants": self._names,
            "not_run": self._absent,
            "problems": self._problems,
            "goals": [
                {
                    "title": one.goal.title,
                    "limit": one.goal.limit,
                    "verdict": one.verdict,
                    "reason": one.reason,
                    "value": None if one.value is None else attrs.asdict(one.value),
                }
                for one in outcomes
            ],
            "workloads": self._results.rounds,
        }
