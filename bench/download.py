"""Rate of a download through loopback, beside that of ``curl`` for the same file.

A small server sends a file of random bytes with ``sendfile``. ``curl -o FILE`` and the process
that ``llama-router pull`` runs fetch it in turns and write to the same disk; the latter also
computes the file's sha256.

There are two figures of ours: the transfer alone, as the process reports it, and the total,
with the start of the process and the request for the list of files. A second thread computes
the hash: on a machine without an idle processor it slows the transfer down.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs

from bench import arguments, versions

REPO = "bench/random-GGUF"
FILE = "random-Q8_0.gguf"
COMMIT = "c" * 40

#: Least share of curl's rate.
GOAL = 0.8


@attrs.frozen
class _Run:
    """Duration and processor time of one download; the server's do not count."""

    wall_s: float
    cpu_s: float


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    file: Path
    sha256: str


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # type: ignore[mutable-override]  # only _served makes one
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send the description of the repository, or its file."""
        size_bytes = self.server.file.stat().st_size
        if not self.path.startswith("/api/"):
            self._head(size_bytes)
            with self.server.file.open("rb") as file:
                self.connection.sendfile(file)
            return
        sibling = {"rfilename": FILE, "size": size_bytes, "lfs": {"sha256": self.server.sha256}}
        document = json.dumps({"sha": COMMIT, "siblings": [sibling]}).encode()
        self._head(len(document))
        self.wfile.write(document)

    def _head(self, size_bytes: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(size_bytes))
        self.end_headers()
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.description = __doc__
    parser.add_argument("--rounds", type=arguments.count, default=5, help="downloads of each kind")
    parser.add_argument("--size-mb", type=arguments.count, default=1000, help="size of the file")


def run(options: argparse.Namespace) -> int:
    """Run the benchmark; return 1 if the goal is missed, 2 if it could not be run."""
    if shutil.which("curl") is None:
        print("curl is not installed")
        return 2
    with tempfile.TemporaryDirectory(prefix="llama-router-bench-") as folder:
        return measure(Path(folder), rounds=options.rounds, size_bytes=options.size_mb * 10**6)


def measure(folder: Path, *, rounds: int, size_bytes: int) -> int:
    """Measure in *folder* and print the figures; return 1 if the goal is missed, else 0."""
    file = folder / FILE
    with file.open("wb") as out:
        for start in range(0, size_bytes, 10**7):
            out.write(os.urandom(min(10**7, size_bytes - start)))
    runs: dict[str, list[_Run]] = {"curl": [], "ours, the transfer": [], "ours, everything": []}
    with _served(file) as url:
        for _ in range(rounds):
            runs["curl"].append(_curl(url, folder / "curl.gguf"))
            transfer, everything = _ours(url, folder / "cache")
            runs["ours, the transfer"].append(transfer)
            runs["ours, everything"].append(everything)
    print("\n".join(versions.lines({"curl": versions.of_program("curl", "--version")})))
    print(f"load average at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    shares = {}
    for name, figures in runs.items():
        # Paired: a machine that gets slower in the middle affects both.
        pairs = zip(figures, runs["curl"], strict=True)
        shares[name] = statistics.median(curl.wall_s / run.wall_s for run, curl in pairs)
        rate = size_bytes / 1e6 / statistics.median(run.wall_s for run in figures)
        cpu_s = statistics.median(run.cpu_s for run in figures) / size_bytes * 1e9
        print(f"{name:20} {rate:6.0f} MB/s {shares[name]:6.0%} of curl {cpu_s:6.2f} CPU s/GB")
    return int(shares["ours, the transfer"] < GOAL)


@contextlib.contextmanager
def _served(file: Path) -> Iterator[str]:
    """Serve *file* from another process; yield the URL."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        server = _Server(("127.0.0.1", 0), _Handler)
        server.file = file
        with file.open("rb") as data:
            server.sha256 = hashlib.file_digest(data, "sha256").hexdigest()
        os.write(writer, str(server.server_port).encode())
        os.close(writer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        threading.Event().wait()
    os.close(writer)
    try:
        yield f"http://127.0.0.1:{os.read(reader, 16).decode()}"
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(reader)


def _curl(url: str, target: Path) -> _Run:
    target.unlink(missing_ok=True)
    started_s, cpu_s = time.monotonic(), _children_cpu_s()
    argv = ["curl", "-sS", "--noproxy", "*", "-o", str(target)]
    subprocess.run([*argv, f"{url}/{REPO}/resolve/{COMMIT}/{FILE}"], check=True)
    return _Run(time.monotonic() - started_s, _children_cpu_s() - cpu_s)


def _ours(url: str, cache: Path) -> tuple[_Run, _Run]:
    """Fetch the file; return the cost of the transfer and the total cost."""
    shutil.rmtree(cache, ignore_errors=True)
    environ = os.environ | {"HF_ENDPOINT": url, "LLAMA_CACHE": str(cache), "NO_PROXY": "*"}
    started_s = resolved_s = ended_s = time.monotonic()
    cpu_s = _children_cpu_s()
    with subprocess.Popen(
        [sys.executable, "-m", "llama_router.hub.fetch", REPO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "failed":
                raise RuntimeError(event["message"])
            if event["event"] == "resolved":
                resolved_s = time.monotonic()
            ended_s = time.monotonic()
    cpu_s = _children_cpu_s() - cpu_s
    return _Run(ended_s - resolved_s, cpu_s), _Run(ended_s - started_s, cpu_s)


def _children_cpu_s() -> float:
    """Return the processor time of all reaped child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
