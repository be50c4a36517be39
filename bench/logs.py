"""Latency and memory of the router while a backend floods its log.

Run ``python -m bench logs`` from the repository. One backend prints 100 000 lines a second,
each with its own write, as llama-server does. A client follows its log through the admin API,
and another requests ``/health`` 200 times a second on one connection. At the end the follower
must have got every line that was printed, or a count of omitted lines that includes it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import httpx

from bench import arguments, versions

ROOT = Path(__file__).parents[1]

#: The goals.
P99_S = 0.020
GROWTH_MIB = 4.0

_ASK_EVERY_S = 0.005
_LIMIT_S = 60.0
_END = "the end"
_COUNT = re.compile(r"^… (\d+) lines (?:\(.*\) dropped|not shown: )")

_WRITER = """
import os, sys, time
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
line = b"x" * 79 + b"\\n"
begun_s = time.perf_counter()
lines = 0
while (passed_s := time.perf_counter() - begun_s) < seconds:
    due = int(passed_s * rate) - lines
    for _ in range(due):
        os.write(1, line)
    lines += due
    time.sleep(0.0005)
os.write(1, b"the end after %d lines\\n" % lines)
"""

_BACKEND = """
import http.server, subprocess, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.connection.setsockopt(6, 1, 1)  # TCP_NODELAY

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        subprocess.Popen([sys.executable, "-I", "-S", "-c", *sys.argv[2:]])
        self.do_GET()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@attrs.define
class Figures:
    """The figures of one run.

    Attributes:
        quiet_s: Latencies of /health while nothing is printed, in seconds.
        flooded_s: The same during the flood.
        rss_mib: Memory of the router during the flood, every half second.
        cpu_s: Processor time of the router during the flood.
        printed: Lines that the backend printed.
        seen: Lines that the follower got.
        counted: Lines that the follower was told were omitted.
        flood_s: Duration of the flood, in seconds.
    """

    quiet_s: list[float] = attrs.field(factory=list)
    flooded_s: list[float] = attrs.field(factory=list)
    rss_mib: list[float] = attrs.field(factory=list)
    cpu_s: float = 0.0
    printed: int = 0
    seen: int = 0
    counted: int = 0
    flood_s: float = 0.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rate", type=arguments.count, default=100_000, help="lines per second")
    parser.add_argument("--seconds", type=arguments.seconds, default=20.0, help="of the flood")
    parser.add_argument("--json", type=arguments.file, help="write every figure to this file")


def run(options: argparse.Namespace) -> int:
    """Run the benchmark; return 1 if a goal is missed."""
    with tempfile.TemporaryDirectory(prefix="llama-router-bench-") as folder:
        figures = measure(Path(folder), rate=options.rate, seconds=options.seconds)
    if options.json is not None:
        document = {"versions": versions.machine(), **attrs.asdict(figures)}
        options.json.write_text(json.dumps(document, indent=1))
    return 0 if report(figures) else 1


def measure(folder: Path, *, rate: int, seconds: float) -> Figures:
    """Run a router in *folder* with a backend that prints; return the figures."""
    command = [sys.executable, "-I", "-S", "-c", _BACKEND, "$port"]
    command += [_WRITER.replace("$", "$$"), str(rate), str(seconds)]
    (folder / "router.toml").write_text(
        f'[router]\nport = 0\nstate_dir = "state"\nscan_caches = false\n'
        f"[models.noisy]\nspawn.command = {json.dumps(command)}\n"
    )
    figures = Figures()
    with running_router(folder) as (process, url):
        token = (folder / "state" / "admin-token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(
            base_url=url, headers=headers, trust_env=False, timeout=_LIMIT_S
        ) as client:
            client.post("/admin/models/load", json={"model": "noisy"}).raise_for_status()
            follower = Follower(url, headers, figures)
            follower.start()
            figures.quiet_s = ask_health(
                url, until=lambda begun_s: time.perf_counter() - begun_s > 3
            )
            cpu_s = cpu_of(process.pid)
            begun_s = time.perf_counter()
            client.post("/v1/go", json={"model": "noisy"}).raise_for_status()
            watch = threading.Thread(target=watch_memory, args=(process.pid, figures, follower))
            watch.start()
            figures.flooded_s = ask_health(url, until=lambda _: follower.done.is_set())
            figures.flood_s = time.perf_counter() - begun_s
            figures.cpu_s = cpu_of(process.pid) - cpu_s
            watch.join()
            if follower.error is not None:
                raise follower.error
    return figures


class Follower(threading.Thread):
    """A thread that follows the log and counts its lines."""

    def __init__(self, url: str, headers: dict[str, str], figures: Figures) -> None:
        super().__init__(daemon=True)
        self.done = threading.Event()
        self.error: Exception | None = None
        self._url = url
        self._headers = headers
        self._figures = figures

    def run(self) -> None:
        """Read until the last line."""
        try:
            self._follow()
        except Exception as exc:  # noqa: BLE001 -- measure() raises it again
            self.error = exc
        finally:
            self.done.set()

    def _follow(self) -> None:
        target = f"{self._url}/admin/logs/noisy?follow=1&tail=0"
        with httpx.stream(
            "GET", target, headers=self._headers, trust_env=False, timeout=_LIMIT_S
        ) as answer:
            for line in answer.iter_lines():
                record = json.loads(line)
                if "by" in record:
                    if found := _COUNT.match(record["line"]):
                        self._figures.counted += int(found[1])
                elif record["line"].startswith(_END):
                    self._figures.printed = int(record["line"].split()[3])
                    return
                else:
                    self._figures.seen += 1


def ask_health(url: str, *, until: Callable[[float], bool]) -> list[float]:
    """Request /health every 5 ms on one connection; return the latencies in seconds."""
    host, _, port = url.removeprefix("http://").partition(":")
    request = b"GET /health HTTP/1.1\r\nHost: router\r\n\r\n"
    took_s: list[float] = []
    begun_s = time.perf_counter()
    with socket.create_connection((host, int(port)), timeout=_LIMIT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due_s = begun_s
        while not until(begun_s):
            due_s = max(due_s + _ASK_EVERY_S, time.perf_counter())
            time.sleep(max(0.0, due_s - time.perf_counter()))
            asked_s = time.perf_counter()
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"\r\n\r\nok"):
                data = connection.recv(4096)
                if not data:
                    raise RuntimeError(f"the connection ended after {answer!r}")
                answer += data
            took_s.append(time.perf_counter() - asked_s)
    return took_s


def watch_memory(pid: int, figures: Figures, follower: Follower) -> None:
    """Record the memory of *pid* every half second."""
    while not follower.done.wait(0.5):
        status = Path(f"/proc/{pid}/status").read_text()
        figures.rss_mib.append(int(status.partition("VmRSS:")[2].split()[0]) / 1024)


def cpu_of(pid: int) -> float:
    """Return the processor time that *pid* has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running_router(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a router; yield it and its URL once it is ready."""
    with (folder / "router.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "llama_router", "serve"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stderr=log,
        )
    try:
        yield process, ready_url(folder / "router.log", process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_LIMIT_S)


def ready_url(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Return the URL that the router logs once it is ready."""
    deadline_s = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"router.ready"' in line:
                return str(json.loads(line)["urls"][0])
        time.sleep(0.05)
    raise RuntimeError(f"the router is not ready: {log.read_text()}")


def report(figures: Figures) -> bool:
    """Print the figures; return whether all goals are met."""
    print("\n".join(versions.lines()))
    lines_per_s = figures.printed / figures.flood_s
    print(f"{figures.printed} lines in {figures.flood_s:.1f} s: {lines_per_s:,.0f} lines/s")
    for what, took_s in (("quiet", figures.quiet_s), ("flood", figures.flooded_s)):
        p99_s = percentile(took_s, 99)
        print(
            f"/health, {what}: median {statistics.median(took_s) * 1000:.2f} ms, "
            f"p99 {p99_s * 1000:.2f} ms, most {max(took_s) * 1000:.2f} ms ({len(took_s)} asked)"
        )
    print(f"router: {figures.cpu_s / figures.flood_s * 100:.0f} % of a processor")
    # The buffers of the log fill in the first seconds.
    settled = figures.rss_mib[len(figures.rss_mib) // 4 :]
    growth_mib = settled[-1] - settled[0]
    print(f"memory: {settled[0]:.1f} to {settled[-1]:.1f} MiB, most {max(settled):.1f} MiB")
    missing = figures.printed - figures.seen - figures.counted
    print(
        f"follower: {figures.seen} lines seen, {figures.counted} counted as left out, "
        f"{missing} unaccounted for"
    )
    goals = {
        f"/health p99 below {P99_S * 1000:.0f} ms": percentile(figures.flooded_s, 99) < P99_S,
        f"memory grows by less than {GROWTH_MIB:.0f} MiB": growth_mib < GROWTH_MIB,
        "every line is accounted for": missing == 0,
    }
    for goal, met in goals.items():
        print(f"{'met' if met else 'MISSED'}: {goal}")
    return all(goals.values())


def percentile(values: list[float], percent: int) -> float:
    """Return the value that *percent* per cent of *values* do not exceed."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]
