"""A real router in the test's own process, its scripted backends, and raw clients."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from llama_router.config.load import LoadedConfig
from llama_router.core.config.parse import parse_config
from llama_router.core.scheduling.model_entry import ModelStatistics
from llama_router.process import procfs
from llama_router.supervisor.running_router import RouterSignals, RunningRouter
from llama_router.supervisor.tree import run_router
from tests import limits
from tests.events import KeptEvents

#: No test may take longer, in seconds.
LIMIT_S = limits.LIMIT_S

FAKE_BACKEND = Path(__file__).with_name("fake_backend.py")

#: Events of which each is a bug, wherever it comes up.
BUGS = {"connection.crashed", "control.crashed", "log.listener_failed"}

#: Ports of one process that runs tests: below the range that the kernel gives to clients.
_PORTS_EACH = 200
_SHARES = 100
_FIRST_PORT = 10_000

#: How many of its ports are kept for routers; the others are for their backends.
_FOR_ROUTERS = 50

_starts = count()
_wanted = count()


def own_ports() -> range:
    """Return the ports that only this process's tests use, of all that run tests.

    Those of one run have shares side by side, and those of runs at the same time lie apart: a
    later run has a process id beyond those of the earlier one's workers.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    share = os.getpid() if worker is None else os.getppid() + int(worker.removeprefix("gw"))
    first = _FIRST_PORT + share % _SHARES * _PORTS_EACH
    return range(first, first + _PORTS_EACH)


def base_port() -> int:
    """Return a port from which on a router of this process finds free ones."""
    ports = own_ports()[_FOR_ROUTERS:]
    return ports[next(_starts) * 3 % (len(ports) // 2)]


def free_port() -> int:
    """Return a port on which nothing listens, and which no client gets meanwhile."""
    for _ in range(_FOR_ROUTERS):
        port = own_ports()[next(_wanted) % _FOR_ROUTERS]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    return pytest.fail("no free port")


def children() -> set[int]:
    """Return the child processes of this one, those included that nobody waited for."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that just ended
            found.update(map(int, (task / "children").read_text().split()))
    return found


def described(pid: int) -> str:
    """Return name, state and group of the process *pid*, and ours, as far as it is there."""
    try:
        name, _, fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")
    except OSError as exc:
        return f"ended meanwhile: {exc}"
    state, _, group = fields.split()[:3]
    return f"{name}) {state}, process group {group}"


def reaped(pid: int) -> bool:
    """Reap *pid* if it has ended and was no child of ours; return whether it was so.

    Each child of a router leads a process group. What does not is a grandchild, which came to
    this process when its parent ended: ``ldconfig``, which a worker runs as it imports Trio. A
    router that owns its process reaps such, and those of these tests do not own theirs.
    """
    try:
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(") ")[2].split()
        if fields[0] != "Z" or int(fields[2]) == pid:
            return False
        os.waitpid(pid, os.WNOHANG)
    except OSError:
        return False
    return True


def start_time(pid: int) -> int:
    """Return when the process *pid*, which is there, was started."""
    started = procfs.start_time(pid)
    assert started is not None
    return started


class Events(KeptEvents):
    """Everything that is logged, and a way to wait for more."""

    def __init__(self) -> None:
        super().__init__()
        self._token = trio.lowlevel.current_trio_token()
        self._news = trio.Event()

    def take(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Keep one event; may be called on any thread."""
        if event in BUGS and fields.get("exc_info"):
            fields = {**fields, "traceback": traceback.format_exc()}
        super().take(level, event, fields)
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._notify)

    def _notify(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def named(self, event: str, **fields: object) -> list[Any]:
        """Return the events of that name and with those *fields*, oldest first."""
        return [
            entry
            for entry in self.entries
            if entry["event"] == event and fields.items() <= entry.items()
        ]

    async def wait_for_more(self, count: int, event: str, **fields: object) -> None:
        """Wait until *count* more of such events have come."""
        wanted = len(self.named(event, **fields)) + count
        while len(self.named(event, **fields)) < wanted:
            await self._news.wait()

    async def wait(self, event: str, **fields: object) -> Any:
        """Return the first such event, as soon as there is one."""
        while not (found := self.named(event, **fields)):
            await self._news.wait()
        return found[0]


# --- Backends ------------------------------------------------------------------------


class Backend:
    """One running fake backend, as the test sees it."""

    def __init__(self, stream: trio.SocketStream, port: int, pid: int) -> None:
        self.port = port
        self.pid = pid
        self.ended = trio.Event()
        self._stream = stream
        self._requests_in, self._requests = trio.open_memory_channel[dict[str, Any]](math.inf)
        self._seen: list[dict[str, Any]] = []
        self._news = trio.Event()

    def note(self, event: dict[str, Any]) -> None:
        """Take in what the backend said."""
        if event["event"] == "request":
            self._requests_in.send_nowait(event)
        self._seen.append(event)
        self._news.set()
        self._news = trio.Event()

    async def said(self, event: str, **fields: object) -> dict[str, Any]:
        """Return the first such event, as soon as there is one."""
        wanted = {"event": event, **fields}
        while True:
            for seen in self._seen:
                if wanted.items() <= seen.items():
                    return seen
            await self._news.wait()

    async def do(self, do: str, **arguments: object) -> None:
        """Send one command."""
        await self._stream.send_all(json.dumps({"do": do, **arguments}).encode() + b"\n")

    async def exit(self, code: int) -> None:
        """Make the process end, after everything that it was told before."""
        await self.do("exit", code=code)
        await self.ended.wait()

    async def request(self) -> Scripted:
        """Return the next request to ``/v1/script``."""
        event = await self._requests.receive()
        return Scripted(self, event["number"], event["body"])

    def request_nowait(self) -> Scripted:
        """Return the next request if it is here.

        Raises:
            trio.WouldBlock: if it is not.
        """
        event = self._requests.receive_nowait()
        return Scripted(self, event["number"], event["body"])


@attrs.frozen
class Scripted:
    """A request that the test answers byte by byte."""

    backend: Backend
    number: int
    body: str

    async def send(self, data: bytes) -> None:
        """Let the backend send *data*."""
        await self.backend.do("send", number=self.number, data=data.decode("latin-1"))

    async def begin_stream(self) -> None:
        """Send the head of an event stream."""
        await self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )

    async def chunk(self, data: bytes) -> None:
        """Send one chunk; an empty one ends the body."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def close(self) -> None:
        """Close the connection."""
        await self.backend.do("close", number=self.number)

    async def gone_s(self) -> float:
        """Wait until the backend saw its client leave; return when, on the monotonic clock."""
        at_s = (await self.backend.said("gone", number=self.number))["at_s"]
        assert isinstance(at_s, float)
        return at_s


class Stage:
    """Where fake backends report; makes the tables that configure them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ready: dict[str, tuple[Any, Any]] = {}

    def model(self, name: str, /, *flags: str, **table: Any) -> dict[str, Any]:
        """Return the ``[models.<name>]`` table of a fake backend.

        Args:
            name: What the backend calls itself; for `backend`.
            flags: Options of ``fake_backend.py``.
            table: Further keys; ``spawn`` may lack the command.
        """
        port = self._listener.getsockname()[1]
        command = [sys.executable, "-I", "-S", str(FAKE_BACKEND), "--port", "$port"]
        command += ["--name", name, "--control", str(port), *flags]
        spawn = {"command": command, "stop_timeout_s": 5.0, **table.pop("spawn", {})}
        return {"spawn": spawn, **table}

    def _channel(self, name: str) -> tuple[Any, Any]:
        return self._ready.setdefault(name, trio.open_memory_channel[Backend](math.inf))

    async def backend(self, name: str) -> Backend:
        """Return the next process that called itself *name*."""
        backend = await self._channel(name)[1].receive()
        assert isinstance(backend, Backend)
        return backend

    async def run(self) -> None:
        """Listen to backends until cancelled."""
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        await trio.serve_listeners(self._hear, [listener])

    async def _hear(self, stream: trio.SocketStream) -> None:
        buffer = b""
        backend: Backend | None = None
        with suppress(trio.BrokenResourceError):  # killed with unread commands
            async for data in stream:
                buffer += data
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if backend is None:
                        backend = Backend(stream, event["port"], event["pid"])
                        self._channel(event["name"])[0].send_nowait(backend)
                    backend.note(event)
        if backend is not None:
            backend.ended.set()


# --- Clients -------------------------------------------------------------------------


@attrs.frozen
class Answer:
    """One answer. *complete* says whether its body ended as its framing announced."""

    status: int
    fields: dict[str, str]
    body: bytes
    complete: bool = True

    def json(self) -> Any:
        """Return the decoded body."""
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """Return the OpenAI error object; fails if this is not one."""
        error = self.json()["error"]
        assert error.keys() - {"cause"} == {"message", "type", "code", "param"}
        return error


class RawClient:
    """Sends bytes, reads answers."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        """Send *data* as it is."""
        await self.stream.send_all(data)

    async def _more(self) -> bool:
        data = await self.stream.receive_some()
        self._buffer += data
        return bool(data)

    async def until(self, end: bytes) -> bytes:
        """Return everything up to and including *end*."""
        while end not in self._buffer:
            assert await self._more(), f"the connection ended after {self._buffer!r}"
        found, end, self._buffer = self._buffer.partition(end)
        return found + end

    async def exactly(self, size_bytes: int) -> bytes:
        """Return that many bytes, or fewer if the connection ends."""
        while len(self._buffer) < size_bytes and await self._more():
            pass
        found, self._buffer = self._buffer[:size_bytes], self._buffer[size_bytes:]
        return found

    async def rest(self) -> bytes:
        """Return everything up to the end of the connection; fails if it is reset."""
        while await self._more():
            pass
        found, self._buffer = self._buffer, b""
        return found

    async def head(self) -> Answer:
        """Return the next head, as an answer without a body."""
        first, *lines = (await self.until(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        assert first.startswith("HTTP/1.1 ")
        pairs = [line.partition(": ") for line in lines]
        fields = {name.lower(): value for name, _, value in pairs}
        assert len(fields) == len(pairs), f"a field is there twice: {lines}"
        return Answer(int(first.split(" ")[1]), fields, b"")

    async def chunk(self) -> bytes:
        """Return the payload of the next chunk; empty for the last one."""
        size = int(await self.until(b"\r\n"), 16)
        data = await self.exactly(size)
        assert await self.exactly(2) == b"\r\n"
        return data

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """Return the next answer with its body."""
        head = await self.head()
        if bodiless:
            return head
        if head.fields.get("transfer-encoding") == "chunked":
            body = b""
            while data := await self.chunk():
                body += data
            return attrs.evolve(head, body=body)
        if (length := head.fields.get("content-length")) is not None:
            body = await self.exactly(int(length))
            return attrs.evolve(head, body=body, complete=len(body) == int(length))
        return attrs.evolve(head, body=await self.rest())


def request(
    method: str, target: str, body: bytes | None = None, /, *, version: str = "1.1", **fields: str
) -> bytes:
    """Return the bytes of a request; ``_`` in the names of *fields* becomes ``-``."""
    lines = [f"{method} {target} HTTP/{version}", "host: router"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def post(target: str, model: str, **document: object) -> bytes:
    """Return the bytes of a POST with a JSON body that names *model*."""
    body = json.dumps({"model": model, **document}).encode()
    return request("POST", target, body, content_type="application/json")


# --- The router ----------------------------------------------------------------------


@attrs.define(eq=False)
class Router:
    """A running router.

    Attributes:
        running: What it reported.
        requests: How to stop and reload it.
        path: Its configuration file, which is not there until a test writes it.
        document: What that file would hold.
        events: What it logged.
        ended: Set when it has ended.
    """

    running: RunningRouter
    requests: RouterSignals
    path: Path
    document: dict[str, Any]
    events: Events
    ended: trio.Event
    _clients: list[RawClient] = attrs.field(factory=list)

    @property
    def url(self) -> str:
        """Return its base URL."""
        return self.running.urls[0]

    @property
    def port(self) -> int:
        """Return its port."""
        return int(self.url.rpartition(":")[2])

    async def connect(self) -> RawClient:
        """Return a new connection, closed at the end of the test."""
        client = RawClient(await trio.open_tcp_stream("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    async def ask(self, data: bytes) -> Answer:
        """Send one request on a connection of its own; return the answer."""
        client = await self.connect()
        try:
            await client.send(data)
            return await client.answer(bodiless=data.startswith(b"HEAD "))
        finally:
            await client.stream.aclose()

    def http(self) -> httpx.AsyncClient:
        """Return an ordinary client; to be closed."""
        return httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=LIMIT_S)

    def of(self, model: str) -> ModelStatistics:
        """Return the figures of *model*."""
        found = {str(m): s for m, s in self.running.dispatcher.statistics().items()}
        return found[model]

    def spawned(self) -> list[str]:
        """Return the models that were started, in order."""
        return [entry["model"] for entry in self.events.named("backend.spawned")]

    async def close_clients(self) -> None:
        """Leave, as all clients at once."""
        for client in self._clients:
            await trio.aclose_forcefully(client.stream)

    async def stop(self) -> None:
        """End it, after all clients left."""
        await self.close_clients()
        self.requests.stop.set()
        await self.ended.wait()


async def leaves_nothing(client: RawClient, router: Router, stage: Stage, model: str) -> None:
    """Let *client* leave while it waits for *model*; check that nothing of its request is left.

    Its place in the queue is free, and the backend, once ready, is not asked to generate.
    """
    await client.stream.aclose()
    await router.events.wait("request.completed", model=model, outcome="client_gone")
    assert (router.of(model).queued, router.of(model).in_flight) == (0, 0)
    backend = await stage.backend(model)
    await backend.do("ready")
    await router.events.wait("backend.ready", model=model)
    await wait_all_tasks_blocked()
    with pytest.raises(trio.WouldBlock):
        backend.request_nowait()


@attrs.define(eq=False)
class Harness:
    """Starts routers in *nursery* and makes sure that they end as they should."""

    nursery: trio.Nursery
    folder: Path
    events: Events
    # Once a router ran in this process, orphans of any later test become its children.
    _strangers: set[int] = attrs.field(factory=children)
    _routers: list[Router] = attrs.field(factory=list)

    async def start(self, models: dict[str, Any], **router: object) -> Router:
        """Return a new router that accepts connections.

        Args:
            models: The ``[models]`` table.
            router: The ``[router]`` table; it gets a port and a short ``drain_s``. And
                ``api_keys``, ``scheduler`` and ``devices``, which are tables of their own.
        """
        others = {name: router.pop(name, {}) for name in ("api_keys", "scheduler", "devices")}
        table = {"port": 0, "base_port": base_port(), "drain_s": 5.0, **router}
        document = {"router": table, **others, "models": models}
        requests = RouterSignals()
        ended = trio.Event()
        path = self.folder / "router.toml"
        run = partial(
            run_router,
            LoadedConfig(
                config=parse_config(document),
                warnings=(),
                path=path,
                as_written=parse_config(document).router,
            ),
            requests,
            state_dir=self.folder / "state",
            environ=os.environ,
        )
        running = await self.nursery.start(_tell_the_end, run, ended)
        started = Router(running, requests, path, document, self.events, ended)
        self._routers.append(started)
        return started

    async def finish(self) -> None:
        """Stop what still runs; check that nothing is left of it."""
        for router in self._routers:
            await router.stop()
        left = {pid: described(pid) for pid in children() - self._strangers if not reaped(pid)}
        assert left == {}, left
        bugs = [entry for entry in self.events.entries if entry["event"] in BUGS]
        assert bugs == [], "\n".join(bug.get("traceback", str(bug)) for bug in bugs)


async def _tell_the_end(
    run: Callable[..., Any], ended: trio.Event, *, task_status: trio.TaskStatus[RunningRouter]
) -> None:
    try:
        await run(task_status=task_status)
    finally:
        ended.set()
