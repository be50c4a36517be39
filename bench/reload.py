"""Duration of a reload of a large configuration, and the stalls of the event loop meanwhile.

A router runs in this process with hundreds of models. A ticker records how late the event
loop resumes it. Each round changes the file, requests a reload, and waits for its report.

On a busy machine much of a stall is the wait for a processor. The kernel counts these waits
for each thread; the column "own" is the stall without those of all threads of this process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from bench import arguments, versions
from llama_router.config.catalog import Catalog
from llama_router.logs.output import configure
from llama_router.supervisor.running_router import RouterSignals, RunningRouter
from llama_router.supervisor.tree import run_router

#: Goals of one reload, in milliseconds.
GOAL_MS: Final = 100.0
STALL_GOAL_MS: Final = 5.0

#: Period of the ticker, in seconds.
TICK_S: Final = 0.0005


@attrs.frozen
class Round:
    """One reload.

    Attributes:
        reload_ms: Time from the request to the report.
        cpu_ms: Processor time of all threads meanwhile.
        stall_ms: Longest delay of the event loop.
        own_ms: The same without waits for a processor.
    """

    reload_ms: float
    cpu_ms: float
    stall_ms: float
    own_ms: float


@attrs.define
class Ticker:
    """Records how late the event loop resumes a task.

    Attributes:
        worst_s: Longest delay, in seconds.
        own_s: The same without waits for a processor.
    """

    worst_s: float = 0.0
    own_s: float = 0.0

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            waited_s = waits_s()
            due_s = time.perf_counter() + TICK_S
            await trio.sleep(TICK_S)
            late_s = time.perf_counter() - due_s
            self.worst_s = max(self.worst_s, late_s)
            self.own_s = max(self.own_s, late_s - (waits_s() - waited_s))


def waits_s() -> float:
    """Return how long threads of this process waited for a processor, in seconds.

    Source: the kernel's Documentation/scheduler/sched-stats.rst, ``/proc/<pid>/schedstat``.
    """
    waited_ns = 0
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 -- faster, and called often
        with suppress(OSError, IndexError):  # the thread has just ended
            waited_ns += int(Path(f"/proc/self/task/{thread}/schedstat").read_bytes().split()[1])
    return waited_ns / 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--models", type=arguments.count, default=300, help="models in the file")
    parser.add_argument("--rounds", type=arguments.count, default=10, help="reloads of each kind")


def run(options: argparse.Namespace) -> int:
    """Print a table; return 1 if a goal was missed."""
    with tempfile.TemporaryDirectory() as folder, configure(level="critical"):
        return trio.run(partial(_measure, Path(folder), options))


KINDS: Final[dict[str, Callable[[int, int], str]]] = {
    "nothing (for comparison)": lambda models, _: _file(models),
    "one model changes": lambda models, number: _file(models, one=number),
    "every model is retuned": lambda models, number: _file(models, ttl_s=number),
    "every model is restarted": lambda models, number: _file(models, ctx=number),
    "a mistake in the last line": lambda models, number: _file(models) + f"mistake = {number}\n",
}


def _file(models: int, *, one: int = 0, ttl_s: int = 0, ctx: int = 4096) -> str:
    lines = [
        "[router]",
        "port = 0",
        "scan_caches = false",
        f"ttl_s = {ttl_s}",
        "[default_spawn]",
        f'command = ["llama-server", "-m", "$path", "--port", "$port", "--ctx-size", "{ctx}"]',
    ]
    for index in range(models):
        lines += [
            f'[models."vendor/model-{index}:q4"]',
            'path = "model.gguf"',
            f'aliases = ["m{index}", "alias-{index}"]',
            f'group = "g{index % 7}"',
            f'args = ["--parallel", "{1 + index % 4}"]',
            f"max_queued = {64 + (one if index == models // 2 else 0)}",
        ]
    return "\n".join(lines) + "\n"


async def _measure(folder: Path, options: argparse.Namespace) -> int:
    (folder / "model.gguf").touch()
    path = folder / "router.toml"
    path.write_text(_file(options.models))
    catalog = Catalog(folder / "state", os.environ)
    requests = RouterSignals()
    ticker = Ticker()
    async with trio.open_nursery() as nursery:
        running: RunningRouter = await nursery.start(
            partial(
                run_router,
                catalog.load(path),
                requests,
                state_dir=folder / "state",
                environ=os.environ,
                catalog=catalog,
            )
        )
        nursery.start_soon(ticker.run)
        await trio.sleep(0.2)
        rounds: dict[str, list[Round]] = {kind: [] for kind in KINDS}
        for number in range(1, options.rounds + 1):
            for kind, text in KINDS.items():
                path.write_text(text(options.models, number))
                nothing = kind == next(iter(KINDS))
                rounds[kind].append(await _reload(_rest if nothing else running.reload, ticker))
        requests.stop.set()
        nursery.cancel_scope.cancel()
    return _report(rounds, options.models)


async def _rest() -> None:
    await trio.sleep(0.06)


async def _reload(reload: Callable[[], Awaitable[object]], ticker: Ticker) -> Round:
    await trio.sleep(0.05)
    ticker.worst_s = ticker.own_s = 0.0
    begun_s, before_s = time.perf_counter(), time.process_time()
    await reload()
    took_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - before_s
    await trio.sleep(0.02)  # the ticker records a delay at its end
    return Round(took_s * 1000, cpu_s * 1000, ticker.worst_s * 1000, ticker.own_s * 1000)


def _report(rounds: dict[str, list[Round]], models: int) -> int:
    print("\n".join(versions.lines()))
    print(f"{models} models in the file; medians and worst of {len(next(iter(rounds.values())))}")
    columns = ("reload", "worst", "cpu", "stall", "worst", "own", "worst")
    print(f"{'(ms)':<28}", *(f"{column:>8}" for column in columns))
    missed = False
    for kind, found in rounds.items():
        took = [one.reload_ms for one in found]
        stall = [one.stall_ms for one in found]
        own = [one.own_ms for one in found]
        median = statistics.median
        cpu = median(one.cpu_ms for one in found)
        figures = (median(took), max(took), cpu, median(stall), max(stall), median(own), max(own))
        print(f"{kind:<28}", *(f"{figure:8.2f}" for figure in figures))
        if kind != next(iter(KINDS)):
            missed |= median(took) > GOAL_MS or max(own) > STALL_GOAL_MS
    print(
        f"goals: reload {GOAL_MS:g} ms, worst own stall {STALL_GOAL_MS:g} ms: "
        f"{'missed' if missed else 'met'}"
    )
    return int(missed)
