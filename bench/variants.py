"""Routers that differ in one setting: they run side by side, and are measured in turns."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

from . import versions
from .programs import ROOT, StartError, child
from .results import Figures, Results
from .swap.ask import AskError
from .swap.contestants import router_port

#: The name under which the rounds stand in the results.
WORKLOAD: Final = "swap"


class Variant(Protocol):
    """One running router; *kind* says what is special about it."""

    @property
    def kind(self) -> str:
        """The name of its setting."""


V = TypeVar("V", bound=Variant)


@contextlib.contextmanager
def running(folder: Path, kind: str, lines: Sequence[str]) -> Iterator[tuple[int, Path]]:
    """Run a router; yield its port and the file of its log; end it on exit.

    Args:
        folder: Where its files go.
        kind: What tells its files from those of the others.
        lines: What stands in its configuration behind what all have in ``[router]``.

    Raises:
        StartError: if it does not come up.
    """
    config, log = folder / f"{kind}.toml", folder / f"{kind}.log"
    common = [
        "[router]",
        "port = 0",
        f'state_dir = "{folder}/state-{kind}"',
        "min_residency_s = 0",
        "scan_caches = false",
        'log_format = "json"',
    ]
    config.write_text("\n".join([*common, *lines]) + "\n")
    argv = [sys.executable, "-m", "llama_router", "serve", "--config", str(config)]
    with child(argv, log, environment=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        yield router_port(process, log), log


def measure_in_turns(
    routers: Sequence[V],
    rounds: int,
    measure: Callable[[V, int], Figures],
    results: Results,
    problems: list[str],
) -> None:
    """Add the figures of *rounds* to *results*; each router begins a round in its turn.

    What fails is without figures, and is told in *problems*.
    """
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for place in range(len(routers)):
            router = routers[(number + place) % len(routers)]
            try:
                figures = measure(router, number)
            except (AskError, StartError) as error:
                figures = {}
                problems.append(f"{router.kind}, round {number + 1}: {error}")
            results.add(WORKLOAD, router.kind, figures)


def cell(results: Results, kind: str, figure: str) -> str:
    """Return the median and the range of a figure, as a cell of a table."""
    spread = results.spread(WORKLOAD, kind, figure)
    if spread is None:
        return "not measured"
    return f"{spread.median:.2f} ({spread.least:.2f} to {spread.most:.2f})"


def write_json(
    options: argparse.Namespace, results: Results, problems: list[str], **facts: object
) -> None:
    """Write all figures to the file that the option ``--json`` names, if it does."""
    if options.json is not None:
        document = {"versions": versions.machine(), **facts}
        document |= {"rounds": results.rounds, "problems": problems}
        options.json.write_text(json.dumps(document, indent=1))
