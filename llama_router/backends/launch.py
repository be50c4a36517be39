"""One backend from its port to its end: spawn, wait until ready, run, reap."""

from __future__ import annotations

import os
import shlex
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, NoReturn, TypeVar, TypeVarTuple

import attrs
import structlog
import trio

from ..absence import is_absent
from ..core import child_protocol
from ..core.config.command_line import command_line, environment
from ..core.config.masking import masked_command
from ..core.config.model_spec import ModelSpec
from ..core.config.names import ModelId
from ..core.explain import HOPELESS, KILLED, LOOK_BACK_LINES, Cause, Explanation, explain
from ..core.logs.lines import Line
from ..errors.backends import (
    BackendError,
    BackendExitedError,
    FileMissingError,
    PortTakenError,
    ReadinessTimeoutError,
    SpawnError,
    first_error,
    quoted,
)
from ..patience import patient_wait
from ..threads import RETRY_S, ThreadRefusedError, in_thread
from . import proctree
from .backend import Backend
from .cgroup import ControlGroup, ControlGroups
from .environment import Program, find_program, inherited
from .instances import InstanceRecord
from .lifeline import Lifeline
from .model_log import ModelLog
from .oom import Kernel
from .output import LogStore
from .port_owner import anybody_on, stranger_on
from .ports import Ports
from .process import SpawnedProcess, run_process
from .readiness import Loading, wait_ready

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

log = structlog.get_logger()

#: Where backends listen: never reachable from outside, whatever the router listens on.
BACKEND_HOST: Final = "127.0.0.1"

#: Tells llama-server what to call its model. An ``--alias`` in its command goes before it.
ALIAS_VARIABLE: Final = "LLAMA_ARG_ALIAS"

#: What may help a backend that was not ready in time, by what the last probe saw.
_ADVICE: Final = {
    "404": "; set health_endpoint to a path that answers 200",
    "503": "; if it only needs longer, raise ready_timeout_s",
    "Connection refused": "; if it only needs longer, raise ready_timeout_s",
}

#: Lines of output quoted when a backend fails.
LAST_LINES: Final = 8

#: Seconds that may go into finding out why a backend exited.
EXPLAIN_TIMEOUT_S: Final = 3.0

#: Seconds that the last writes about backends get when the router ends.
LAST_WRITES_S: Final = 1.0

#: How often a backend whose port was taken before it could bind it is started at once with
#: another one. Then it counts as a failure.
PORT_CHANGES: Final = 3

#: Among how many ports such a one is chosen by chance: another router looks for one, too.
_PORT_SPREAD: Final = 32

#: How often a start that takes long is reported, in seconds.
REPORT_S: Final = 1.0


@attrs.define(eq=False, kw_only=True)
class Launcher:
    """What all backends of one router share.

    Attributes:
        instance: This router's marker in the environment of its backends.
        environ: The router's own environment.
        router_port: The router's port, which llama-server wants to know.
        ports: Whom to ask for a port.
        lifeline: Ends backends if the router is killed.
        record: What runs, on disk.
        logs: Where output goes.
        hurry: Set when backends get no more grace.
        kernel: Asked whether it killed a backend.
        groups: Where backends get control groups of their own, if they can.
        on_progress: Told how much of a model is loaded, 0 to 1.
    """

    instance: str
    environ: Mapping[str, str]
    router_port: int
    ports: Ports
    lifeline: Lifeline
    record: InstanceRecord
    logs: LogStore
    hurry: trio.Event
    kernel: Kernel = attrs.field(factory=Kernel)
    groups: ControlGroups | None = None
    on_progress: Callable[[ModelId, float], None] | None = None
    _serial: count[int] = attrs.field(factory=lambda: count(1), init=False)
    _group_serial: count[int] = attrs.field(factory=lambda: count(1), init=False)
    _writes: deque[Callable[[], None]] = attrs.field(factory=deque[Callable[[], None]], init=False)
    _written: trio.Event = attrs.field(factory=trio.Event, init=False)
    _writing: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    async def __call__(
        self,
        spec: ModelSpec,
        *,
        task_status: trio.TaskStatus[Backend] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run *spec*'s backend until it ends or this is cancelled; report it once ready.

        A start that fails because somebody else has taken the port meanwhile is repeated at
        once with another one, up to `PORT_CHANGES` times.

        Raises:
            FileMissingError: if a file of the model is not there.
            SpawnError: if it cannot be started.
            PortTakenError: if somebody else answers on its port, again and again.
            ReadinessTimeoutError: if it is not ready within ``ready_timeout_s``.
            BackendExitedError: if it exits without being asked to.
            BackendUnreapableError: if it cannot be ended.
        """
        await _check_files(spec)
        taken: list[int] = []
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            ready = trio.Event()
            with self.ports.lease(taken, spread=_PORT_SPREAD if taken else 1) as port:
                try:
                    await self._run_on(port, spec, ready, task_status)
                except* BackendError as group:
                    error = first_error(group)
                    hopeless = len(taken) == PORT_CHANGES or not _can_change_port(spec)
                    if error.cause != Cause.PORT_IN_USE or ready.is_set() or hopeless:
                        raise
                    log.warning("backend.port_taken", model=spec.id, port=port, reason=str(error))
                else:
                    return
                taken.append(port)

    async def _run_on(
        self, port: int, spec: ModelSpec, ready: trio.Event, task_status: trio.TaskStatus[Backend]
    ) -> None:
        """Run a backend on *port*, see `__call__`; set *ready* when it is."""
        model_log = self.logs.for_model(spec.id)
        argv = command_line(spec, port=port, host=BACKEND_HOST)
        program = find_program(argv, path=spec.spawn.env.get("PATH"))
        loading = Loading(announces=program.speaks_child_protocol)

        def listen(line: Line) -> None:
            if (state := child_protocol.parse_state(line.text)) is not None:
                loading.note(state)
                if state.progress is not None and self.on_progress is not None:
                    self.on_progress(spec.id, state.progress)

        model_log.on_line = listen
        spawned_s = trio.current_time()
        async with self._control_group(spec) as group, trio.open_nursery() as nursery:
            process: SpawnedProcess = await nursery.start(
                self._run, spec, program, port, model_log, group, ready
            )
            wait = partial(self._wait_ready, spec, port, process, loading)
            if not await patient_wait(wait, spec.spawn.ready_timeout_s):
                raise _not_ready(spec, port, loading, model_log)
            backend = Backend(
                model=spec.id,
                spec=spec,
                host=BACKEND_HOST,
                port=port,
                pid=process.pid,
                spawned_s=spawned_s,
                ready_s=trio.current_time(),
                group=group,
            )
            log.info(
                "backend.ready",
                model=spec.id,
                pid=process.pid,
                port=port,
                load_s=round(backend.ready_s - spawned_s, 4),
            )
            ready.set()
            task_status.started(backend)

    @asynccontextmanager
    async def _control_group(self, spec: ModelSpec) -> AsyncIterator[ControlGroup | None]:
        """Make a control group, if there can be one; remove it at the end, when it is empty."""
        group = None
        if self.groups is not None:
            number = next(self._group_serial)
            group = await _for_a_start(spec, self.groups.make, number, spec.id)
        try:
            yield group
        finally:
            if group is not None:
                self._note(partial(_settle, group, spec))

    async def _run(
        self,
        spec: ModelSpec,
        program: Program,
        port: int,
        model_log: ModelLog,
        group: ControlGroup | None,
        ready: trio.Event,
        *,
        task_status: trio.TaskStatus[SpawnedProcess],
    ) -> None:
        """Run the process; what it leaves behind in our books is gone when this ends."""
        marker = f"{self.instance}.{next(self._serial)}"
        env = inherited(self.environ) | environment(spec, port=port, host=BACKEND_HOST)
        env[proctree.INSTANCE_VARIABLE] = self.instance
        if program.speaks_child_protocol:
            env[child_protocol.ENV_VARIABLE] = str(self.router_port)
            # Answers name the model as the router does: llama.cpp's UI goes on with that name.
            env.setdefault(ALIAS_VARIABLE, spec.id)

        def stuck() -> None:
            log.error(
                "backend.stuck",
                model=spec.id,
                reason="it survived SIGKILL; its memory counts as taken until it is gone",
            )

        process: SpawnedProcess | None = None
        oom_counters: dict[Path, int] = {}
        stopped = True
        try:
            async with trio.open_nursery() as nursery:
                process = await nursery.start(
                    partial(
                        run_process,
                        program.argv,
                        env=env,
                        cwd=spec.spawn.cwd,
                        stdin="pipe" if program.speaks_child_protocol else "null",
                        grace_s=spec.spawn.stop_timeout_s,
                        hurry=self.hurry,
                        on_output=model_log.write,
                        on_stuck=stuck,
                        marker=marker,
                        exit_order=child_protocol.EXIT_COMMAND,
                        group=group,
                    )
                )
                self.lifeline.register(process.pid, process.start_time, marker)
                argv = masked_command(program.argv)
                log.info("backend.spawned", model=spec.id, pid=process.pid, port=port, argv=argv)
                model_log.mark(f"pid {process.pid} started: {shlex.join(argv)}")
                task_status.started(process)
                oom_counters = self.kernel.oom_counters(process.pid)
                self._note(
                    partial(
                        self.record.add,
                        process.pid,
                        process.start_time,
                        argv=argv,
                        model=spec.id,
                        marker=marker,
                    )
                )
            stopped = False
        finally:
            model_log.end_of_process()
            if process is not None:
                if stopped:
                    model_log.note(f"pid {process.pid} was ended by the router")
                self.lifeline.unregister(process.pid)
                self._note(partial(self.record.remove, process.pid))
        missed = None if ready.is_set() or not spec.spawn.check_port_owner else port
        error = await self._exited(spec, process, oom_counters, model_log, missed)
        error.retryable = ready.is_set() or error.cause not in HOPELESS
        raise error

    async def _exited(
        self,
        spec: ModelSpec,
        process: SpawnedProcess,
        oom_counters: dict[Path, int],
        model_log: ModelLog,
        missed: int | None,
    ) -> BackendExitedError:
        """Return the error that says how *process* ended, and why as far as can be told.

        Args:
            spec: Whose it was.
            process: It, with all that it started, is gone.
            oom_counters: What the kernel had counted when it began.
            model_log: What it said.
            missed: The port that it was to listen on, if it was never ready.
        """
        returncode = process.returncode or 0
        tail = model_log.tail(LOOK_BACK_LINES, since_mark=True)

        def find_out() -> Explanation:
            since_s = process.start_time / os.sysconf("SC_CLK_TCK")
            oom_killed = returncode in KILLED and self.kernel.oom_killed(
                process.pid, oom_counters, since_s=since_s
            )
            found = explain(returncode, tail, oom_killed=oom_killed)
            # Not all programs say so, or live long enough for that.
            if found.cause is Cause.UNKNOWN and missed and anybody_on(missed):
                return Explanation(
                    Cause.PORT_IN_USE,
                    f"another program listens on port {missed}, which was meant for it",
                )
            return found

        found = explain(returncode, ())
        with trio.move_on_after(EXPLAIN_TIMEOUT_S):
            with suppress(ThreadRefusedError):
                found = await in_thread(find_out, abandon_on_cancel=True)
        error = BackendExitedError(
            spec.id,
            returncode,
            tail[-LAST_LINES:],
            cause=found.cause,
            reason=found.sentence,
            evidence=found.evidence,
        )
        how = f"code {returncode}" if returncode >= 0 else f"signal {-returncode}"
        why = f": {found.sentence}" if found.sentence else ""
        model_log.note(f"pid {process.pid} ended with {how}{why}")
        return error

    def _note(self, write: Callable[[], None]) -> None:
        """Let the record be written soon. A late record is harmless, a late swap is not."""
        self._writes.append(write)
        self._written.set()

    async def keep_record(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Write the record, in order, until cancelled; a full disk costs no backend.

        Cancel it only after the backends: what they have left to write is written then, too,
        for up to `LAST_WRITES_S`.
        """
        task_status.started()
        try:
            while True:
                await self._written.wait()
                self._written = trio.Event()
                await self._write_all()
        finally:
            with trio.move_on_after(LAST_WRITES_S, shield=True):
                await self._write_all()

    async def _write_all(self) -> None:
        while self._writes:
            try:
                # Taken out on the thread: a cancellation may come before that is done.
                await in_thread(self._write_next, abandon_on_cancel=True)
            except ThreadRefusedError:
                await trio.sleep(RETRY_S)
            except OSError as exc:
                path = str(self.record.path)
                log.warning("instances.unwritten", path=path, reason=exc.strerror)

    def _write_next(self) -> None:
        # A wait that was cancelled leaves its thread behind: then there are two.
        with self._writing:
            if self._writes:
                try:
                    self._writes[0]()
                finally:
                    self._writes.popleft()

    async def _wait_ready(
        self, spec: ModelSpec, port: int, process: SpawnedProcess, loading: Loading
    ) -> None:
        async def is_ours() -> str | None:
            if not spec.spawn.check_port_owner:
                return None
            # Abandoned with the wait: reading about a process may hang, see `LOOK_TIMEOUT_S`.
            return await _for_a_start(spec, stranger_on, port, process.pid, abandon_on_cancel=True)

        path = spec.spawn.health_endpoint
        async with trio.open_nursery() as reporting:
            reporting.start_soon(_report, spec, loading)
            stranger = await wait_ready(BACKEND_HOST, port, path, loading, is_ours=is_ours)
            reporting.cancel_scope.cancel()
        if stranger is not None:
            raise PortTakenError(
                f"the backend of model {str(spec.id)!r} has no port for itself: {stranger}"
            )


def _settle(group: ControlGroup, spec: ModelSpec) -> None:
    """Say what a backend needed, and remove its control group."""
    if (peak_bytes := group.peak_bytes()) is not None:
        log.info("backend.measured", model=spec.id, peak_mib=round(peak_bytes / 2**20, 1))
    group.remove()


async def _check_files(spec: ModelSpec) -> None:
    """Make sure that no file of the model is missing.

    Raises:
        FileMissingError: if one is.
        SpawnError: if the system refuses the thread that looks.
        ReadinessTimeoutError: if that cannot be found out within ``ready_timeout_s``.
    """
    absent: str | None = None

    async def look() -> None:
        nonlocal absent
        absent = await _for_a_start(spec, _absent_file, spec, abandon_on_cancel=True)

    if not await patient_wait(look, spec.spawn.ready_timeout_s):
        raise ReadinessTimeoutError(
            f"the file system with {spec.path} of model {str(spec.id)!r} did not say within "
            f"{spec.spawn.ready_timeout_s:g} s (ready_timeout_s) whether the file is there"
        )
    if absent is not None:
        raise FileMissingError(str(spec.id), absent)


async def _for_a_start(
    spec: ModelSpec,
    sync_fn: Callable[[*Ts], T],
    *args: *Ts,
    abandon_on_cancel: bool = False,
) -> T:
    """Do what a start needs on a thread.

    Raises:
        SpawnError: if the system refuses one; trying again may help.
    """
    try:
        return await in_thread(sync_fn, *args, abandon_on_cancel=abandon_on_cancel)
    except ThreadRefusedError as exc:
        error = SpawnError(f"cannot start a backend of model {str(spec.id)!r}: {exc}")
        error.retryable = True
        raise error from exc


def _can_change_port(spec: ModelSpec) -> bool:
    """Say whether the backend is told where to listen."""
    return any(
        tell(spec, port=1, host=BACKEND_HOST) != tell(spec, port=2, host=BACKEND_HOST)
        for tell in (command_line, environment)
    )


def _absent_file(spec: ModelSpec) -> str | None:
    """Return a file of the model that is not there (any more)."""
    files = (path for path in (spec.path, spec.mmproj) if path is not None)
    return next((path for path in files if is_absent(path)), None)


async def _report(spec: ModelSpec, loading: Loading) -> None:
    """Say every second what a start waits for."""
    begun_s = trio.current_time()
    while True:
        await trio.sleep(REPORT_S)
        log.info(
            "backend.loading",
            model=spec.id,
            waited_s=round(trio.current_time() - begun_s, 1),
            timeout_s=spec.spawn.ready_timeout_s,
            progress=loading.progress,
            awaited=f"{spec.spawn.health_endpoint} to answer 200; last seen: {loading.seen}",
        )


def _not_ready(
    spec: ModelSpec, port: int, loading: Loading, model_log: ModelLog
) -> ReadinessTimeoutError:
    tail = model_log.tail(LAST_LINES, since_mark=True)
    said = f"; its last output: {quoted(tail)}" if tail else "; it has not printed anything"
    advice = _ADVICE.get(loading.seen, "")
    return ReadinessTimeoutError(
        f"the backend of model {str(spec.id)!r} was not ready within "
        f"{spec.spawn.ready_timeout_s:g} s (ready_timeout_s): "
        f"http://{BACKEND_HOST}:{port}{spec.spawn.health_endpoint}: {loading.seen}{advice}{said}"
    )
