"""The router as a program, serving tiny models by the embedded llama.cpp server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from llama_router.models.tiny.bert import make_embedding_model
from llama_router.models.tiny.chat import make_chat_model
from llama_router.process import procfs
from tests import limits
from tests.process.harness import base_port

ROOT = Path(__file__).parents[2]

#: No test may take longer, in seconds.
LIMIT_S = limits.LIMIT_S

#: A mark of tests that run commands of the docs by which users ask the router.
NEEDS_CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

#: Chat models that `make_models` makes: file name to seed.
CHAT_SEEDS = {"a": 1, "b": 2, "c": 3}

_MODEL = """
[models.{name}]
path = "{folder}/{file}.gguf"
args = {arguments}
"""


def make_models(factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the chat models a, b and c and the embedding model ``embedder``.

    They are made once per test run.
    """
    folder = factory.getbasetemp() / "real-models"
    folder.mkdir(exist_ok=True)
    for name, seed in CHAT_SEEDS.items():
        if not (path := folder / f"{name}.gguf").exists():
            make_chat_model(path, name=name, seed=seed)
    if not (path := folder / "embedder.gguf").exists():
        make_embedding_model(path)
    return folder


#: A program that is ready at once and whose streams begin, but never end.
_ENDLESS = """
import http.server, subprocess, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b"data: {}\\n\\n")
        threading.Event().wait()

    def log_message(self, *_):
        pass

for arguments in sys.argv[2:]:
    subprocess.Popen([sys.executable, "-I", "-S", "-c", arguments])
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def endless_table(folder: Path, name: str, *children: str) -> str:
    """Return the TOML table of a model whose streams never end, and write its program.

    Args:
        folder: Where the program is written.
        name: The model.
        children: Python source of programs that the backend starts.
    """
    return program_table(folder, name, _ENDLESS, *children)


def program_table(folder: Path, name: str, source: str, *arguments: str) -> str:
    """Return the TOML table of a model that a Python program serves, and write the program.

    Args:
        folder: Where the program is written.
        name: The model.
        source: The program; its first argument is its port.
        arguments: Further ones.
    """
    script = folder / f"{name}.py"
    script.write_text(source)
    command = [sys.executable, "-I", str(script), "$port", *arguments]
    return f"\n[models.{name}]\nspawn.command = {json.dumps(command)}\n"


def model_table(
    folder: Path, name: str, *lines: str, file: str | None = None, args: Iterable[str] = ()
) -> str:
    """Return the TOML table of a model; *lines* are added as they are."""
    table = _MODEL.format(
        name=name, folder=folder, file=file or name, arguments=json.dumps(list(args))
    )
    return table + "".join(f"{line}\n" for line in lines)


@cache
def _base_port_of(folder: Path) -> int:
    """Return the same port each time: a configuration that is written again keeps it."""
    return base_port()


def write_config(folder: Path, *tables: str, router: Iterable[str] = ()) -> Path:
    """Write ``router.toml`` with these tables; its state goes to ``folder/state``."""
    path = folder / "router.toml"
    lines = ["[router]", f'state_dir = "{folder}/state"', *router]
    if not any(line.startswith("base_port") for line in router):
        lines.append(f"base_port = {_base_port_of(folder)}")
    if not any(line.startswith("scan_caches") for line in router):
        lines.append("scan_caches = false")  # those of whoever runs the tests
    path.write_text("\n".join(lines) + "\n" + "".join(tables))
    return path


def environment(**changes: str) -> dict[str, str]:
    """Return the environment in which the program under test runs."""
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | changes


def home(folder: Path) -> dict[str, str]:
    """Return the variables by which *folder* is the home; an empty one counts as unset."""
    unset = ("XDG_CACHE_HOME", "XDG_STATE_HOME", "HF_HOME", "HF_HUB_CACHE", "LLAMA_CACHE")
    return dict.fromkeys(unset, "") | {
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }


def chat(model: str, *, max_tokens: int = 4, **more: object) -> dict[str, Any]:
    """Return the body of a chat request."""
    messages = [{"role": "user", "content": "what do you see"}]
    return {"model": model, "messages": messages, "max_tokens": max_tokens, **more}


class Served:
    """A router that can be asked at *url*."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self) -> httpx.AsyncClient:
        """Return an HTTP client for this router."""
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=LIMIT_S)

    async def loaded(self) -> list[str]:
        """Return the models that it says are loaded."""
        async with self.client() as client:
            listed = (await client.get("/v1/models")).json()["data"]
        return [model["id"] for model in listed if model["status"]["value"] == "loaded"]


class Shared(Served):
    """A router that several tests ask; its admin token is in *token*."""

    def __init__(self, url: str, token: Path) -> None:
        super().__init__(url)
        self._token = token

    async def unload(self) -> None:
        """Stop all models."""
        async with self.client() as client:
            client.headers["x-admin-token"] = self._token.read_text().strip()
            for model in (await client.get("/admin/status")).json()["models"]:
                answer = await client.post("/admin/models/unload", json={"model": model["id"]})
                assert answer.status_code == 200, answer.text
        assert await self.loaded() == []


class RealRouter(Served):
    """A router that runs as a process of this test's own.

    Attributes:
        process: The process.
        events: What it logged so far.
        said: Other lines on its standard error.
        url: Its base URL; set once it is ready.
    """

    def __init__(self, process: trio.Process) -> None:
        super().__init__("")
        self.process = process
        self.events: list[dict[str, Any]] = []
        self.said: list[str] = []
        self._news = trio.Event()
        self._ended = False

    async def listen(self) -> None:
        """Take in its standard error until it ends."""
        assert self.process.stderr is not None
        rest = b""
        async for data in self.process.stderr:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"{"):
                    self.events.append(json.loads(line))
                else:
                    self.said.append(line.decode())
            self._announce()
        self._ended = True
        self._announce()

    def _announce(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def event(self, name: str, *, after: int = 0, **fields: object) -> dict[str, Any]:
        """Return the first event, from the index *after* on, with that name and these fields."""
        while True:
            for event in self.events[after:]:
                if event["event"] == name and fields.items() <= event.items():
                    return event
            assert not self._ended, f"no event {name} {fields} among {self.events} {self.said}"
            await self._news.wait()

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the events with that name."""
        return [event for event in self.events if event["event"] == name]

    def family(self) -> dict[int, int]:
        """Return pid to start time of every process that it started, and of theirs."""
        pids = procfs.descendants(self.process.pid)
        times = {pid: procfs.start_time(pid) for pid in pids}
        return {pid: started for pid, started in times.items() if started is not None}

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(signum)


def alive(processes: dict[int, int]) -> set[int]:
    """Return those *processes* (pid to start time) that still run."""
    return {pid for pid, started in processes.items() if procfs.alive(pid, started)}


async def run_cli(
    *arguments: str, folder: Path, **changes: str
) -> subprocess.CompletedProcess[bytes]:
    """Run ``llama-router`` with these arguments to its end, in *folder* as its home."""
    return await _finished(arguments, folder, changes, typed=b"")


async def said(folder: Path, *words: str, typed: bytes = b"") -> tuple[int, str, str]:
    """Run a command with the configuration in *folder*; return status, output and errors.

    What is *typed* comes on a pipe.
    """
    done = await _finished((*words, "-c", str(folder / "router.toml")), folder, {}, typed=typed)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


async def _finished(
    arguments: Iterable[str], folder: Path, changes: dict[str, str], *, typed: bytes
) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [sys.executable, "-m", "llama_router", *arguments],
        stdin=typed,
        cwd=folder,
        env=environment(**(home(folder) | changes)),
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


@asynccontextmanager
async def started(
    config: Path,
    *arguments: str,
    launcher: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    **changes: str,
) -> AsyncIterator[RealRouter]:
    """Start ``serve``; at the end it is killed if it still runs, and so is all it started.

    Args:
        config: The configuration; a folder that is its home if there is none.
        arguments: Further ones of the command.
        launcher: A program that executes what follows it.
        pass_fds: Descriptors that it inherits.
        changes: Of the environment.
    """
    named = ["--config", str(config)]
    folder = config.parent
    if config.suffix != ".toml":
        named, folder = [], config
    process = await trio.lowlevel.open_process(
        [*launcher, sys.executable, "-m", "llama_router", "serve", *named, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(**(home(folder) | changes)),
        cwd=folder,
        pass_fds=pass_fds,
    )
    router = RealRouter(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.listen)
        try:
            yield router
        finally:
            family = router.family()
            if process.poll() is None:
                process.kill()
            for pid in alive(family):
                os.kill(pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):  # it was killed
                await process.wait()
            nursery.cancel_scope.cancel()
    assert process.stderr is not None
    await process.stderr.aclose()


@asynccontextmanager
async def serving(
    config: Path,
    *arguments: str,
    exit_status: int = 0,
    launcher: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    **changes: str,
) -> AsyncIterator[RealRouter]:
    """Run a router on a free port, see `started`; SIGTERM must end it and all it started."""
    async with started(
        config, "--port", "0", *arguments, launcher=launcher, pass_fds=pass_fds, **changes
    ) as router:
        router.url = (await router.event("router.ready"))["urls"][0]
        yield router
        family = router.family()
        if router.process.poll() is None:
            router.signal(signal.SIGTERM)
        assert await router.process.wait() == exit_status, (router.said, router.events[-5:])
        assert alive(family) == set()
        assert not [said for said in router.said if "Traceback" in said], router.said


@contextmanager
def shared(
    factory: pytest.TempPathFactory, *tables: str, router: Iterable[str] = ()
) -> Iterator[Shared]:
    """Run one router for the tests of a module that do no more than ask it; see `serving`.

    Each test has a Trio run of its own; that of the router is in a thread beside them. Tests
    may load and unload models. What they change otherwise, others would see: such a test, and
    one that looks at events, starts a router of its own.
    """
    config = write_config(factory.mktemp("shared"), *tables, router=router)
    ready: Future[tuple[str, Callable[[], None]]] = Future()

    async def run() -> None:
        async with serving(config) as running:
            end = trio.Event()
            token = trio.lowlevel.current_trio_token()
            ready.set_result((running.url, lambda: token.run_sync_soon(end.set)))
            await end.wait()

    with ThreadPoolExecutor(1) as pool:
        ended: Future[None] = pool.submit(trio.run, run)
        futures: list[Future[Any]] = [ready, ended]
        wait(futures, return_when=FIRST_COMPLETED)
        if not ready.done():
            ended.result()
        url, end = ready.result()
        try:
            yield Shared(url, config.parent / "state" / "admin-token")
        finally:
            end()
        ended.result()
