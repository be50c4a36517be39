"""Finding, starting and ending the programs that a benchmark runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import machine

HOST = "127.0.0.1"
ROOT = Path(__file__).parents[1]

#: Signals that end a benchmark. A terminal that closes sends SIGHUP.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Requests that llama-swap passes on to one model at the same time. By default these are 10,
#: and it answers every further one with 429: the proxy benchmark would measure refusals.
LLAMA_SWAP_CONCURRENCY = 100_000

#: Time between two attempts to connect to a program that starts, in seconds.
_POLL_S = 0.001
_START_S = 30
_STOP_S = 15

#: Attempts to find a range of free ports, each from another port on.
_PORT_TRIES = 100


class StartError(Exception):
    """A contestant did not start or does not respond; the text has the reason."""


def free_port() -> int:
    """Return a port that no socket uses at the moment."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def free_ports(count: int) -> int:
    """Return the first of *count* neighbouring ports that no socket uses at the moment.

    For programs that number the ports of their servers from a first one on.

    Raises:
        StartError: if there are no such neighbours.
    """
    for _ in range(_PORT_TRIES):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError, OverflowError):
            probe = held.enter_context(socket.create_server((HOST, 0)))
            first = int(probe.getsockname()[1])
            for port in range(first + 1, first + count):
                held.enter_context(socket.create_server((HOST, port)))
            return first
    raise StartError(f"there are no {count} free ports in a row")


def search_path() -> str:
    """Return PATH and the folders where Debian installs servers."""
    return os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))


def missing_binary(variable: str) -> str | None:
    """Return why the program that an environment variable names cannot run, or None if it can."""
    path = os.environ.get(variable)
    if not path:
        return f"{variable} is not set"
    return None if os.access(path, os.X_OK) else f"{variable}: {path} is not a program"


@contextlib.contextmanager
def child(
    argv: Sequence[str],
    log: Path,
    *,
    processor: int | None = None,
    environment: dict[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with its output in *log*; end it on exit."""
    with log.open("ab") as sink, machine.running_on(processor):
        process = subprocess.Popen(
            argv, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
        )
    try:
        yield process
    finally:
        with _undisturbed():
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore signals within the block, so that a second Ctrl-C leaves no program behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until *port* accepts connections.

    Raises:
        StartError: if *process* ends first, or takes too long.
    """
    give_up_s = time.perf_counter() + _START_S
    while process.poll() is None and time.perf_counter() < give_up_s:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(_POLL_S)
    raise StartError(f"{process.args!r} does not listen: {end_of(log)}")


def end_of(log: Path | None) -> str:
    """Return the end of a program's output."""
    return log.read_text(errors="replace")[-2000:] if log is not None and log.exists() else ""
