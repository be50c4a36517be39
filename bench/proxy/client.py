"""Runs of the load client against a contestant, and their cost."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence

import attrs

from bench import machine

from .contestants import Running, Setting

#: Figures of one measurement by name; the name ends with the unit.
Figures = dict[str, float]

#: Pause before CPU time is read, in seconds, so that the contestant has closed its connections.
_SETTLE_S = 0.1

_LIMIT_S = 150


class LoadError(Exception):
    """The client ended without figures; the text has the reason."""


@attrs.frozen
class Load:
    """The figures of one run of the client, and its cost.

    Attributes:
        seen: The client's figures.
        cpu_s: CPU time of the contestant.
        helpers_cpu_s: CPU time of the stub and the client.
        wall_s: Duration, in seconds.
        others_share: Share of all processors that other programs used meanwhile.
    """

    seen: Figures
    cpu_s: float
    helpers_cpu_s: float
    wall_s: float
    others_share: float

    @property
    def figures(self) -> Figures:
        """Return the figures that every workload reports."""
        return {
            "errors": self.seen["errors"],
            "reconnects": self.seen["reconnects"],
            "cpu_s": self.cpu_s,
            "helpers_share": self.helpers_cpu_s / self.wall_s,
            "others_share": self.others_share,
        }


@contextlib.contextmanager
def start_load(
    setting: Setting, running: Running, arguments: Sequence[object], complaints: list[str]
) -> Iterator[StartedLoad]:
    """Start the client; kill it on exit if it still runs.

    Args:
        setting: The programs and processors of the benchmark.
        running: The contestant that gets the requests.
        arguments: Options of the client (see native/load.c).
        complaints: Gets the first errors that the client reports.
    """
    argv = [str(setting.native.load), "--port", str(running.port), *map(str, arguments)]
    if setting.pinning.load is not None:
        argv += ["--cpu", str(setting.pinning.load)]
    started = StartedLoad(running, argv, complaints)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


class StartedLoad:
    """A running client."""

    def __init__(self, running: Running, argv: list[str], complaints: list[str]) -> None:
        self._running = running
        self._complaints = complaints
        self._stubs = running.stubs()
        self._before = self._readings()
        self._begun_s = time.perf_counter()
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait_holding(self) -> None:
        """Wait until all requests have their response and the connections are held open.

        Raises:
            LoadError: if the client ends first.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if "holding" not in line:
            raise LoadError(f"the client ended before it held its connections: {line}")

    def finish(self) -> Load:
        """Wait for the end of the client; return its figures and its cost.

        Raises:
            LoadError: if it ends without figures, or not in time.
        """
        try:
            output, complaints = self.process.communicate(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise LoadError(f"the client did not end within {_LIMIT_S} s") from None
        wall_s = time.perf_counter() - self._begun_s
        lines = output.splitlines()
        if self.process.returncode or not lines:
            raise LoadError(f"the client failed: {complaints.strip()}")
        self._complaints += complaints.splitlines()
        time.sleep(_SETTLE_S)
        cpu_s, stub_s, busy_s, between_s = (
            after - before for after, before in zip(self._readings(), self._before, strict=True)
        )
        seen = json.loads(lines[-1])
        helpers_s = stub_s + seen["client_cpu_s"]
        others_s = max(0.0, busy_s - cpu_s - helpers_s)
        return Load(
            seen=seen,
            cpu_s=cpu_s,
            helpers_cpu_s=helpers_s,
            wall_s=wall_s,
            others_share=others_s / (between_s * (os.cpu_count() or 1)),
        )

    def _readings(self) -> tuple[float, float, float, float]:
        return (
            machine.cpu_s(self._running.pids()),
            machine.cpu_s(self._stubs),
            machine.busy_s(),
            time.perf_counter(),
        )
