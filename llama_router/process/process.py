"""Runs one program: spawn, relay of its output, stop; then it and its process tree are gone.

The tree itself is the subject of `process_tree`, which reads /proc through `procfs`.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs
import trio

from ..errors.backends import BackendUnreapableError, SpawnError
from ..errors.causes import Cause
from ..files import is_missing
from ..threads import thread_refusals
from ..timeouts import first_of, move_on_after_running, sleep_running
from . import procfs
from .process_tree import ProcessTree

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from .cgroup import ControlGroup

#: Seconds to wait for the kernel after SIGKILL. A process that is blocked in a device driver
#: may survive it; its memory then counts as taken.
REAP_TIMEOUT_S = 5.0

#: Seconds for the scan of /proc before SIGTERM. Reading about a process in uninterruptible
#: sleep may hang, and must not delay the signal for longer.
SCAN_TIMEOUT_S = 0.5

#: Bytes of one read from the pipe: its default capacity.
READ_BYTES = 64 * 1024

#: Most bytes that are read after the end: the largest capacity that an unprivileged user may
#: give to a pipe. It bounds the reading of a pipe that another process keeps filling.
MAX_DRAIN_BYTES = 1024 * 1024

#: Pauses between two scans for survivors of SIGKILL, in seconds.
_MIN_PAUSE_S = 0.0005
_MAX_PAUSE_S = 0.05

#: Errors of a start for which the program is not to blame; a retry may help.
_EXHAUSTED = {
    errno.EAGAIN: "no more processes are allowed",
    errno.EMFILE: "this router has too many open files",
    errno.ENFILE: "the machine has too many open files",
    errno.ENOMEM: "out of memory",
}


@attrs.define(eq=False, kw_only=True)
class SpawnedProcess:
    """A running program: its identity, its standard input and its end.

    Attributes:
        pid: Its process id; also that of its session and of its process group.
        start_time: Clock ticks since boot, see `procfs.start_time`.
        exited: Set once the process is gone; the rest of its tree may live a little longer.
    """

    pid: int
    start_time: int
    exited: trio.Event = attrs.field(factory=trio.Event)
    _process: trio.Process

    @property
    def returncode(self) -> int | None:
        """As in `subprocess.Popen.returncode`; None while it runs."""
        return self._process.returncode

    def write(self, data: bytes) -> bool:
        """Put *data* into its standard input; never blocks, never fails.

        Args:
            data: At most 4096 bytes (PIPE_BUF), which arrive whole or not at all.

        Returns:
            False if the pipe is full or closed, or if there is none.
        """
        stdin = self._process.stdin
        if not isinstance(stdin, trio.lowlevel.FdStream) or stdin.fileno() < 0:
            return False
        try:
            return os.write(stdin.fileno(), data) == len(data)
        except (BlockingIOError, BrokenPipeError):
            return False

    def close_stdin(self) -> None:
        """Close its standard input. No effect if there is no pipe or it is closed."""
        if isinstance(self._process.stdin, trio.lowlevel.FdStream):
            self._process.stdin.close()


async def run_process(  # noqa: PLR0913 -- each is one independent fact about the run
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None,
    stdin: Literal["pipe", "null"],
    grace_s: float,
    force_stop: trio.Event,
    on_output: Callable[[bytes], None],
    on_unkillable: Callable[[], None],
    marker: str,
    exit_command: bytes = b"",
    before_stop: Callable[[int], Awaitable[None]] | None = None,
    group: ControlGroup | None = None,
    task_status: trio.TaskStatus[SpawnedProcess] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Run a program; when this returns or raises, its whole process tree is gone.

    The program leads its own session. If it ends by itself, the rest of its tree is killed.
    If this call is cancelled, its process group gets SIGTERM, and SIGKILL *grace_s* seconds
    later; members that outlive the program itself are killed at once.

    If a process survives SIGKILL for `REAP_TIMEOUT_S` seconds, *on_unkillable* is called once
    and the wait continues, even if this call is cancelled: the memory is not free. Only
    *force_stop* bounds it.

    Args:
        argv: Program and arguments. A bare program name is looked up on *env*'s PATH.
        env: The whole environment, to which `procfs.BACKEND_VARIABLE` is added.
        cwd: Working directory; None for the router's own.
        stdin: Its standard input: a pipe that `SpawnedProcess.write` fills, or /dev/null.
        grace_s: Seconds between SIGTERM and SIGKILL.
        force_stop: Once set, a stop gets no grace, and the wait after SIGKILL is given up
            `REAP_TIMEOUT_S` seconds later. The router sets it for a forced shutdown.
        on_output: Called with each chunk of stdout and stderr, as read; must not block.
        on_unkillable: Called once if a process survives SIGKILL.
        marker: Unique name of this run, without white space.
        exit_command: Written to its standard input together with SIGTERM. A llama-server that
            reads commands there does not end without it.
        before_stop: Run with its pid before SIGTERM, if it still runs then: a way to end it that
            it knows itself. Cancelled when it has ended, or by *force_stop*; bounds itself.
        group: The control group of its tree, if there is one. Every process in it at the end
            belongs to the tree.
        task_status: Reports the process as soon as it runs.

    Returns:
        The exit status, as in `subprocess.Popen.returncode`. When cancelled, `Cancelled`
        passes through, and the status is in `SpawnedProcess.returncode`.

    Raises:
        SpawnError: if the program cannot be started.
        BackendUnreapableError: if the wait was given up, see *force_stop*. It may still run.
    """
    process = await _spawn(argv, env={**env, procfs.BACKEND_VARIABLE: marker}, cwd=cwd, stdin=stdin)
    # No checkpoint from here to the `try`: a cancellation there would orphan the process.
    spawned = SpawnedProcess(
        pid=process.pid, start_time=procfs.start_time(process.pid) or 0, process=process
    )
    tree = ProcessTree(spawned.pid, spawned.start_time, marker, group)
    gone = False

    try:
        async with trio.open_nursery() as nursery:
            # The reader outlives cancellation: a program that logs while it shuts down
            # would otherwise die of EPIPE, and its last output would be lost.
            reading = trio.CancelScope(shield=True)
            nursery.start_soon(_relay_output, process.stdout, on_output, reading)
            try:
                await tree.join_group()
                task_status.started(spawned)
                await process.wait()
                spawned.exited.set()
            finally:
                try:
                    request_exit = partial(spawned.write, exit_command)
                    if before_stop is not None:
                        await _ask(process, partial(before_stop, process.pid), force_stop)
                    gone = await _stop(
                        process, tree, request_exit, grace_s, force_stop, on_unkillable
                    )
                finally:
                    reading.cancel()
    finally:
        tree.close()
        spawned.close_stdin()
        if gone:
            spawned.exited.set()
        else:
            raise BackendUnreapableError(
                f"process {process.pid} ({argv[0]}) or one that it started survived SIGKILL"
            )
    assert process.returncode is not None
    return process.returncode


async def _spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | os.PathLike[str] | None,
    stdin: Literal["pipe", "null"],
) -> trio.Process:
    """Start a program in a session of its own.

    Trio starts it on a thread, and waits for that even if cancelled: no started process is
    lost.

    Raises:
        SpawnError: if it cannot be started.
    """
    try:
        with thread_refusals():
            return await trio.lowlevel.open_process(
                list(argv),
                stdin=subprocess.PIPE if stdin == "pipe" else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=dict(env),
                cwd=cwd,
            )
    except (OSError, ValueError, IndexError) as exc:
        raise _spawn_error(argv, cwd, exc) from exc


def _spawn_error(  # noqa: C901 -- one line for each reason
    argv: Sequence[str], cwd: str | os.PathLike[str] | None, exc: Exception
) -> SpawnError:
    """Return an error that names the program and the reason."""
    if not argv:
        return SpawnError("cannot start a backend: its command is empty")
    program = argv[0]
    if not isinstance(exc, OSError):  # a null byte, or what cannot be encoded
        return SpawnError(f"cannot start {program!r}: {exc}")
    if exc.errno in _EXHAUSTED:
        error = SpawnError(f"cannot start {program!r}: {_EXHAUSTED[exc.errno]}")
        error.retryable = True
        return error
    if cwd is not None and exc.filename == cwd:
        return SpawnError(
            f"cannot start {program!r}: its working directory {os.fspath(cwd)!r} "
            f"cannot be entered ({exc.strerror})"
        )
    match exc.errno:
        case errno.ENOENT if "/" not in program:
            why = "no such program on PATH"
        case errno.ENOENT if not is_missing(Path(cwd or ".", program)):
            why = "the interpreter or loader that it names does not exist"
        case errno.ENOENT:
            why = "no such file"
        case errno.EACCES:
            why = "permission denied; is it an executable file?"
        case errno.ENOEXEC:
            why = "it is neither a program for this machine nor a script with a #! line"
        case _:
            why = exc.strerror or str(exc)
    error = SpawnError(f"cannot start {program!r}: {why}")
    if exc.errno in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
        error.cause = Cause.COMMAND_MISSING
    return error


async def _ask(
    process: trio.Process, ask: Callable[[], Awaitable[None]], force_stop: trio.Event
) -> None:
    """Run *ask* until it returns, *process* has ended or *force_stop* is set."""
    if process.poll() is None:
        with trio.CancelScope(shield=True):  # *ask* bounds itself
            await first_of(ask, process.wait, force_stop.wait)


async def _stop(
    process: trio.Process,
    tree: ProcessTree,
    request_exit: Callable[[], object],
    grace_s: float,
    force_stop: trio.Event,
    on_unkillable: Callable[[], None],
) -> bool:
    """End *process* and the rest of its *tree*, see `run_process`.

    Returns:
        False if a survivor of SIGKILL was given up.
    """
    gone = False

    async def until_gone() -> None:
        nonlocal gone
        await _until_gone(process, tree)
        gone = True

    async def give_up() -> None:
        await force_stop.wait()
        await sleep_running(REAP_TIMEOUT_S)

    with trio.CancelScope(shield=True):  # every wait is bounded, the last by `force_stop`
        if process.poll() is None:
            with trio.move_on_after(SCAN_TIMEOUT_S):
                await tree.scan()
            _signal_group(process, signal.SIGTERM)
            request_exit()
            await move_on_after_running(partial(first_of, process.wait, force_stop.wait), grace_s)
            _signal_group(process, signal.SIGKILL)
        if not await move_on_after_running(until_gone, REAP_TIMEOUT_S):
            on_unkillable()
            await first_of(until_gone, give_up)
    return gone


async def _until_gone(process: trio.Process, tree: ProcessTree) -> None:
    """Kill until the process is reaped and two scans in a row find no member of its tree."""
    pause_s = _MIN_PAUSE_S
    empty = 0
    while empty < 2:
        found = await tree.kill_members()
        if not found and process.poll() is not None:
            # Twice: the list of children may miss one while another is just exiting.
            empty += 1
            continue
        empty = 0
        if process.poll() is None:
            with trio.move_on_after(pause_s):
                await process.wait()
        else:
            await trio.sleep(pause_s)
        pause_s = min(pause_s * 2, _MAX_PAUSE_S)


def _signal_group(process: trio.Process, signum: signal.Signals) -> None:
    """Signal the process group, unless its leader is reaped: its id may be reused then."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signum)


async def _relay_output(
    stream: trio.abc.ReceiveStream | None,
    on_output: Callable[[bytes], None],
    reading: trio.CancelScope,
) -> None:
    """Pass output to *on_output* until end-of-file, or until *reading* is cancelled.

    Each read is a checkpoint, so a program with much output does not starve other tasks. When
    *reading* is cancelled, the whole tree is gone and its last output is in the pipe: that is
    read without waiting, because a process outside the tree may hold the pipe open.
    """
    assert isinstance(stream, trio.lowlevel.FdStream)
    try:
        with reading:
            while data := await stream.receive_some(READ_BYTES):
                on_output(data)
            return
        drained = 0
        with suppress(BlockingIOError):
            while drained < MAX_DRAIN_BYTES and (data := os.read(stream.fileno(), READ_BYTES)):
                drained += len(data)
                on_output(data)
    finally:
        stream.close()
