"""Ends containers by the commands of their runtime: a container may outlive its client.

`removal` decides what to ask next; one function asks from a task, one from a thread.

Source: docker rm, docker container inspect; podman and nerdctl have the same.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import attrs
import trio

if TYPE_CHECKING:
    from ..core.config.containers import ContainerCommand

#: Seconds that one command of the runtime may take: its service may hang.
ASK_TIMEOUT_S: Final = 10.0

#: Seconds after which a container that is still there is reported.
STUCK_S: Final = 5.0

#: Pauses between two rounds, in seconds.
_MIN_PAUSE_S: Final = 0.05
_MAX_PAUSE_S: Final = 2.0

#: What the runtimes print about a container that does not exist.
_MISSING: Final = re.compile(r"no such (?:container|object)|no container with name", re.IGNORECASE)

#: Longest output that is kept of a command.
_MAX_OUTPUT: Final = 2000


@attrs.frozen
class Reply:
    """What a command of the runtime did.

    Attributes:
        status: Its exit status; None if it did not end in time.
        output: What it printed.
    """

    status: int | None
    output: str = ""


Removal = Generator[tuple[str, ...], Reply, bool]
"""Yields command lines, gets their replies; returns whether there was anything to remove."""


def removal(command: ContainerCommand) -> Removal:
    """Yield what to run until the container of *command* is certainly gone."""
    existed = False
    while True:
        reply = yield (
            *command.runtime,
            "container",
            "inspect",
            "--format",
            "{{.Id}}",
            _name(command),
        )
        if reply.status == 0:
            existed = True
            yield (*command.runtime, "rm", "--force", _name(command))
        elif _MISSING.search(reply.output):
            return existed


def _name(command: ContainerCommand) -> str:
    assert command.name is not None, "only a container with a name is found again"
    return command.name


async def remove(
    command: ContainerCommand, env: Mapping[str, str], *, on_stuck: Callable[[str], None]
) -> bool:
    """Return once the container of *command* is certainly gone; forces it to end.

    A runtime that cannot be run has started no container. One that does not answer, or refuses,
    is asked again, without end: the caller owns the deadline.

    Args:
        command: The command that may have started it; it has a name.
        env: The environment of the runtime.
        on_stuck: Called once, with the last reply, if that takes longer than `STUCK_S`.

    Returns:
        Whether there was a container to remove.
    """
    begun_s, pause_s, is_stuck = trio.current_time(), _MIN_PAUSE_S, False
    steps = removal(command)
    words = next(steps)
    while True:
        try:
            reply = await _ask(words, env)
        except OSError:
            return False
        try:
            words = steps.send(reply)
        except StopIteration as end:
            return bool(end.value)
        if "inspect" in words:  # a whole round changed nothing yet
            if not is_stuck and trio.current_time() - begun_s > STUCK_S:
                is_stuck = True
                on_stuck(reply.output or "its runtime does not answer")
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)


async def _ask(words: tuple[str, ...], env: Mapping[str, str]) -> Reply:
    """Run one command of the runtime.

    Raises:
        OSError: if it cannot be started.
    """
    with trio.move_on_after(ASK_TIMEOUT_S):
        done = await trio.run_process(
            list(words),
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            env=dict(env),
            deliver_cancel=_kill,
        )
        return Reply(done.returncode, _text(done.stdout))
    return Reply(None)


async def _kill(process: trio.Process) -> None:
    process.kill()


def remove_now(command: ContainerCommand, env: Mapping[str, str], *, timeout_s: float) -> bool:
    """Remove the container of *command*; return whether it is certainly gone. Blocks."""
    until_s = time.monotonic() + timeout_s
    steps = removal(command)
    words = next(steps)
    while (left_s := until_s - time.monotonic()) > 0:
        reply = Reply(None)
        try:
            with suppress(subprocess.TimeoutExpired):
                done = subprocess.run(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    check=False,
                    env=dict(env),
                    timeout=left_s,
                )
                reply = Reply(done.returncode, _text(done.stdout))
        except OSError:
            return True  # without the runtime there is no container
        try:
            words = steps.send(reply)
        except StopIteration:
            return True
        if "inspect" in words:
            time.sleep(_MIN_PAUSE_S)
    return False


def _text(output: bytes) -> str:
    return output[-_MAX_OUTPUT:].decode(errors="replace").strip()
