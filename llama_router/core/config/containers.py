"""Commands for a container runtime: what they name, and by which words it is found again. Pure.

Source: docker run, podman run and nerdctl run; names of containers: moby, daemon/names/names.go.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import attrs

_RUNTIMES: Final = frozenset({"docker", "podman", "nerdctl"})

#: Programs that run the one behind them.
_WRAPPERS: Final = frozenset({"sudo", "env", "nice", "exec"})

_NOT_IN_A_NAME: Final = re.compile(r"[^a-zA-Z0-9_.-]+")

#: Most characters of a model's name in that of its container, which has at most 253.
_MAX_MODEL_CHARACTERS: Final = 100


@attrs.frozen
class ContainerCommand:
    """A command that runs a container.

    Attributes:
        runtime: The words before ``run``: the runtime, and which of several it talks to.
        name: The container's name; None if the runtime makes one up.
    """

    runtime: tuple[str, ...]
    name: str | None


def runs_container(argv: Sequence[str]) -> bool:
    """Return whether a command line is for a container runtime.

    The processes of the container are not its descendants, but those of a service.
    """
    program = next((word for word in argv if _base(word) not in _WRAPPERS), "")
    return _base(program) in _RUNTIMES


def container_command(argv: Sequence[str]) -> ContainerCommand | None:
    """Return the container that a command line runs; None if it runs none."""
    if not runs_container(argv) or "run" not in argv:
        return None
    at = argv.index("run")
    runtime = [*argv[:at]]
    if runtime[-1] == "container":  # docker container run
        runtime.pop()
    if "compose" in runtime:
        return None
    words = argv[at + 1 :]
    for word, value in zip(words, (*words[1:], ""), strict=False):
        if word == "--name" and value:
            return ContainerCommand(tuple(runtime), value)
        if word.startswith("--name="):
            return ContainerCommand(tuple(runtime), word.removeprefix("--name=") or None)
    return ContainerCommand(tuple(runtime), None)


def container_name(model: str, marker: str) -> str:
    """Return the value of ``$container``: a name that no other run of any model has.

    Args:
        model: The name of the model.
        marker: Unique name of the run.
    """
    readable = _NOT_IN_A_NAME.sub("-", model)[:_MAX_MODEL_CHARACTERS].strip("-.")
    return "-".join(filter(None, ("llama-router", readable, _NOT_IN_A_NAME.sub("-", marker))))


def _base(program: str) -> str:
    return program.rpartition("/")[2]
