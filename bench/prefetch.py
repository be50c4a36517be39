"""The time from the last byte of one model's answer to the next model's readiness.

One model answers for some seconds; meanwhile a request for a large one waits, whose file is not in
the page cache. Three routers take turns in each round: one reads nothing ahead, one reads the file
while it waits, and one has memory for both models, so it loads the next one beside the other.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import httpx

from bench import arguments, versions
from bench.programs import HOST, StartError, end_of
from bench.results import Results
from bench.swap.ask import AskError, ask
from bench.swap.contestants import FIXED, events_in
from bench.variants import WORKLOAD, cell, measure_in_turns, running, write_json
from llama_router.models.tiny.chat import make_chat_model

#: The names of the three routers, and what each has in ``[scheduler]``.
KINDS: Final = {
    "without": "prefetch = false",
    "with": "prefetch = true",
    "beside": 'policy = "memory"',
}

#: Answers for the seconds that its request names: ``python -c SCRIPT PORT``.
_BUSY: Final = """\
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        time.sleep(float(self.rfile.read(length).split(b"busy ")[1].split(b" s")[0]))
        self.do_GET()

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""

#: The admin token of the routers.
_TOKEN: Final = "only-for-the-benchmark"

#: Seconds to wait for an event in the log.
_EVENT_S: Final = 300.0
_POLL_S: Final = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--rounds", type=arguments.count, default=5, help="swaps of each kind")
    parser.add_argument(
        "--size-mb", type=arguments.size, default=1000, help="size of the next model (1000)"
    )
    parser.add_argument(
        "--busy-s", type=arguments.seconds, default=5.0, help="length of the answer (5)"
    )
    parser.add_argument("--json", type=arguments.file, help="write every figure to this file")


def run(options: argparse.Namespace) -> int:
    """Measure and report; return 1 if anything failed."""
    results = Results()
    problems: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="llama-router-bench-") as folder,
        contextlib.ExitStack() as stack,
    ):
        model = Path(folder) / "next.gguf"
        make_chat_model(model, name="next", seed=1, size_mb=options.size_mb)
        try:
            routers = [stack.enter_context(_running(Path(folder), kind, model)) for kind in KINDS]
        except StartError as error:
            print(f"bench prefetch: {error}", file=sys.stderr)
            return 1
        measure_in_turns(
            routers,
            options.rounds,
            lambda router, _: router.swap(options.busy_s),
            results,
            problems,
        )
    print("\n".join(_report(results, problems, options)))
    write_json(options, results, problems, size_mb=options.size_mb, busy_s=options.busy_s)
    return int(bool(problems))


@attrs.define(eq=False)
class _Router:
    """One running router.

    Attributes:
        kind: One of `KINDS`.
        port: Its port.
        log: Its log.
        model: The file of the next model.
    """

    kind: str
    port: int
    log: Path
    model: Path
    _seen: int = 0

    def swap(self, busy_s: float) -> dict[str, float]:
        """Return the figures of one swap from the busy model to the next one, in seconds.

        Raises:
            AskError: if a request fails.
            StartError: if the router does not log what it should.
        """
        _ask_busy(self.port, 0)  # so that it is loaded
        is_cold = drop_from_cache(self.model)
        self._seen = len(events_in(self.log))
        failures: list[AskError] = []
        ended_s: list[float] = []

        def be_busy() -> None:
            try:
                _ask_busy(self.port, busy_s)
            except AskError as error:
                failures.append(error)
            ended_s.append(time.time())

        busy = threading.Thread(target=be_busy)
        busy.start()
        self._wait_for_busy()
        ask(self.port, "next")
        answered_s = time.time()
        busy.join()
        if failures:
            raise failures[0]
        ready_s = self._time_of("backend.ready", "next")
        # What a process maps stays in the cache, and the file is that of all routers.
        _post(self.port, "/admin/models/unload", {"model": "next"})
        return {
            "ready_s": ready_s - ended_s[0],
            "answer_s": answered_s - ended_s[0],
            "cold": float(is_cold),
        }

    def _wait_for_busy(self) -> None:
        """Wait until the answer has begun."""
        while True:
            models = _request("GET", self.port, "/admin/status").json()["models"]
            if any(each["id"] == "busy" and each["in_flight"] for each in models):
                return
            time.sleep(_POLL_S)

    def _time_of(self, event: str, model: str) -> float:
        give_up_s = time.perf_counter() + _EVENT_S
        while time.perf_counter() < give_up_s:
            for each in events_in(self.log)[self._seen :]:
                if each["event"] == event and each.get("model") == model:
                    return dt.datetime.fromisoformat(each["ts"]).timestamp()
            time.sleep(_POLL_S)
        raise StartError(f"{event} of {model} is not in the log: {end_of(self.log)}")


@contextlib.contextmanager
def _running(folder: Path, kind: str, model: Path) -> Iterator[_Router]:
    """Run one of the routers; end it on exit.

    Raises:
        StartError: if it does not come up.
    """
    script = folder / "busy.py"
    script.write_text(_BUSY)
    lines = [
        f'admin_token = "{_TOKEN}"',
        "[scheduler]",
        "swap_patience = 0",
        KINDS[kind],
        "[models.busy]",
        "memory_mib = 64",
        f"spawn.command = {json.dumps([sys.executable, str(script), '$port'])}",
        "[models.next]",
        f'path = "{model}"',
        f"args = {json.dumps(FIXED)}",
    ]
    with running(folder, kind, lines) as (port, log):
        yield _Router(kind, port, log, model)


def _ask_busy(port: int, busy_s: float) -> None:
    messages = [{"role": "user", "content": f"busy {busy_s} s"}]
    _post(port, "/v1/chat/completions", {"model": "busy", "messages": messages})


def _post(port: int, path: str, body: object) -> None:
    _request("POST", port, path, body)


def _request(method: str, port: int, path: str, body: object = None) -> httpx.Response:
    """Send a request as the operator; return the response.

    Raises:
        AskError: if it fails.
    """
    try:
        response = httpx.request(
            method,
            f"http://{HOST}:{port}{path}",
            headers={"Authorization": f"Bearer {_TOKEN}"},
            timeout=_EVENT_S,
            trust_env=False,
            json=body,
        )
        return response.raise_for_status()
    except httpx.HTTPError as error:
        raise AskError(f"{path}: {error}") from error


def drop_from_cache(path: Path) -> bool:
    """Take a file out of the page cache; return whether its middle is out of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.preadv(descriptor, [bytearray(1)], path.stat().st_size // 2, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _report(results: Results, problems: list[str], options: argparse.Namespace) -> Iterator[str]:
    yield from versions.lines()
    yield (
        f"a model of {options.size_mb:g} MB from a cold cache, behind an answer of "
        f"{options.busy_s:g} s; seconds from its last byte, medians (least to most) of "
        f"{options.rounds} rounds in turns"
    )
    yield f"{'prefetch':<12}{'until ready':>24}{'until the answer':>24}"
    for kind in KINDS:
        cells = (cell(results, kind, figure) for figure in ("ready_s", "answer_s"))
        yield f"{kind:<12}" + "".join(f"{text:>24}" for text in cells)
    cold = [cold for kind in KINDS for cold in results.series(WORKLOAD, kind, "cold")]
    if not all(cold):
        yield "this file system keeps files in memory: the cache was not cold in every round"
    yield from (f"problem: {problem}" for problem in problems)
