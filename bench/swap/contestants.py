"""The contestants of a swap: by hand, llama-router, llama-swap and llama.cpp's router."""

from __future__ import annotations

import abc
import contextlib
import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

import attrs

from bench import versions
from bench.programs import (
    HOST,
    LLAMA_SWAP_CONCURRENCY,
    ROOT,
    StartError,
    child,
    free_port,
    free_ports,
    missing_binary,
    wait_listening,
)
from llama_router.backends.environment import find_program, inherited
from llama_router.config.load import load_config
from llama_router.core.config.command import command_line
from llama_router.core.config.kinds import LLAMA_SERVER

from .ask import ask, healthy

EMBEDDED = "embedded"
REAL = "llama-server"

#: Time between two health requests in a swap by hand, in seconds.
_POLL_S = 0.002
_READY_S = 120
_STOP_S = 30
_LOGGED_S = 10

#: Placeholder for the port in a command line.
_ANY_PORT = 54321

#: Figures of one swap, in seconds; "swap_s" is its whole duration.
Figures = dict[str, float]


#: The context and the layers on the GPU, the same for all: a swap is measured, and not how
#: llama.cpp fits a model into memory.
FIXED: Final = ("--ctx-size", "4096", "--n-gpu-layers", "99", "--fit", "off")


@attrs.frozen
class Setting:
    """The models and the server of a swap.

    Attributes:
        folder: Folder of configurations and logs.
        models: Model files by name.
        server: Their server: EMBEDDED or REAL.
    """

    folder: Path
    models: dict[str, Path]
    server: str

    def router_toml(self) -> Path:
        """Write the configuration of llama-router; all contestants use its command lines."""
        config = self.folder / "router.toml"
        lines = ["[router]", "port = 0", f'state_dir = "{self.folder}/state"']
        lines += ["min_residency_s = 0", "scan_caches = false", 'log_format = "json"']
        for name, path in self.models.items():
            lines += [f"[models.{name}]", f'path = "{path}"']
        spawn = ["[default_spawn]", f"args = {json.dumps(FIXED)}"]
        if self.server == REAL:
            # Except for the program, this is the default command line of models.
            default = next(iter(load_config(_written(config, lines)).config.models.values()))
            command = [os.environ["LLAMA_SERVER_BIN"], *default.spawn.command[1:]]
            spawn += [f"command = {json.dumps(command)}"]
        return _written(config, [*lines, *spawn])

    def command_line(self, model: str, port: int) -> tuple[str, ...]:
        """Return the command line that serves *model* on *port*."""
        models = load_config(self.router_toml()).config.models
        spec = next(spec for name, spec in models.items() if name == model)
        return find_program(command_line(spec, port=port, host=HOST)).argv


def server_version(server: str) -> str:
    """Return the version of a server that is not missing."""
    if server == REAL:
        return versions.of_program(os.environ["LLAMA_SERVER_BIN"], "--version")
    return f"xllamacpp {importlib.metadata.version('xllamacpp')}"


def missing_server(server: str) -> str | None:
    """Return why this server cannot run here, or None if it can."""
    if server == REAL:
        return missing_binary("LLAMA_SERVER_BIN")
    found = find_program((LLAMA_SERVER,)).argv[0]
    if found != sys.executable:
        return f"{found} takes its place"
    return None


class Contestant(abc.ABC):
    """A way to swap models.

    Attributes:
        name: Its name in the table and on the command line.
    """

    name: ClassVar[str]

    def missing(self, server: str) -> str | None:  # noqa: ARG002 -- others need it
        """Return why it cannot take part here, or None if it can."""
        return None

    def version(self) -> str | None:
        """Return its version, or None if it has none beside that of the server."""
        return None

    @abc.abstractmethod
    def running(self, setting: Setting) -> contextlib.AbstractContextManager[Swapper]:
        """Start it, and end it on exit.

        Raises:
            StartError: if it does not come up.
        """


class Swapper(abc.ABC):
    """A running contestant."""

    @abc.abstractmethod
    def swap(self, model: str) -> Figures:
        """Have *model* serve one request, and the other model stopped; return the figures.

        Raises:
            AskError: if the response is not 200.
            StartError: if the server does not come up.
        """


# -- by hand ------------------------------------------------------------------------------


class Hand(Contestant):
    """SIGTERM, wait for the exit, start the other, wait for 200 from /health, send the request."""

    name = "by-hand"

    @contextlib.contextmanager
    def running(self, setting: Setting) -> Iterator[Swapper]:
        """Yield without a server; the first swap starts one."""
        swapper = _HandSwapper(setting)
        try:
            yield swapper
        finally:
            swapper.stop()


class _HandSwapper(Swapper):
    def __init__(self, setting: Setting) -> None:
        self._commands = {name: setting.command_line(name, _ANY_PORT) for name in setting.models}
        self._process: subprocess.Popen[bytes] | None = None

    def swap(self, model: str) -> Figures:
        port = free_port()
        argv = _with_port(self._commands[model], str(port))
        begun_s = time.perf_counter()
        self.stop()
        stopped_s = time.perf_counter()
        self._process = subprocess.Popen(
            argv,
            env=inherited(os.environ) | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while not healthy(port):
            if self._process.poll() is not None or time.perf_counter() - stopped_s > _READY_S:
                raise StartError(f"{shlex.join(argv)} does not become ready")
            time.sleep(_POLL_S)
        ready_s = time.perf_counter()
        ask(port, model)
        end_s = time.perf_counter()
        return {
            "swap_s": end_s - begun_s,
            "stop_s": stopped_s - begun_s,
            "load_s": ready_s - stopped_s,
            "ask_s": end_s - ready_s,
        }

    def stop(self) -> None:
        """End the running server, if there is one."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


# -- routers ------------------------------------------------------------------------------


class _RouterSwapper(Swapper):
    """Sends a router a request for the model that is not loaded."""

    def __init__(self, port: int, log: Path | None = None) -> None:
        self._port = port
        self._log = log

    def swap(self, model: str) -> Figures:
        before = len(self._completed())
        begun_s = time.perf_counter()
        again = ask(self._port, model)
        figures = {"swap_s": time.perf_counter() - begun_s, "asked_again": float(again)}
        if self._log is None:
            return figures
        # The router logs the request after the client has its response.
        give_up_s = time.perf_counter() + _LOGGED_S
        while len(completed := self._completed()) == before and time.perf_counter() < give_up_s:
            time.sleep(_POLL_S)
        if len(completed) == before:
            raise StartError(f"llama-router did not log the request: {self._log.read_text()}")
        parts = ("queue_s", "load_s", "ttft_s", "duration_s")
        return figures | {f"log_{part}": completed[-1][part] for part in parts}

    def _completed(self) -> list[dict[str, Any]]:
        """Return the log event of each finished request."""
        events = events_in(self._log) if self._log is not None else []
        return [event for event in events if event["event"] == "request.completed"]


class LlamaRouter(Contestant):
    """This project."""

    name = "llama-router"

    def version(self) -> str:
        """Return the version of this checkout."""
        return versions.router()

    @contextlib.contextmanager
    def running(self, setting: Setting) -> Iterator[Swapper]:
        """Run ``llama-router serve``."""
        log = setting.folder / "llama-router.log"
        config = str(setting.router_toml())
        argv = [sys.executable, "-m", "llama_router", "serve", "--config", config]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with child(argv, log, environment=environment) as process:
            yield _RouterSwapper(router_port(process, log), log)


def llama_swap_yaml(commands: Mapping[str, tuple[str, ...]], *, first_port: int) -> list[str]:
    """Return the lines of a configuration of llama-swap that runs one model at a time.

    Args:
        commands: Name to command line.
        first_port: llama-swap gives it to the first model, and the ports after it to the others.
    """
    lines = [f"healthCheckTimeout: {_READY_S}", f"startPort: {first_port}", "models:"]
    for name, command in commands.items():
        lines += [f"  {name}:", f"    cmd: {' '.join(_with_port(command, '${PORT}'))}"]
        lines += [f"    proxy: http://{HOST}:${{PORT}}"]
        lines += [f"    concurrencyLimit: {LLAMA_SWAP_CONCURRENCY}"]
    return lines


class LlamaSwap(Contestant):
    """llama-swap, with the command lines that llama-router would use."""

    name = "llama-swap"

    def missing(self, server: str) -> str | None:  # noqa: ARG002 -- it takes any
        """Return a reason if the environment does not name it."""
        return missing_binary("LLAMA_SWAP_BIN")

    def version(self) -> str:
        """Return what ``llama-swap --version`` prints."""
        return versions.of_program(os.environ["LLAMA_SWAP_BIN"], "--version")

    @contextlib.contextmanager
    def running(self, setting: Setting) -> Iterator[Swapper]:
        """Run llama-swap; without groups, one model runs at a time."""
        commands = {name: setting.command_line(name, _ANY_PORT) for name in setting.models}
        lines = llama_swap_yaml(commands, first_port=free_ports(len(commands)))
        config = _written(setting.folder / "llama-swap.yaml", lines)
        port = free_port()
        program = os.environ["LLAMA_SWAP_BIN"]
        argv = (program, "--config", str(config), "--listen", f"{HOST}:{port}")
        with _listening(argv, port, setting.folder / "llama-swap.log"):
            yield _RouterSwapper(port)


class LlamaCppRouter(Contestant):
    """llama.cpp's own router; it starts llama-server and nothing else."""

    name = "llama.cpp"

    def missing(self, server: str) -> str | None:
        """Return a reason if it cannot start *server*."""
        if server != REAL:
            return "it starts llama-server only"
        return missing_binary("LLAMA_SERVER_BIN")

    @contextlib.contextmanager
    def running(self, setting: Setting) -> Iterator[Swapper]:
        """Run llama-server without a model, and with room for one."""
        lines = []
        for name, path in setting.models.items():
            lines += [f"[{name}]", f"model = {path}", "jinja = true"]
            lines += ["ctx-size = 4096", "n-gpu-layers = 99", "fit = off"]
        models = _written(setting.folder / "models.ini", lines)
        port = free_port()
        program = os.environ["LLAMA_SERVER_BIN"]
        argv = (program, "--host", HOST, "--port", str(port))
        limits = ("--models-preset", str(models), "--models-max", "1")
        with _listening((*argv, *limits), port, setting.folder / "llama.cpp.log"):
            yield _RouterSwapper(port)


CONTESTANTS: tuple[Contestant, ...] = (Hand(), LlamaRouter(), LlamaSwap(), LlamaCppRouter())


# -- parts --------------------------------------------------------------------------------


@contextlib.contextmanager
def _listening(argv: tuple[str, ...], port: int, log: Path) -> Iterator[None]:
    with child(argv, log) as process:
        wait_listening(port, process, log)
        yield


def router_port(process: subprocess.Popen[bytes], log: Path) -> int:
    """Wait until llama-router is ready; return its port."""
    give_up_s = time.perf_counter() + _READY_S
    while process.poll() is None and time.perf_counter() < give_up_s:
        for event in events_in(log):
            if event["event"] == "router.ready":
                return int(event["urls"][0].rpartition(":")[2])
        time.sleep(0.05)
    raise StartError(f"llama-router is not ready; its log: {log.read_text()}")


def events_in(log: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a JSON log."""
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def _with_port(argv: tuple[str, ...], port: str) -> tuple[str, ...]:
    return tuple(port if word == str(_ANY_PORT) else word for word in argv)


def _written(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path
