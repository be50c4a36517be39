"""The router's side of the guardian: keeps one running, and registers the backends with it."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from ..errors.backends import SpawnError
from ..logs.events import log
from ..threads import thread_refusals
from . import guardian

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds to wait for the guardian's exit. It first kills the trees that are registered
#: still; in an orderly stop there are none.
EXIT_TIMEOUT_S = guardian.END_TIMEOUT_S * 1.5 + 1.0

#: Seconds between two attempts to start a guardian: doubled from the first to the last.
_MIN_RETRY_S = 0.1
_MAX_RETRY_S = 5.0

#: The package's folder goes last on the path: no installed package shadows the standard library.
_BOOTSTRAP = (
    "import sys; sys.path.append(sys.argv[1]); "
    "from llama_router.process.guardian import main; main(sys.argv[2:])"
)

#: Variables that an interpreter may need in order to start.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PATH")


class Lifeline:
    """Ensures that no backend outlives the router, not even if SIGKILL ends the router.

    Args:
        instance: This router's marker: the value of `procfs.INSTANCE_VARIABLE` in the
            environment of all its backends. No white space.
    """

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._backends: dict[int, tuple[int, str]] = {}
        self._process: trio.Process | None = None
        self._pipe: trio.lowlevel.FdStream | None = None

    @property
    def guardian_pid(self) -> int | None:
        """The guardian's pid; None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def guarded(self) -> Mapping[int, tuple[int, str]]:
        """The registered processes: pid to start time and marker."""
        return dict(self._backends)

    def register(self, pid: int, start_time: int, marker: str) -> None:
        """Register the tree under the session leader *pid*. Never blocks.

        Args:
            pid: The backend's process.
            start_time: Its start time, from `procfs.start_time`.
            marker: Value of `procfs.BACKEND_VARIABLE` in its environment. No white space.
        """
        self._backends[pid] = (start_time, marker)
        self._send(f"+ {pid} {start_time} {marker}\n")

    def unregister(self, pid: int) -> None:
        """Unregister *pid*: its whole tree is gone. Never blocks."""
        if self._backends.pop(pid, None) is not None:
            self._send(f"- {pid}\n")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep a guardian running until cancelled; reports once the first one runs.

        Cancel it only after the backends. The guardian is gone when this returns: after
        milliseconds, or after at most `EXIT_TIMEOUT_S` if it has trees to kill.

        Raises:
            SpawnError: if the first guardian cannot be started.
        """
        retry_s = _MIN_RETRY_S
        started_once = False
        while True:
            try:
                process = await self._start()
            except OSError as exc:
                if not started_once:
                    raise SpawnError(f"cannot start the guardian process: {exc}") from exc
                log.error("guardian.failed", error=str(exc), retry_in_s=retry_s)
            else:
                if not started_once:
                    started_once = True
                    task_status.started()
                since = trio.current_time()
                try:
                    await process.wait()
                finally:
                    await self._end(process)
                if trio.current_time() - since > _MAX_RETRY_S:
                    retry_s = _MIN_RETRY_S
                log.warning(
                    "guardian.exited",
                    pid=process.pid,
                    returncode=process.returncode,
                    backends=len(self._backends),
                    retry_in_s=retry_s,
                )
            await trio.sleep(retry_s)
            retry_s = min(retry_s * 2, _MAX_RETRY_S)

    async def _start(self) -> trio.Process:
        """Start a guardian, and register all backends with it.

        Raises:
            OSError: if it cannot be started.
        """
        with thread_refusals():
            process = await trio.lowlevel.open_process(
                [
                    sys.executable,
                    "-I",  # isolated from the user's environment and folders
                    "-S",  # without site: half the start-up time
                    "-c",
                    _BOOTSTRAP,
                    str(Path(__file__).parents[2]),
                    self._instance,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
                start_new_session=True,
            )
        assert isinstance(process.stdin, trio.lowlevel.FdStream)
        self._process, self._pipe = process, process.stdin
        for pid, (start_time, marker) in self._backends.items():
            self._send(f"+ {pid} {start_time} {marker}\n")
        return process

    async def _end(self, process: trio.Process) -> None:
        """End a guardian by closing its pipe, and reap it. Each wait has a deadline."""
        if not self._backends:
            self._send(".\n")
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()  # a synchronous method of FdStream: no shield needed
        with trio.move_on_after(EXIT_TIMEOUT_S, shield=True):
            await process.wait()
        if process.returncode is None:
            process.kill()
            with trio.move_on_after(EXIT_TIMEOUT_S, shield=True):
                await process.wait()
        self._process = None

    def _send(self, line: str) -> None:
        """Write one line; it is shorter than PIPE_BUF, hence whole or not at all."""
        if self._pipe is None or self._process is None:
            return  # all backends are registered with the next guardian
        try:
            os.write(self._pipe.fileno(), line.encode())
        except BlockingIOError:
            # A thousand lines are unread: it is stopped or hangs. Start another one.
            with suppress(ProcessLookupError):
                self._process.kill()
        except BrokenPipeError:
            pass  # it just died; `run` starts another one
