"""The programs to compare: configuration, start and end of each."""

from __future__ import annotations

import abc
import contextlib
import http.client
import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from bench import machine, versions
from bench.build import Native, compiler
from bench.machine import Pinning
from bench.programs import (
    HOST,
    LLAMA_SWAP_CONCURRENCY,
    ROOT,
    StartError,
    child,
    end_of,
    free_port,
    missing_binary,
    search_path,
    wait_listening,
)

_ANSWER_S = 30


@attrs.frozen
class Setting:
    """The surroundings of every contestant.

    Attributes:
        native: The stub and the client.
        pinning: The processors to use.
        folder: Folder of configurations and logs.
    """

    native: Native
    pinning: Pinning
    folder: Path


@attrs.define(eq=False)
class Running:
    """A running contestant.

    Attributes:
        port: The port that it listens on.
        root: Its first process; None if there is no proxy.
        upstreams: Programs in its process tree that are not part of it.
        stub: The process of the stub, unless the contestant started it.
        start_cpu_s: CPU time from exec until it listened.
        start_s: Duration of that, in seconds.
    """

    port: int
    root: int | None
    upstreams: frozenset[Path]
    stub: int | None = None
    start_cpu_s: float = 0.0
    start_s: float = 0.0

    def pids(self) -> list[int]:
        """Return the processes of the contestant, without the stub."""
        return [] if self.root is None else machine.tree(self.root, without=self.upstreams)

    def stubs(self) -> list[int]:
        """Return the processes of the stub."""
        if self.stub is not None:
            return [self.stub]
        if self.root is None:
            return []
        return list(set(machine.tree(self.root)) - set(self.pids()))


class Contestant(abc.ABC):
    """One program to compare.

    Attributes:
        name: Its name in the table and on the command line.
    """

    name: ClassVar[str]

    @abc.abstractmethod
    def missing(self) -> str | None:
        """Return why it cannot take part here, or None if it can."""

    @abc.abstractmethod
    def version(self) -> str:
        """Return what the report names as its version; it is not missing."""

    @abc.abstractmethod
    def running(self, setting: Setting) -> contextlib.AbstractContextManager[Running]:
        """Start it, wait for its first response, and end it on exit.

        Raises:
            StartError: if it does not come up.
        """


class Direct(Contestant):
    """The stub alone, without a proxy."""

    name = "direct"

    def missing(self) -> str | None:
        """Return None: nothing else is needed."""
        return None

    def version(self) -> str:
        """Return the compiler of the stub."""
        return f"the stub, built with {versions.of_program(*compiler(), '--version')}"

    @contextlib.contextmanager
    def running(self, setting: Setting) -> Iterator[Running]:
        """Run the stub."""
        with _stub(setting) as (port, pid):
            _first_answer(port)
            yield Running(port=port, root=None, upstreams=frozenset(), stub=pid)


class LlamaRouter(Contestant):
    """This project, with the stub as the backend of its one model."""

    name = "llama-router"

    def missing(self) -> str | None:
        """Return None: it is this checkout."""
        return None

    def version(self) -> str:
        """Return the version of this checkout."""
        return versions.router()

    @contextlib.contextmanager
    def running(self, setting: Setting) -> Iterator[Running]:
        """Run ``llama-router serve``; its log goes to a file, as JSON."""
        folder = _own_folder(setting, self.name)
        port = free_port()
        config = folder / "router.toml"
        command = json.dumps(_stub_argv(setting, "$port"))
        config.write_text(
            # Only this model, none from the caches of this user.
            f'[router]\nport = {port}\nstate_dir = "{folder}/state"\nlog_format = "json"\n'
            "scan_caches = false\n"
            f"base_port = {free_port()}\n[models.m1]\nspawn.command = {command}\n"
        )
        argv = [sys.executable, "-m", "llama_router", "serve", "--config", str(config)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        # With byte code, as every installation has it: the first start here writes it.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with _program(argv, port, setting, folder, environment) as running:
            yield running


class Nginx(Contestant):
    """nginx, configured to pass streams on: the cost of a proxy without models."""

    name = "nginx"

    def missing(self) -> str | None:
        """Return a reason if it is not installed."""
        if shutil.which("nginx", path=search_path()) is None:
            return "nginx is not installed (on Debian: apt install nginx-light)"
        return None

    def version(self) -> str:
        """Return what ``nginx -v`` prints."""
        return versions.of_program(shutil.which("nginx", path=search_path()) or "nginx", "-v")

    @contextlib.contextmanager
    def running(self, setting: Setting) -> Iterator[Running]:
        """Run nginx with one worker and the stub as its upstream."""
        folder = _own_folder(setting, self.name)
        port = free_port()
        nginx = shutil.which("nginx", path=search_path())
        if nginx is None:
            raise StartError("nginx is gone")
        with _stub(setting) as (stub_port, stub):
            config = folder / "nginx.conf"
            config.write_text(_nginx_config(folder, port, stub_port))
            argv = [nginx, "-e", f"{folder}/error.log", "-p", str(folder), "-c", str(config)]
            with _program(argv, port, setting, folder) as running:
                running.stub = stub
                yield running


def _nginx_config(folder: Path, port: int, stub_port: int) -> str:
    # Started as root, nginx drops its privileges, and could not enter the folder then.
    user = "user root root;" if os.geteuid() == 0 else ""
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
{user}
pid {folder}/nginx.pid;
worker_processes 1;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
{temporary}
    access_log {folder}/access.log combined;
    upstream stub {{
        server {HOST}:{stub_port};
        keepalive 512;
        keepalive_requests 10000000;
    }}
    server {{
        listen {HOST}:{port} backlog=2048;
        keepalive_requests 10000000;
        client_max_body_size 0;
        location / {{
            proxy_pass http://stub;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 600;
            proxy_send_timeout 600;
            send_timeout 600;
        }}
    }}
}}
"""


class LlamaSwap(Contestant):
    """llama-swap, with the stub as the command of its one model."""

    name = "llama-swap"

    def missing(self) -> str | None:
        """Return a reason if the environment does not name it."""
        return missing_binary("LLAMA_SWAP_BIN")

    def version(self) -> str:
        """Return what ``llama-swap --version`` prints."""
        return versions.of_program(os.environ["LLAMA_SWAP_BIN"], "--version")

    @contextlib.contextmanager
    def running(self, setting: Setting) -> Iterator[Running]:
        """Run llama-swap; its log goes to a file."""
        folder = _own_folder(setting, self.name)
        port = free_port()
        config = folder / "config.yaml"
        command = " ".join(_stub_argv(setting, "${PORT}"))
        config.write_text(
            f"startPort: {free_port()}\nmodels:\n  m1:\n    cmd: {command}\n"
            f"    proxy: http://{HOST}:${{PORT}}\n"
            f"    concurrencyLimit: {LLAMA_SWAP_CONCURRENCY}\n"
        )
        binary = os.environ["LLAMA_SWAP_BIN"]
        argv = [binary, "--config", str(config), "--listen", f"{HOST}:{port}"]
        with _program(argv, port, setting, folder) as running:
            yield running


class LlamaCppRouter(Contestant):
    """llama.cpp's own router, with the stub instead of the llama-server that it starts."""

    name = "llama.cpp"

    def missing(self) -> str | None:
        """Return a reason if the environment does not name a llama-server."""
        return missing_binary("LLAMA_SERVER_BIN")

    def version(self) -> str:
        """Return what ``llama-server --version`` prints."""
        return versions.of_program(os.environ["LLAMA_SERVER_BIN"], "--version")

    @contextlib.contextmanager
    def running(self, setting: Setting) -> Iterator[Running]:
        """Run a copy of llama-server as a router.

        It starts its models with its own file name. Once it runs, a script that becomes the
        stub replaces that file.
        """
        folder = _own_folder(setting, self.name)
        port = free_port()
        binary = Path(os.environ["LLAMA_SERVER_BIN"]).resolve()
        program = folder / "llama-server"
        shutil.copy2(binary, program)
        models = folder / "models.ini"
        models.write_text(f"[m1]\nmodel = {folder}/m1.gguf\n")
        (folder / "m1.gguf").touch()
        argv = [str(program), "--host", HOST, "--port", str(port), "--models-preset", str(models)]
        # Libraries beside the original program.
        libraries = os.pathsep.join((str(binary.parent), os.environ.get("LD_LIBRARY_PATH", "")))
        environment = os.environ | {"LD_LIBRARY_PATH": libraries}

        def take_its_name() -> None:
            script = folder / "stub.sh"
            script.write_text(f'#!/bin/sh\nexec {shlex.join(_stub_argv(setting))} "$@"\n')
            script.chmod(0o755)
            script.replace(program)

        with _program(argv, port, setting, folder, environment, take_its_name) as running:
            yield running


CONTESTANTS: tuple[Contestant, ...] = (
    Direct(),
    LlamaRouter(),
    Nginx(),
    LlamaSwap(),
    LlamaCppRouter(),
)


# -- starting and ending ------------------------------------------------------------------


def _own_folder(setting: Setting, name: str) -> Path:
    folder = setting.folder / f"{name}-{time.monotonic_ns()}"
    folder.mkdir(parents=True)
    return folder


def _stub_argv(setting: Setting, *port: str) -> list[str]:
    argv = [str(setting.native.stub), *port]
    if setting.pinning.stub is not None:
        argv += ["--cpu", str(setting.pinning.stub)]
    return argv


@contextlib.contextmanager
def _stub(setting: Setting) -> Iterator[tuple[int, int]]:
    """Run a stub; yield its port and its process."""
    port = free_port()
    with child(_stub_argv(setting, str(port)), setting.folder / "stub.log") as process:
        wait_listening(port, process, setting.folder / "stub.log")
        yield port, process.pid


@contextlib.contextmanager
def _program(
    argv: Sequence[str],
    port: int,
    setting: Setting,
    folder: Path,
    environment: dict[str, str] | None = None,
    on_listening: Callable[[], None] = lambda: None,
) -> Iterator[Running]:
    """Run a proxy on its processor; yield it after its first response."""
    log = folder / "log"
    begun_s = time.perf_counter()
    with child(argv, log, processor=setting.pinning.proxy, environment=environment) as process:
        wait_listening(port, process, log)
        running = Running(
            port=port, root=process.pid, upstreams=frozenset({setting.native.stub.resolve()})
        )
        running.start_s = time.perf_counter() - begun_s
        running.start_cpu_s = machine.cpu_s(running.pids())
        on_listening()
        _first_answer(port, log)
        yield running


def _first_answer(port: int, log: Path | None = None) -> None:
    """Send requests until the model responds; a router loads the model for the first one.

    Raises:
        StartError: if there is no response in time.
    """
    body = json.dumps({"model": "m1", "messages": [{"role": "user", "content": "Hello"}]})
    headers = {"Content-Type": "application/json"}
    give_up_s = time.perf_counter() + _ANSWER_S
    problem = ""
    while time.perf_counter() < give_up_s:
        connection = http.client.HTTPConnection(HOST, port, timeout=_ANSWER_S)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("POST", "/v1/chat/completions", body, headers)
            response = connection.getresponse()
            text = response.read().decode(errors="replace")
            if response.status == 200:
                return
            problem = f"status {response.status}: {text}"
        time.sleep(0.05)
    raise StartError(f"no answer; {problem}; {end_of(log)}")
