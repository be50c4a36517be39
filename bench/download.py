"""How fast a download through loopback is, beside ``curl`` for the same file.

Run ``python -m bench.download`` from the repository. A small server sends a file of random
bytes with ``sendfile``; in turns it is fetched by ``curl -o FILE``, and by the process that
``llama-router pull`` runs, which also computes the file's sha256. Both write to the same disk.

Two figures are printed for ours: the transfer alone, as the process reports it, and everything,
with the start of the process and the question what the repository holds.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
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

REPO = "bench/random-GGUF"
FILE = "random-Q8_0.gguf"
COMMIT = "c" * 40

#: What ours must reach of curl's rate.
GOAL = 0.8


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    file: Path
    sha256: str


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # type: ignore[mutable-override]  # nobody puts another one there
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with the description of the repository, or with its file."""
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
        """Keep quiet."""


def main() -> int:
    """Run the benchmark; return 1 if the goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.download", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="downloads of each kind")
    parser.add_argument("--size-mb", type=int, default=1000, help="size of the file")
    options = parser.parse_args()
    if shutil.which("curl") is None:
        print("curl is not installed")
        return 2
    with tempfile.TemporaryDirectory(prefix="llama-router-bench-") as folder:
        return measure(Path(folder), rounds=options.rounds, size_bytes=options.size_mb * 10**6)


def measure(folder: Path, *, rounds: int, size_bytes: int) -> int:
    """Measure in *folder*, print the figures, and return whether the goal is missed."""
    file = folder / FILE
    with file.open("wb") as out:
        for start in range(0, size_bytes, 10**7):
            out.write(os.urandom(min(10**7, size_bytes - start)))
    curl_s, transfer_s, all_s = [], [], []
    with _served(file) as url:
        for _ in range(rounds):
            curl_s.append(_curl(url, folder / "curl.gguf"))
            one_transfer_s, one_all_s = _ours(url, folder / "cache")
            transfer_s.append(one_transfer_s)
            all_s.append(one_all_s)
    rates = {
        name: size_bytes / statistics.median(figures) / 1e6
        for name, figures in (
            ("curl", curl_s),
            ("ours, the transfer", transfer_s),
            ("ours, everything", all_s),
        )
    }
    for name, rate in rates.items():
        share = rate / rates["curl"]
        print(f"{name:20} {rate:8.0f} MB/s {share:6.0%} of curl")
    return int(rates["ours, the transfer"] < GOAL * rates["curl"])


@contextlib.contextmanager
def _served(file: Path) -> Iterator[str]:
    """Serve *file* from a process of its own; yield the URL."""
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


def _curl(url: str, target: Path) -> float:
    target.unlink(missing_ok=True)
    started_s = time.monotonic()
    argv = ["curl", "-sS", "--noproxy", "*", "-o", str(target)]
    subprocess.run([*argv, f"{url}/{REPO}/resolve/{COMMIT}/{FILE}"], check=True)
    return time.monotonic() - started_s


def _ours(url: str, cache: Path) -> tuple[float, float]:
    """Fetch it; return the seconds of the transfer, and of everything."""
    shutil.rmtree(cache, ignore_errors=True)
    environ = os.environ | {"HF_ENDPOINT": url, "LLAMA_CACHE": str(cache), "NO_PROXY": "*"}
    started_s = resolved_s = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "llama_router.models.fetch", REPO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "resolved":
                resolved_s = time.monotonic()
            elif event["event"] == "done":
                ended_s = time.monotonic()
                return ended_s - resolved_s, ended_s - started_s
            elif event["event"] == "failed":
                raise RuntimeError(event["message"])
    raise RuntimeError("the download ended without a result")


if __name__ == "__main__":
    sys.exit(main())
