"""Backends in containers, and stop commands: by a scripted docker with a dockerd of its own."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.process.harness import post

pytestmark = pytest.mark.process

#: Seconds that a program gets on a machine that is busy: more than it ever needs.
PATIENT_S = 120.0

SCRIPT = Path(__file__).with_name("scripted_docker.py")


@attrs.frozen
class Docker:
    """The command, and what it was asked."""

    program: str
    socket: Path

    def boxed(self, table: dict[str, Any], name: str = "$container", **spawn: Any) -> Any:
        """Return the table of a fake backend, in a container."""
        options = ["--rm", "--name", name, "-p", "127.0.0.1:$port:$port"]
        command = [self.program, "run", *options, "image", *table["spawn"]["command"]]
        patient = {**table["spawn"], "command": command, "stop_timeout_s": PATIENT_S}
        return {**table, "spawn": {**patient, **spawn}}

    def commands(self) -> list[str]:
        """Return the first words of all commands, in order."""
        return [line.split()[0] for line in Path(f"{self.socket}.log").read_text().splitlines()]


@pytest.fixture
def docker(tmp_path_factory) -> Iterator[Docker]:
    """A docker whose dockerd runs."""
    folder = tmp_path_factory.mktemp("d")
    program, socket = folder / "docker", folder / "sock"
    words = [sys.executable, "-I", "-S", str(SCRIPT), str(socket)]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o755)
    with subprocess.Popen([*words, "dockerd"], stdout=subprocess.PIPE) as dockerd:
        assert dockerd.stdout is not None
        assert dockerd.stdout.readline() == b"ready\n"
        yield Docker(str(program), socket)
        dockerd.terminate()


@pytest.fixture
def earlier(docker) -> Iterator[subprocess.Popen[bytes]]:
    """The client of a container with the name "fixed"."""
    command = [docker.program, "run", "--name", "fixed", "image", "sleep", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"container fixed runs\n"
        yield process


async def test_a_container_serves_and_ends_with_its_client(start, stage, docker) -> None:
    """Its port belongs to another process, which is no fault; afterwards it is looked for."""
    router = await start({"a": docker.boxed(stage.model("a"))})
    assert (await router.ask(post("/v1/echo", "a"))).status == 200
    backend = await stage.backend("a")
    await router.stop()
    await backend.ended.wait()
    assert docker.commands() == ["run", "container"]
    assert not router.events.named("backend.container_removed")


async def test_a_container_that_outlives_its_client_is_removed_before_another_starts(
    start, stage, docker
) -> None:
    """It takes memory until then, so the next model waits for its end."""
    stubborn = docker.boxed(stage.model("a", "--sigterm", "ignore"), stop_timeout_s=0.2)
    router = await start({"a": stubborn, "b": stage.model("b")})
    await router.ask(post("/v1/echo", "a"))
    backend = await stage.backend("a")
    assert (await router.ask(post("/v1/echo", "b"))).status == 200
    await backend.ended.wait()
    (removed,) = router.events.named("backend.container_removed")
    assert removed["container"].startswith("llama-router-a-")
    names = [
        (entry["event"], entry["model"])
        for entry in router.events.entries
        if entry["event"] in {"backend.container_removed", "backend.spawned"}
    ]
    assert names[1:] == [("backend.container_removed", "a"), ("backend.spawned", "b")]


async def test_a_name_that_is_in_use_is_freed_first(start, stage, docker, earlier) -> None:
    """A name without ``$container`` belongs to its model: an earlier container has it no more."""
    router = await start({"a": docker.boxed(stage.model("a"), "fixed")})
    assert (await router.ask(post("/v1/echo", "a"))).status == 200
    assert earlier.wait() == 137
    (removed,) = router.events.named("backend.container_removed")
    assert removed["container"] == "fixed"


async def test_a_stop_command_runs_before_sigterm(start, stage, docker) -> None:
    """It knows the container; the backend that ends by it gets no signal of the router's."""
    stop = [docker.program, "stop", "$container"]
    boxed = docker.boxed(stage.model("a"), stop_command=stop)
    router = await start({"a": boxed})
    await router.ask(post("/v1/echo", "a"))
    await router.stop()
    assert docker.commands() == ["run", "stop", "container"]
    assert not router.events.named("backend.stop_command_failed")


@pytest.mark.parametrize(
    ("command", "timeout_s", "reason"),
    [
        (["/no/such/program"], PATIENT_S, "cannot start '/no/such/program': no such file"),
        (["sh", "-c", "echo no; exit 3"], PATIENT_S, "it ended with exit status 3: no"),
        (["sleep", "1000"], 0.3, "it did not end within 0.3 s (stop_timeout_s)"),
    ],
)
async def test_a_stop_command_that_fails_is_explained(
    start, stage, command, timeout_s, reason
) -> None:
    """The backend gets SIGTERM then, and ends."""
    spawn = {"stop_command": command, "stop_timeout_s": timeout_s}
    router = await start({"a": stage.model("a", spawn=spawn)})
    await router.ask(post("/v1/echo", "a"))
    backend = await stage.backend("a")
    await router.stop()
    await backend.ended.wait()
    (told,) = router.events.named("backend.stop_command_failed")
    assert told["reason"] == reason


async def test_a_stop_command_knows_the_process(start, stage, tmp_path) -> None:
    """By its pid, port and model."""
    said = tmp_path / "said"
    command = ["sh", "-c", f'echo "$$1 $$2 $$3" > {said}; kill $$1', "-", "$pid", "$port", "$model"]
    spawn = {"stop_command": command, "stop_timeout_s": PATIENT_S}
    router = await start({"a": stage.model("a", spawn=spawn)})
    await router.ask(post("/v1/echo", "a"))
    backend = await stage.backend("a")
    await router.stop()
    (spawned,) = router.events.named("backend.spawned")
    assert said.read_text().split() == [str(spawned["pid"]), str(backend.port), "a"]
