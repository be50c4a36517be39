"""How much a swap through the router costs over the same swap by hand.

Run ``python -m bench swap`` from the repository. Both ways swap between the same two
models with the same command lines, in turns:

* router: a chat request (one token, not streamed) for the model that is not loaded, from
  the moment it is sent to its complete answer;
* by hand: SIGTERM to the one server, wait for its exit, start the other, ask ``/health``
  every 2 ms until it is 200, then send it the same request.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import attrs

from llama_router.backends.environment import find_program, inherited
from llama_router.config_file import load_config
from llama_router.core import placeholders
from llama_router.models import tiny

ROOT = Path(__file__).parents[1]
MODELS = {"a": 1, "b": 2}
POLL_S = 0.002
HOST = "127.0.0.1"

#: Pause before each swap, in seconds: a server's threads keep a processor busy for a
#: while after their last token, and would disturb whoever is next.
SETTLE_S = 0.3

#: What the router may cost on top, as the median of the paired differences, in seconds.
GOAL_S = 0.015

_LIMIT_S = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say which options there are."""
    parser.add_argument("--rounds", type=int, default=20, help="swaps of each kind")
    parser.add_argument("--size-mb", type=float, default=0, help="size of each model; 0 is tiny")
    parser.add_argument("--json", type=Path, help="write every figure to this file")


def run(options: argparse.Namespace) -> int:
    """Run the benchmark; return 1 if the goal is missed."""
    with tempfile.TemporaryDirectory(prog_name()) as folder:
        figures = measure(Path(folder), rounds=options.rounds, size_mb=options.size_mb)
    difference_s = report(figures, size_mb=options.size_mb)
    if options.json is not None:
        options.json.write_text(json.dumps(attrs.asdict(figures), indent=1))
    return int(difference_s > GOAL_S)


def prog_name() -> str:
    """Return how temporary folders of this benchmark begin."""
    return "llama-router-bench-"


@attrs.define
class Figures:
    """Seconds, one entry per swap; entries of the same index were measured one after the other.

    Attributes:
        router_s: Request sent to answer complete, through the router.
        hand_s: SIGTERM to answer complete, by hand.
        hand_stop_s: The part of it from SIGTERM to the confirmed exit.
        hand_load_s: The part of it from the start of the server to /health 200.
        hand_ask_s: The rest: one request to a server that is ready.
        queue_s: What the router's log says of the wait before the load.
        load_s: What it says of the load.
        ttft_s: What it says of the time to the first byte of the answer.
        duration_s: What it says of the whole request.
    """

    router_s: list[float] = attrs.field(factory=list)
    hand_s: list[float] = attrs.field(factory=list)
    hand_stop_s: list[float] = attrs.field(factory=list)
    hand_load_s: list[float] = attrs.field(factory=list)
    hand_ask_s: list[float] = attrs.field(factory=list)
    queue_s: list[float] = attrs.field(factory=list)
    load_s: list[float] = attrs.field(factory=list)
    ttft_s: list[float] = attrs.field(factory=list)
    duration_s: list[float] = attrs.field(factory=list)


def measure(folder: Path, *, rounds: int, size_mb: float) -> Figures:
    """Make the models in *folder* and swap them, by hand and through the router in turns."""
    for name, seed in MODELS.items():
        tiny.make_chat_model(folder / f"{name}.gguf", name=name, seed=seed, size_mb=size_mb)
    figures = Figures()
    with running_router(folder) as (router, log), Hand(folder / "router.toml") as hand:
        port = router_port(log)
        for name in MODELS:  # once unmeasured: the files are in memory afterwards
            ask(port, name)
            hand.swap(name, Figures())
        for number in range(rounds):
            name = list(MODELS)[number % len(MODELS)]
            # Who is second might profit from the first: take turns.
            ways = [partial(hand.swap, name, figures), partial(swap_by_router, port, name, figures)]
            for way in ways if number // len(MODELS) % 2 else reversed(ways):
                time.sleep(SETTLE_S)
                way()
        router.send_signal(signal.SIGTERM)
        if status := router.wait(_LIMIT_S):
            raise RuntimeError(f"the router ended with status {status}")
    take_from_log(figures, log, rounds)
    return figures


# -- through the router -------------------------------------------------------------------


def swap_by_router(port: int, name: str, figures: Figures) -> None:
    """Ask the router for the model *name*; add the time to *figures*."""
    begun_s = time.perf_counter()
    ask(port, name)
    figures.router_s.append(time.perf_counter() - begun_s)


@contextlib.contextmanager
def running_router(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a router for the models in *folder*; yield it and the file of its log."""
    config, log = folder / "router.toml", folder / "log.jsonl"
    lines = ["[router]", "port = 0", f'state_dir = "{folder}/state"', "min_residency_s = 0"]
    for name in MODELS:
        lines += [f"[models.{name}]", f'path = "{folder}/{name}.gguf"']
    config.write_text("\n".join(lines) + "\n")
    with log.open("wb") as sink:
        router = subprocess.Popen(
            [sys.executable, "-m", "llama_router", "serve", "--config", str(config)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stderr=sink,
        )
    try:
        yield router, log
    finally:
        router.terminate()
        router.wait(_LIMIT_S)


def router_port(log: Path) -> int:
    """Wait until the router is ready; return its port."""
    for _ in range(round(_LIMIT_S / 0.05)):
        for event in events(log):
            if event["event"] == "router.ready":
                return int(event["urls"][0].rpartition(":")[2])
        time.sleep(0.05)
    raise RuntimeError(f"the router is not ready; its log: {log.read_text()}")


def events(log: Path) -> list[dict[str, Any]]:
    """Return the complete lines of the log."""
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def take_from_log(figures: Figures, log: Path, rounds: int) -> None:
    """Fill in what the router logged of its last *rounds* requests."""
    completed = [event for event in events(log) if event["event"] == "request.completed"]
    for event in completed[-rounds:]:
        figures.queue_s.append(event["queue_s"])
        figures.load_s.append(event["load_s"])
        figures.ttft_s.append(event["ttft_s"])
        figures.duration_s.append(event["duration_s"])


# -- by hand ------------------------------------------------------------------------------


class Hand:
    """Runs one server at a time, with the command lines that the router would use."""

    def __init__(self, config: Path) -> None:
        self._models = load_config(config).config.models
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop()

    def swap(self, name: str, figures: Figures) -> None:
        """Swap to the model *name* and ask it; add the times to *figures*."""
        port = free_port()
        begun_s = time.perf_counter()
        self._stop()
        stopped_s = time.perf_counter()
        self._start(name, port)
        while not healthy(port):
            time.sleep(POLL_S)
        ready_s = time.perf_counter()
        ask(port, name)
        end_s = time.perf_counter()
        figures.hand_stop_s.append(stopped_s - begun_s)
        figures.hand_load_s.append(ready_s - stopped_s)
        figures.hand_ask_s.append(end_s - ready_s)
        figures.hand_s.append(end_s - begun_s)

    def _start(self, name: str, port: int) -> None:
        spec = next(spec for model, spec in self._models.items() if model == name)
        argv = find_program(placeholders.command_line(spec, port=port, host=HOST)).argv
        self._process = subprocess.Popen(
            argv,
            env=inherited(os.environ) | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None


def free_port() -> int:
    """Return a port that nobody uses at the moment."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def healthy(port: int) -> bool:
    """Ask /health once."""
    with contextlib.suppress(OSError):
        return exchange(port, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    return False


def ask(port: int, model: str) -> None:
    """Send a chat request for one token and take the whole answer."""
    messages = [{"role": "user", "content": "Hello"}]
    body = json.dumps({"model": model, "messages": messages, "max_tokens": 1}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    if not exchange(port, head.encode() + body):
        raise RuntimeError(f"the request for {model} failed")


def exchange(port: int, request: bytes) -> bool:
    """Send *request* and read until the server closes; return whether it answered 200."""
    with socket.create_connection((HOST, port), timeout=_LIMIT_S) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer.startswith(b"HTTP/1.1 200 ")


# -- the table ----------------------------------------------------------------------------


def report(figures: Figures, *, size_mb: float) -> float:
    """Print the table; return the median of the paired differences, in seconds."""
    pairs = zip(figures.router_s, figures.hand_s, strict=True)
    differences_s = [router_s - hand_s for router_s, hand_s in pairs]
    rows = {
        "swap by hand": figures.hand_s,
        "  SIGTERM to exit": figures.hand_stop_s,
        "  exec to /health 200": figures.hand_load_s,
        "  request to answer": figures.hand_ask_s,
        "swap through the router": figures.router_s,
        "  queue_s (its log)": figures.queue_s,
        "  load_s": figures.load_s,
        "  ttft_s": figures.ttft_s,
        "  duration_s": figures.duration_s,
        "router minus by hand": differences_s,
    }
    size = f"{size_mb:g} MB" if size_mb else "tiny"
    print(f"{len(figures.router_s)} rounds, {size} models, milliseconds")
    # On a busy machine the best tenth says more than the median.
    print(f"{'':<26}{'median':>9}{'min':>9}{'10 %':>9}{'max':>9}")
    for name, values in rows.items():
        tenth = sorted(values)[len(values) // 10]
        cells = (statistics.median(values), min(values), tenth, max(values))
        print(f"{name:<26}" + "".join(f"{value * 1000:9.1f}" for value in cells))
    difference_s = statistics.median(differences_s)
    verdict = "met" if difference_s <= GOAL_S else "MISSED"
    print(f"goal: at most {GOAL_S * 1000:g} ms more than by hand: {verdict}")
    return difference_s
