"""The workloads: one function per kind of load."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import attrs

from bench import machine

from .client import Figures, Load, StartedLoad, start_load
from .contestants import Contestant, Running, Setting

CHAT = "/v1/chat/completions"
PER_S = 50

#: Time between two looks of the stub at its streams, in microseconds. At each, all chunks are
#: sent that are due: some at once, as servers do that decode in batches, or one by one.
TICK_US = 500
FINE_TICK_US = 20

UPLOAD_BYTES = 15_000_000
DOWNLOAD_BYTES = 50_000_000
SLOW_BYTES_PER_S = 200_000

_SAMPLE_S = 0.05


@attrs.frozen
class Scale:
    """The size of the workloads.

    Attributes:
        seconds: Duration of a load without an end of its own, in seconds.
        transfers: Number of big bodies sent in one measurement.
        bursts: Number of times that many streams start at once.
        slow_readers: Connections that read slowly.
        idle: Connections without requests.
        rest_s: Pause before and after a load in which a program comes to rest, in seconds.
    """

    seconds: float = 3.0
    transfers: int = 10
    bursts: int = 3
    slow_readers: int = 200
    idle: int = 1000
    rest_s: float = 1.0


@attrs.frozen
class Stage:
    """A contestant to measure, and the size of the workloads.

    Attributes:
        setting: The surroundings of every contestant.
        contestant: The contestant.
        running: Its running program.
        scale: The size of the workloads.
        complaints: The first errors that the client reported.
    """

    setting: Setting
    contestant: Contestant
    running: Running
    scale: Scale
    complaints: list[str] = attrs.field(factory=list)

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Stage]:
        """Start another instance, which has served only its first request."""
        with self.contestant.running(self.setting) as running:
            time.sleep(self.scale.rest_s)
            yield attrs.evolve(self, running=running)

    def load(self, *arguments: object) -> Load:
        """Run the client against this contestant."""
        with self.started(*arguments) as client:
            return client.finish()

    def started(self, *arguments: object) -> contextlib.AbstractContextManager[StartedLoad]:
        """Start the client against this contestant; kill it on exit."""
        return start_load(self.setting, self.running, arguments, self.complaints)


@attrs.frozen
class Workload:
    """One kind of load.

    Attributes:
        name: Its name on the command line.
        title: Its name in the table.
        run: Applies the load and returns the figures.
    """

    name: str
    title: str
    run: Callable[[Stage], Figures]


def start_and_rest(stage: Stage) -> Figures:
    """Start another instance; return the cost of the start, and CPU and memory at rest."""
    with stage.fresh() as fresh:
        pids = fresh.running.pids()
        before_s, begun_s = machine.cpu_s(pids), time.perf_counter()
        time.sleep(stage.scale.rest_s)
        return {
            "start_cpu_s": fresh.running.start_cpu_s,
            "start_s": fresh.running.start_s,
            "rss_mib": machine.rss_mib(pids),
            "root_rss_mib": machine.rss_mib(pids[:1]),
            "idle_cpu_share": (machine.cpu_s(pids) - before_s) / (time.perf_counter() - begun_s),
        }


def small(stage: Stage, *, conns: int) -> Figures:
    """Send small POSTs on kept connections."""
    load = stage.load("--conns", conns, "--seconds", stage.scale.seconds, "--expect", "small")
    return (
        load.figures
        | _latencies(load, "latency")
        | {
            "per_s": load.seen["requests"] / load.seen["wall_s"],
            "cpu_us": load.cpu_s / max(1, load.seen["requests"]) * 1e6,
        }
    )


def streams(stage: Stage, *, count: int, tick_us: int = TICK_US) -> Figures:
    """Request streams of 50 chunks per second, one started after the other."""
    chunks = max(1, round(PER_S * stage.scale.seconds))
    spread_s = min(1.0, stage.scale.seconds / 2)
    load = stage.load(*_stream_arguments(count, chunks, tick_us), "--spread-ms", spread_s * 1000)
    return (
        load.figures
        | _latencies(load, "ttft")
        | _latencies(load, "chunk")
        | {
            "cpu_us": load.cpu_s / max(1, load.seen["chunks"]) * 1e6,
            "lost_share": 1 - load.seen["chunks"] / (count * chunks),
            # Of one processor, while all of them run.
            "core_share": load.cpu_s / max(1, load.seen["chunks"]) * count * PER_S,
            "late_s": load.seen["wall_s"] - spread_s - chunks / PER_S,
        }
    )


def simultaneous_starts(stage: Stage, *, count: int) -> Figures:
    """Start many streams at the same moment; return medians over several bursts."""
    bursts = []
    for _ in range(stage.scale.bursts):
        load = stage.load(*_stream_arguments(count, 5))
        bursts.append(
            load.figures | _latencies(load, "ttft") | {"cpu_us": load.cpu_s / count * 1e6}
        )
        time.sleep(_SAMPLE_S)
    return {
        key: statistics.median(burst[key] for burst in bursts)
        for key in bursts[0]
        if key != "errors"
    } | {"errors": sum(burst["errors"] for burst in bursts)}


def upload(stage: Stage, *, model_last: bool) -> Figures:
    """Send requests with big bodies, one after the other."""
    arguments = ["--expect", "count", "--path", f"{CHAT}?count", "--body-bytes", UPLOAD_BYTES]
    if model_last:
        arguments.append("--model-last")
    load = stage.load(*arguments, "--requests", stage.scale.transfers)
    return load.figures | _latencies(load, "latency") | _per_transfer(load)


def download(stage: Stage) -> Figures:
    """Request responses with big bodies, one after the other."""
    load = stage.load(*_download_arguments(), "--requests", stage.scale.transfers)
    return load.figures | _latencies(load, "latency") | _per_transfer(load)


def slow_readers(stage: Stage) -> Figures:
    """Have many clients read a big response slowly and disconnect in the middle."""
    with stage.fresh() as fresh:
        return _slow_readers(fresh)


def _slow_readers(stage: Stage) -> Figures:
    conns = stage.scale.slow_readers
    before_mib = machine.rss_mib(stage.running.pids())
    seconds = max(1.0, stage.scale.seconds)
    arguments = ("--conns", conns, "--requests", conns, "--seconds", seconds, "--cut")
    during_mib, pids = before_mib, stage.running.pids()
    with stage.started(
        *_download_arguments(), *arguments, "--read-rate", SLOW_BYTES_PER_S
    ) as client:
        while client.process.poll() is None:
            during_mib = max(during_mib, machine.rss_mib(pids))
            time.sleep(_SAMPLE_S)
        load = client.finish()
    time.sleep(stage.scale.rest_s)
    after_mib = machine.rss_mib(stage.running.pids())
    return load.figures | {
        "before_mib": before_mib,
        "during_mib": during_mib,
        "after_mib": after_mib,
        "grown_mib": after_mib - before_mib,
        "read_share": load.seen["bytes"] / (conns * SLOW_BYTES_PER_S * seconds),
    }


def idle_connections(stage: Stage) -> Figures:
    """Keep many connections open that had one request each."""
    with stage.fresh() as fresh:
        return _idle_connections(fresh)


def _idle_connections(stage: Stage) -> Figures:
    count, pids = stage.scale.idle, stage.running.pids
    before_mib = machine.rss_mib(pids())
    arguments = ("--conns", count, "--requests", count, "--expect", "small")
    with stage.started(*arguments, "--hold", max(1.0, stage.scale.seconds)) as client:
        client.wait_holding()
        held_mib = machine.rss_mib(pids())
        before_s, begun_s = machine.cpu_s(pids()), time.perf_counter()
        time.sleep(max(1.0, stage.scale.seconds) * 0.8)
        share = (machine.cpu_s(pids()) - before_s) / (time.perf_counter() - begun_s)
        load = client.finish()
    return load.figures | {
        "before_mib": before_mib,
        "held_mib": held_mib,
        "kib_each": (held_mib - before_mib) * 1024 / count,
        "idle_cpu_share": share,
        "closed": load.seen["closed_while_held"],
    }


def mixed(stage: Stage) -> Figures:
    """Request /health and /v1/models every 10 ms beside 12,000 chunks per second."""
    count, seconds = 240, max(1.0, stage.scale.seconds)
    chunks = round(PER_S * seconds)
    probe = ("--get", "--interval-ms", 10, "--seconds", seconds - 0.5, "--path")
    with stage.started(*_stream_arguments(count, chunks), "--spread-ms", 200) as client:
        time.sleep(0.3)
        with (
            stage.started(*probe, "/health") as health,
            stage.started(*probe, "/v1/models") as models,
        ):
            probes = {"health": health.finish(), "models": models.finish()}
        load = client.finish()
    figures = (
        load.figures
        | _latencies(load, "chunk")
        | {
            "cpu_us": load.cpu_s / max(1, load.seen["chunks"]) * 1e6,
            "lost_share": 1 - load.seen["chunks"] / (count * chunks),
        }
    )
    for name, asked in probes.items():
        figures |= {f"{name}_{key}": value for key, value in _latencies(asked, "latency").items()}
        figures["errors"] += asked.seen["errors"]
    return figures


WORKLOADS = (
    Workload("start", "start, and rest", start_and_rest),
    *(
        Workload(f"small-{conns}", f"small POSTs, {conns} at a time", partial(small, conns=conns))
        for conns in (1, 16, 64)
    ),
    *(
        Workload(
            f"sse-{count}",
            f"{count} stream{'s' * (count > 1)} x 50/s",
            partial(streams, count=count),
        )
        for count in (1, 32, 256, 512)
    ),
    Workload(
        "sse-256-fine",
        "256 streams x 50/s, chunks one by one",
        partial(streams, count=256, tick_us=FINE_TICK_US),
    ),
    Workload(
        "starts-256", "256 simultaneous stream starts", partial(simultaneous_starts, count=256)
    ),
    Workload("upload", "15 MB upload", partial(upload, model_last=False)),
    Workload("upload-last", "15 MB upload, model named last", partial(upload, model_last=True)),
    Workload("download", "50 MB response", download),
    Workload("slow-200", "200 slow readers of 50 MB", slow_readers),
    Workload("idle-1000", "1000 idle connections", idle_connections),
    Workload("mixed", "/health, /v1/models during 12,000 chunks/s", mixed),
)


# -- parts --------------------------------------------------------------------------------


def _stream_arguments(count: int, chunks: int, tick_us: int = TICK_US) -> tuple[object, ...]:
    return (
        *("--conns", count, "--requests", count, "--expect", "stream", "--chunks", chunks),
        *("--path", f"{CHAT}?chunks={chunks}&per_s={PER_S}&tick_us={tick_us}"),
    )


def _download_arguments() -> tuple[object, ...]:
    return (
        *("--expect", "big", "--bytes", DOWNLOAD_BYTES),
        *("--path", f"{CHAT}?bytes={DOWNLOAD_BYTES}"),
    )


def _latencies(load: Load, kind: str) -> Figures:
    """Return the client's percentiles of *kind*, in milliseconds."""
    return {
        f"{kind}_{which}_ms": load.seen[f"{kind}_{which}_us"] / 1000
        for which in ("p50", "p90", "p99", "max")
        if f"{kind}_{which}_us" in load.seen
    }


def _per_transfer(load: Load) -> Figures:
    return {"cpu_ms": load.cpu_s / max(1, load.seen["requests"]) * 1000}
