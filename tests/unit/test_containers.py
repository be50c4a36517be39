"""Commands of container runtimes: what they name, and how a container is ended."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llama_router.config.command_warnings import command_warnings
from llama_router.core.config.command import stop_command_line
from llama_router.core.config.containers import (
    ContainerCommand,
    container_command,
    container_name,
)
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.errors.config import ConfigError
from llama_router.process.containers import Reply, removal, remove_now
from llama_router.process.instances import InstanceRecord, SweepOutcome, sweep

INSPECT = ("docker", "container", "inspect", "--format", "{{.Id}}", "c")
REMOVE = ("docker", "rm", "--force", "c")
COMMAND = ContainerCommand(("docker",), "c")


@pytest.mark.parametrize(
    ("argv", "runtime", "name"),
    [
        (["docker", "run", "--rm", "--name", "c", "image"], ("docker",), "c"),
        (["/usr/bin/podman", "run", "--name=c", "image"], ("/usr/bin/podman",), "c"),
        (["sudo", "docker", "-H", "h", "run", "image"], ("sudo", "docker", "-H", "h"), None),
        (["docker", "container", "run", "--name", "c", "i"], ("docker",), "c"),
    ],
)
def test_a_command_names_its_container(argv, runtime, name) -> None:
    """And the words by which the same runtime is asked again."""
    assert container_command(argv) == ContainerCommand(runtime, name)


@pytest.mark.parametrize(
    "argv",
    [
        ["vllm", "serve", "--name", "c"],
        ["docker", "compose", "run", "--name", "c"],
        ["docker", "start", "c"],
        ["apptainer", "run", "--name", "c"],
    ],
)
def test_other_commands_run_no_container_with_a_name(argv) -> None:
    """Nothing is looked up for them."""
    assert container_command(argv) is None


def test_the_name_of_a_container_is_one_that_runtimes_accept() -> None:
    """Whatever the model is called."""
    assert container_name("owner/Model:Q4 K", "ab.3") == "llama-router-owner-Model-Q4-K-ab.3"
    assert container_name("/:", "ab.3") == "llama-router-ab.3"
    assert len(container_name("x" * 1000, "ab.3")) < 253


def test_a_container_that_is_gone_is_only_looked_up() -> None:
    """By one command."""
    steps = removal(COMMAND)
    assert next(steps) == INSPECT
    with pytest.raises(StopIteration) as end:
        steps.send(Reply(1, "Error: No such container: c"))
    assert end.value.value is False


def test_a_container_is_removed_until_it_is_certainly_gone() -> None:
    """A runtime that does not answer says nothing about it."""
    steps = removal(COMMAND)
    replies = (
        Reply(1, "Cannot connect to the Docker daemon"),
        Reply(None),
        Reply(0, "1234"),
        Reply(1, "removal of container c is already in progress"),
        Reply(0, "1234"),
        Reply(0, "c"),
    )
    asked = [next(steps), *(steps.send(reply) for reply in replies)]
    assert asked == [INSPECT, INSPECT, INSPECT, REMOVE, INSPECT, REMOVE, INSPECT]
    with pytest.raises(StopIteration) as end:
        steps.send(Reply(125, "Error: no such container c"))
    assert end.value.value is True


def program(folder: Path, text: str) -> ContainerCommand:
    """Return the command of a runtime that is a shell script."""
    path = folder / "docker"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return ContainerCommand((str(path),), "c")


@pytest.mark.parametrize(
    ("text", "is_gone"),
    [
        ("echo Error: No such container: c; exit 1", True),
        ("echo Cannot connect; exit 1", False),
        ("exec sleep 1000", False),
    ],
)
def test_a_removal_at_the_start_of_a_router_takes_no_longer_than_it_may(
    tmp_path, text, is_gone
) -> None:
    """A runtime that hangs, or has no service, is given up."""
    assert remove_now(program(tmp_path, text), os.environ, timeout_s=0.3) is is_gone


def test_without_the_runtime_there_is_no_container() -> None:
    """It was never started."""
    assert remove_now(ContainerCommand(("/no/docker",), "c"), {}, timeout_s=0.3)


def dead_record(folder: Path) -> InstanceRecord:
    """Return the record of a router that is no more, with a container whose client is gone."""
    record = InstanceRecord(folder, "dead")
    record._record.router_start_time = 1
    argv = ["docker", "run", "--name", "c", "image"]
    record.add(2**22 + 1, 1, argv=argv, model="a", marker="dead.1")
    return record


@pytest.mark.parametrize(("gone", "outcome"), [(True, "swept"), (False, "survived")])
def test_the_containers_of_a_dead_router_are_removed(tmp_path, gone, outcome) -> None:
    """Their clients are gone long since; a record with one that resists stays."""
    record = dead_record(tmp_path)
    asked: list[ContainerCommand] = []

    def end(command: ContainerCommand) -> bool:
        asked.append(command)
        return gone

    (swept,) = sweep(tmp_path, end_container=end)
    assert asked == [COMMAND]
    assert swept.outcome is SweepOutcome(outcome)
    assert swept.containers == (() if gone else ("c",))
    assert record.path.exists() is not gone


def test_a_record_that_is_kept_survives_its_router(tmp_path) -> None:
    """The next one looks at what it names."""
    record = InstanceRecord(tmp_path, "i")
    record.keep()
    record.close()
    assert record.path.exists()


def models(**commands: list[str]) -> dict[str, Any]:
    return {"models": {name: {"spawn": {"command": c}} for name, c in commands.items()}}


def test_two_models_may_not_have_one_name_of_a_container() -> None:
    """Each would remove that of the other; names made of placeholders differ."""
    run = ["docker", "run", "-p", "$port:1", "--name"]
    parse_config(models(a=[*run, "$container", "i"], b=[*run, "$container", "i"]))
    parse_config(models(a=[*run, "x", "i"], b=["podman", *run[1:], "x", "i"]))
    with pytest.raises(ConfigError) as caught:
        parse_config(models(a=[*run, "x", "i"], b=[*run, "x", "i"]))
    (problem,) = caught.value.problems
    assert problem.path == ("models", "b")
    assert problem.message == (
        "its container has the same name as that of 'a': write '--name', '$container'"
    )


def spec_of(command: list[str], **spawn: Any) -> Any:
    document = {"models": {"a": {"spawn": {"command": command, **spawn}}}}
    return parse_config(document).models[ModelId("a")]


def test_a_container_without_a_name_is_warned_of() -> None:
    """It could not be found again."""
    (warning,) = command_warnings(spec_of(["docker", "run", "-p", "$port:1", "image"]))
    assert "add '--name', '$container'" in warning


@pytest.mark.parametrize(
    ("command", "written", "checks"),
    [
        (["docker", "run"], None, False),
        (["docker", "run"], True, True),
        (["vllm"], None, True),
        (["vllm"], False, False),
    ],
)
def test_the_owner_of_a_containers_port_is_not_checked(command, written, checks) -> None:
    """Unless a setting says otherwise."""
    spawn = {} if written is None else {"check_port_owner": written}
    assert spec_of(command, **spawn).spawn.checks_port_owner is checks


def test_a_stop_command_has_the_placeholders_of_the_command_and_the_process() -> None:
    """The command itself does not know the process."""
    stop = ["stop", "$pid", "$port", "$model", "$container", "$$"]
    spec = spec_of(["x", "$port"], stop_command=stop)
    words = stop_command_line(spec, port=5, host="h", container="c", pid=7)
    assert words == ("stop", "7", "5", "a", "c", "$")
    with pytest.raises(ConfigError, match="unknown placeholder"):
        spec_of(["x", "$pid"])
