"""``python -m bench swap``: swaps between two models by each contestant in turn.

A swap is one chat request (one token, not streamed) for the model that is not loaded, from
the moment it is sent to its complete response. By hand it lasts from SIGTERM to the one server
to the response of the other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from bench import arguments, versions
from bench.programs import StartError
from bench.results import Results
from llama_router.models.tiny.chat import make_chat_model

from . import report
from .ask import AskError
from .contestants import (
    CONTESTANTS,
    EMBEDDED,
    REAL,
    Contestant,
    Setting,
    Swapper,
    missing_server,
    server_version,
)

#: Random seed of each model.
MODELS = {"a": 1, "b": 2}

#: Pause before each swap, in seconds: a server's threads keep a processor busy for a
#: while after their last token, and would disturb the next contestant.
_SETTLE_S = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "--rounds", type=arguments.count, default=20, help="swaps of each kind (default: 20)"
    )
    parser.add_argument(
        "--size-mb",
        type=arguments.size,
        action="append",
        help="size of each model, 0 is tiny; may be repeated (default: 0 and 300)",
    )
    parser.add_argument(
        "--server",
        action="append",
        choices=(EMBEDDED, REAL),
        help="server of the models (default: both; llama-server is $LLAMA_SERVER_BIN)",
    )
    arguments.add_choice(parser, "--contestants", CONTESTANTS)
    parser.add_argument("--json", type=arguments.file, help="write every figure to this file")


def run(options: argparse.Namespace) -> int:
    """Measure and report; return 1 if the goal was missed or anything failed, 2 if nothing ran."""
    try:
        contestants = arguments.chosen(CONTESTANTS, options.contestants)
    except ValueError as error:
        print(f"bench swap: {error}", file=sys.stderr)
        return 2
    bench = Bench(contestants, options.rounds)
    for server in options.server or (EMBEDDED, REAL):
        for size_mb in options.size_mb or (0, 300):
            bench.measure(server, size_mb)
    print("\n".join(versions.lines(bench.versions)))
    print("\n".join(report.lines(bench.results, bench.absent, bench.problems)))
    if options.json is not None:
        document = {
            "rounds": options.rounds,
            "versions": versions.machine() | bench.versions,
            "not_run": bench.absent,
            "problems": bench.problems,
            "goals": [attrs.asdict(outcome) for outcome in report.judge(bench.results)],
            "workloads": bench.results.rounds,
        }
        options.json.write_text(json.dumps(document, indent=1))
    if not bench.results.rounds:
        return 2
    missed = any(outcome.met is False for outcome in report.judge(bench.results))
    return int(missed or bool(bench.problems))


class Bench:
    """One run of the benchmark.

    Attributes:
        results: The figures; a workload is a server with a size of models.
        absent: Contestants and servers that could not run, each with the reason.
        problems: Failures of contestants.
        versions: Versions of the servers and contestants that were measured.
    """

    def __init__(self, contestants: Sequence[Contestant], rounds: int) -> None:
        self._contestants = contestants
        self._rounds = rounds
        self.results = Results()
        self.absent: dict[str, str] = {}
        self.problems: list[str] = []
        self.versions: dict[str, str] = {}

    def measure(self, server: str, size_mb: float) -> None:
        """Have each contestant swap models of this size."""
        if (reason := missing_server(server)) is not None:
            self.absent[f"server {server}"] = reason
            return
        self.versions[f"server {server}"] = server_version(server)
        workload = f"{server}, {f'{size_mb:g} MB' if size_mb else 'tiny'}"
        with (
            tempfile.TemporaryDirectory(prefix="llama-router-bench-") as folder,
            contextlib.ExitStack() as stack,
        ):
            models = {name: Path(folder) / f"{name}.gguf" for name in MODELS}
            for name, path in models.items():
                make_chat_model(path, name=name, seed=MODELS[name], size_mb=size_mb)
            swappers: list[tuple[str, Swapper]] = []
            for contestant in self._contestants:
                if (reason := contestant.missing(server)) is not None:
                    self.absent[f"{contestant.name}, {server}"] = reason
                    continue
                own = Path(folder) / contestant.name
                own.mkdir()
                setting = Setting(own, models, server)
                try:
                    swapper = stack.enter_context(contestant.running(setting))
                    for name in MODELS:  # unmeasured: then the files are in the page cache
                        swapper.swap(name)
                except (StartError, AskError) as error:
                    self.problems.append(f"{workload}, {contestant.name}: {error}")
                else:
                    swappers.append((contestant.name, swapper))
                    if (version := contestant.version()) is not None:
                        self.versions[contestant.name] = version
            self._take_turns(workload, swappers)

    def _take_turns(self, workload: str, swappers: Sequence[tuple[str, Swapper]]) -> None:
        for number in range(self._rounds):
            model = list(MODELS)[number % len(MODELS)]
            print(f"{workload}: round {number + 1} of {self._rounds}", file=sys.stderr)
            # The place in a round might matter, so each begins with another contestant. It
            # changes in every other round only, because those swap to the same model.
            first = number // len(MODELS) % max(1, len(swappers))
            for name, swapper in (*swappers[first:], *swappers[:first]):
                time.sleep(_SETTLE_S)
                try:
                    figures = swapper.swap(model)
                except (StartError, AskError) as error:
                    figures = {}
                    self.problems.append(f"{workload}, {name}, round {number + 1}: {error}")
                self.results.add(workload, name, figures)
