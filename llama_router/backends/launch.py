"""One backend from its port to its end: spawn, wait until ready, run, reap."""

from __future__ import annotations

import errno
import os
import shlex
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import attrs
import trio

from ..core.config.command import command_line, environment, stop_command_line
from ..core.config.redaction import redacted_command
from ..core.config.specs import ModelSpec
from ..core.memory.devices import GPU_KINDS, DeviceKind, MachineReading
from ..core.memory.fit import Fit
from ..core.memory.learned import LaunchKey
from ..core.memory.report_lines import ReportLines
from ..core.prompt_cache.command import reason_against
from ..core.scheduling.waits import Step
from ..errors.backends import (
    BackendError,
    BackendUnreapableError,
    PortTakenError,
    ReadinessTimeoutError,
    SpawnError,
    first_error,
    quoted,
)
from ..errors.causes import PERMANENT_CAUSES, Cause
from ..logs.events import log
from ..logs.lines import Line
from ..model_logs.model_log import ModelLog
from ..model_logs.store import LogStore
from ..process import procfs
from ..process.background_writer import BackgroundWriter
from ..process.cgroup import ControlGroup, ControlGroups
from ..process.containers import remove
from ..process.family import Leader
from ..process.instances import InstanceRecord
from ..process.lifeline import Lifeline
from ..process.oom import OomDetector
from ..process.port_owner import foreign_listener, listening_addresses
from ..process.process import REAP_TIMEOUT_S, SCAN_TIMEOUT_S, SpawnedProcess, run_process
from ..timeouts import first_of, sleep_running
from . import child_protocol
from .backend import (
    Backend,
    BackendReady,
    BackendSlept,
    BackendSpawned,
    CacheMoves,
    LaunchEvent,
    LoadExpected,
    LoadProgress,
)
from .diagnosis import advice_on_probe
from .environment import withheld
from .exit_report import LAST_LINES, exit_error
from .kept_caches import KeptCache, KeptCaches
from .launch_plan import LaunchPlan, LoadReport, plan_launch
from .learned_launches import LearnedLaunches
from .load_watch import LoadWatch, StartOutcome
from .ports import Ports
from .preflight import check_files, in_start_thread
from .readiness import ReadinessState, wait_ready
from .slots import find_slots
from .stop_command import StopCommand

#: The address of every backend: only this machine can reach it.
BACKEND_HOST: Final = "127.0.0.1"

#: How often a backend that lost its port to another process is started again at once on
#: another port. After that it counts as a failure.
PORT_CHANGES: Final = 3

#: The number of ports among which such a port is chosen at random, because another router
#: may be allocating ports at the same moment.
_PORT_SPREAD: Final = 32

#: Seconds in which the name of a container is freed before a start.
FREE_NAME_S: Final = 60.0

#: GPUs that a backend can use.
REAL_GPU_KINDS: Final = GPU_KINDS - {DeviceKind.SIMULATED}

#: Seconds between two reports of a slow start.
REPORT_S: Final = 1.0


@attrs.define(eq=False, kw_only=True)
class Launcher:
    """Runs backends; holds what all backends of one router share.

    Attributes:
        instance: This router's marker in the environment of its backends.
        environ: The router's own environment.
        router_port: The router's port, for llama-server's child protocol.
        ports: Allocates ports.
        lifeline: Kills backends if the router is killed.
        record: The running backends, on disk.
        writer: Writes the record and removes control groups, in the background.
        logs: The output of backends.
        force_stop: Set when backends get no more grace.
        oom_detector: Detects that the kernel killed a backend.
        learned: What is known of launches from earlier loads.
        groups: Creates a control group per backend; None if none was delegated.
        read_machine: Reads the memory of all devices; None if they are not read.
        caches: Prompt caches that outlive their processes; None to keep none.
    """

    instance: str
    environ: Mapping[str, str]
    router_port: int
    ports: Ports
    lifeline: Lifeline
    record: InstanceRecord
    writer: BackgroundWriter
    logs: LogStore
    force_stop: trio.Event
    learned: LearnedLaunches
    oom_detector: OomDetector = attrs.field(factory=OomDetector)
    groups: ControlGroups | None = None
    read_machine: Callable[[], Awaitable[MachineReading]] | None = None
    caches: KeptCaches | None = None
    _withheld: dict[str, tuple[str, ...]] = attrs.field(
        factory=dict[str, tuple[str, ...]], init=False
    )
    _serial: count[int] = attrs.field(factory=lambda: count(1), init=False)
    _group_serial: count[int] = attrs.field(factory=lambda: count(1), init=False)

    async def __call__(self, spec: ModelSpec, report: Callable[[LaunchEvent], None]) -> None:
        """Run *spec*'s backend until it ends or this call is cancelled.

        A start that fails because another process took the port meanwhile is repeated at once
        on another port, up to `PORT_CHANGES` times.

        Args:
            spec: The model's settings.
            report: Called with the progress of the load, and once when the backend is ready;
                must not block.

        Raises:
            FileMissingError: if a file of the model is missing or unusable.
            SpawnError: if it cannot be started.
            PortTakenError: if another process answers on its port, again and again.
            ReadinessTimeoutError: if nothing moves for ``ready_timeout_s`` before it is ready,
                or it is not ready within ``ready_limit_s``.
            BackendExitedError: if it exits by itself.
            BackendUnreapableError: if it survives SIGKILL.
        """
        key = await check_files(spec)
        if key is not None:
            self.learned.note_launch(spec.id, key)
        free_gpus_mib = await self._read_gpus(self.learned.of(key).fit)
        slots_folder = await self._prepare_cache(spec, key)
        taken: list[int] = []
        while True:
            await trio.lowlevel.checkpoint_if_cancelled()
            ready = trio.Event()
            with self.ports.hold(taken, spread=_PORT_SPREAD if taken else 1) as port:
                try:
                    await self._run_on(port, spec, key, free_gpus_mib, slots_folder, ready, report)
                except* BackendError as group:
                    error = first_error(group)
                    final = len(taken) == PORT_CHANGES or not _can_change_port(spec)
                    if error.cause != Cause.PORT_IN_USE and not ready.is_set() and key is not None:
                        self.learned.forget_fit(key)
                    if error.cause != Cause.PORT_IN_USE or ready.is_set() or final:
                        raise
                    log.warning("backend.port_taken", model=spec.id, port=port, reason=str(error))
                else:
                    return
                taken.append(port)

    async def _read_gpus(self, fit: Fit | None) -> tuple[int, ...] | None:
        """Return what is free on each GPU if *fit*, an earlier choice, depends on it; else None."""
        if fit is None or not fit.gpus or self.read_machine is None:
            return None
        reading = await self.read_machine()
        gpus = (device for device in reading.devices if device.kind in REAL_GPU_KINDS)
        return tuple(int(device.total_mib - device.used_mib) for device in gpus)

    async def _prepare_cache(self, spec: ModelSpec, key: LaunchKey | None) -> Path | None:
        """Return the folder in which the slots of a start are kept; None if they are not."""
        if self.caches is None or not spec.spawn.keep_cache:
            return None
        words = (*spec.spawn.command, *spec.spawn.args)
        reason = reason_against(words, spec.spawn.env)
        if reason is not None:
            self.caches.skip(spec.id, reason)
            return None
        return await self.caches.prepare(spec.id, key)

    async def _restore_cache(
        self,
        backend: Backend,
        key: LaunchKey | None,
        folder: Path | None,
        report: Callable[[LaunchEvent], None],
    ) -> None:
        """Give *backend*, which serves no request yet, what was saved of its prompt cache."""
        if self.caches is None or key is None or folder is None:
            return
        cache = KeptCache(self.caches, backend, key, folder)
        if cache.has_files:
            report(CacheMoves(backend.model, Step.RESTORING))
            try:
                await cache.restore()
            finally:
                report(CacheMoves(backend.model, None))
        backend.cache = cache

    async def _run_on(
        self,
        port: int,
        spec: ModelSpec,
        key: LaunchKey | None,
        free_gpus_mib: tuple[int, ...] | None,
        slots_folder: Path | None,
        ready: trio.Event,
        report: Callable[[LaunchEvent], None],
    ) -> None:
        """Run a backend on *port*, see `__call__`; set *ready* once it serves."""
        model_log = self.logs.for_model(spec.id)
        plan = plan_launch(
            spec,
            learned=self.learned.of(key),
            port=port,
            host=BACKEND_HOST,
            environ=self.environ,
            router_port=self.router_port,
            free_gpus_mib=free_gpus_mib,
            slots_folder=None if slots_folder is None else str(slots_folder),
            marker=f"{self.instance}.{next(self._serial)}",
        )
        readiness = ReadinessState(announces=plan.program.speaks_child_protocol)
        watch = LoadWatch(health_endpoint=spec.spawn.health_endpoint)
        load = LoadReport(plan)

        def parse_report(line: Line) -> None:
            if not ready.is_set():
                load.read(line.text)
                if not readiness.is_refused:  # else it serves, and this may be about the probes
                    watch.note_line(line.text)
            if (state := child_protocol.parse_state(line.text)) is not None:
                readiness.update(state)
                sleeping = state.state == child_protocol.SLEEPING
                load.n_ctx_slot = state.n_ctx or load.n_ctx_slot
                if ready.is_set() and (sleeping or state.state == child_protocol.READY):
                    report(BackendSlept(spec.id, sleeping))
                elif state.progress is not None:
                    report(LoadProgress(spec.id, state.progress))

        model_log.on_line = parse_report
        report_lines = ReportLines(expected=plan.raises_verbosity)
        model_log.leaves_out = report_lines.has
        spawned_s = trio.current_time()
        expected_s = None
        if plan.learned.load_s is not None:
            expected_s = spawned_s + plan.learned.load_s
            report(LoadExpected(spec.id, expected_s))
        async with self._control_group(spec) as group, trio.open_nursery() as nursery:
            process: SpawnedProcess = await nursery.start(
                self._run, plan, port, model_log, group, ready
            )
            report(BackendSpawned(spec.id, Leader(process.pid, group)))
            wait = partial(self._wait_ready, spec, port, process, readiness, expected_s)
            outcome = await watch.wait(
                wait,
                pid=process.pid,
                stall_s=spec.spawn.ready_timeout_s,
                limit_s=spec.spawn.ready_limit_s,
            )
            if outcome is not StartOutcome.READY:
                elsewhere = await _find_elsewhere(spec, process, readiness)
                raise _not_ready(spec, port, readiness, outcome, model_log, elsewhere)
            backend = Backend(
                model=spec.id,
                spec=spec,
                host=BACKEND_HOST,
                port=port,
                pid=process.pid,
                spawned_s=spawned_s,
                ready_s=trio.current_time(),
                group=group,
                fit=load.fit,
                squeezed=load.squeezed,
                unsqueezed_mib=load.unsqueezed_mib,
            )
            backend.slots = await find_slots(
                backend, plan.program.argv, plan.env, asks=plan.program.speaks_child_protocol
            )
            load_s = round(trio.current_time() - spawned_s, 4)
            log.info("backend.ready", model=spec.id, pid=process.pid, port=port, load_s=load_s)
            ready.set()  # its load is proven, so an end from here on is no failed start
            await self._restore_cache(backend, key, slots_folder, report)
            backend.ready_s = trio.current_time()
            _report_fit(backend, model_log, repeated=not plan.reads_fit)
            report_lines.note_in(model_log.note)
            if key is not None:
                self.learned.update(key, load.learned(load_s=load_s, at_s=time.time()))
            report(BackendReady(backend))

    @asynccontextmanager
    async def _control_group(self, spec: ModelSpec) -> AsyncIterator[ControlGroup | None]:
        """Yield a new control group, or None; remove it at the end, when it is empty."""
        group = None
        if self.groups is not None:
            serial = next(self._group_serial)
            group = await in_start_thread(spec, self.groups.make, serial, spec.id)
        try:
            yield group
        finally:
            if group is not None:
                self.writer.enqueue(partial(_log_and_remove, group, spec))

    async def _run(
        self,
        plan: LaunchPlan,
        port: int,
        model_log: ModelLog,
        group: ControlGroup | None,
        ready: trio.Event,
        *,
        task_status: trio.TaskStatus[SpawnedProcess],
    ) -> None:
        """Run the process; at the end it is removed from the lifeline and the record."""
        spec, program = plan.spec, plan.program
        marker = plan.marker
        env = {**plan.env, procfs.INSTANCE_VARIABLE: self.instance}

        def report_unkillable() -> None:
            log.error(
                "backend.stuck",
                model=spec.id,
                reason="it survived SIGKILL; its memory counts as taken until it is gone",
            )

        process: SpawnedProcess | None = None
        oom_counters: dict[Path, int] = {}
        stopped = is_gone = True
        if plan.runs is not None and marker not in (plan.runs.name or marker):
            # Its name is not that of this run only, so an earlier container may have it.
            with trio.move_on_after(FREE_NAME_S):  # then the runtime itself says what is wrong
                await self._remove_container(plan, model_log)
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
                        force_stop=self.force_stop,
                        on_output=model_log.write,
                        on_unkillable=report_unkillable,
                        marker=marker,
                        exit_command=child_protocol.EXIT_COMMAND,
                        before_stop=self._stop_command(plan, port, env, model_log),
                        group=group,
                    )
                )
                self.lifeline.register(process.pid, process.start_time, marker)
                argv = redacted_command(program.argv)
                log.info("backend.spawned", model=spec.id, pid=process.pid, port=port, argv=argv)
                model_log.mark(f"pid {process.pid} started: {shlex.join(argv)}")
                self._report_withheld(spec, model_log)
                task_status.started(process)
                oom_counters = self.oom_detector.counters(process.pid)
                self.writer.enqueue(
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
                if plan.runs is not None:
                    is_gone = await self._end_container(plan, model_log)
                self.lifeline.unregister(process.pid)
                if is_gone:
                    self.writer.enqueue(partial(self.record.remove, process.pid))
        if not is_gone:
            raise BackendUnreapableError(f"the container of model {str(spec.id)!r} is still there")
        missed = None if ready.is_set() or not spec.spawn.checks_port_owner else port
        error = await exit_error(
            spec.id,
            process,
            model_log,
            oom_detector=self.oom_detector,
            oom_counters=oom_counters,
            missed_port=missed,
        )
        error.retryable = ready.is_set() or error.cause not in PERMANENT_CAUSES
        raise error

    def _stop_command(
        self, plan: LaunchPlan, port: int, env: Mapping[str, str], model_log: ModelLog
    ) -> Callable[[int], Awaitable[None]] | None:
        """Return what runs the stop command of a process; None if there is none."""
        spec = plan.spec
        if spec.spawn.stop_command is None:
            return None

        async def run(pid: int) -> None:
            argv = stop_command_line(
                spec, port=port, host=BACKEND_HOST, container=plan.container, pid=pid
            )
            command = StopCommand(
                model=spec.id,
                argv=argv,
                env=env,
                cwd=spec.spawn.cwd,
                timeout_s=spec.spawn.stop_timeout_s,
                marker=plan.marker,
                force_stop=self.force_stop,
                model_log=model_log,
            )
            await command.run()

        return run

    async def _end_container(self, plan: LaunchPlan, model_log: ModelLog) -> bool:
        """Remove the container of a backend that has ended; return whether it is certainly gone.

        Its memory counts until then, also if this call is cancelled. Only `force_stop` bounds it;
        the record on disk then keeps the backend for the next start of the router.
        """
        is_gone = False

        async def until_gone() -> None:
            nonlocal is_gone
            await self._remove_container(plan, model_log)
            is_gone = True

        async def give_up() -> None:
            await self.force_stop.wait()
            await sleep_running(REAP_TIMEOUT_S)

        with trio.CancelScope(shield=True):  # bounded by `force_stop`
            await first_of(until_gone, give_up)
        if not is_gone:
            self.record.keep()
        return is_gone

    async def _remove_container(self, plan: LaunchPlan, model_log: ModelLog) -> None:
        """Return once no container has the name of *plan*'s; a made-up name is not known."""
        if plan.runs is None or plan.runs.name is None:
            return
        model, name = plan.spec.id, plan.runs.name

        def report_stuck(reply: str) -> None:
            reason = (
                f"its container {name} is still there, and its memory counts as taken until it is "
                f"gone: {reply}"
            )
            log.error("backend.stuck", model=model, reason=reason)
            model_log.note(reason)

        if await remove(plan.runs, plan.env, on_stuck=report_stuck):
            log.info("backend.container_removed", model=model, container=name)
            model_log.note(f"its container {name} was removed")

    def _report_withheld(self, spec: ModelSpec, model_log: ModelLog) -> None:
        """Log the variables that the backend may need and does not get, once per model."""
        written = spec.spawn.command[0]
        names = withheld(self.environ, program=written, env=spec.spawn.env)
        if self._withheld.get(spec.id, ()) == names:
            return
        self._withheld[spec.id] = names
        if not names:
            return
        log.warning("backend.variables_withheld", model=spec.id, names=names)
        listed = ", ".join(names)
        model_log.note(f"not passed on from the router's environment, set them in env: {listed}")

    async def _wait_ready(
        self,
        spec: ModelSpec,
        port: int,
        process: SpawnedProcess,
        readiness: ReadinessState,
        expected_s: float | None,
    ) -> None:
        async def find_foreign() -> str | None:
            if not spec.spawn.checks_port_owner:
                return None
            # Abandoned with the wait: a scan of /proc may hang, see `process.SCAN_TIMEOUT_S`.
            return await in_start_thread(
                spec, foreign_listener, port, process.pid, abandon_on_cancel=True
            )

        path = spec.spawn.health_endpoint
        async with trio.open_nursery() as reporting:
            reporting.start_soon(_report, spec, readiness, expected_s)
            foreign = await wait_ready(
                BACKEND_HOST, port, path, readiness, find_foreign=find_foreign
            )
            reporting.cancel_scope.cancel()
        if foreign is not None:
            raise PortTakenError(
                f"the backend of model {str(spec.id)!r} has no port for itself: {foreign}"
            )


def _report_fit(backend: Backend, model_log: ModelLog, *, repeated: bool) -> None:
    """Log what llama.cpp's fitting chose, if there was one; with a warning if that is too little.

    Args:
        backend: The backend.
        model_log: The log of its model.
        repeated: Whether it was given as options.
    """
    fit = backend.fit
    if fit is None:
        return
    log.info(
        "backend.fitted",
        model=backend.model,
        n_ctx=fit.n_ctx,
        n_ctx_full=fit.n_ctx_full,
        n_gpu_layers=fit.n_gpu_layers,
        n_layers=fit.n_layers,
        took_s=None if repeated else fit.took_s,
        repeated=repeated,
    )
    if fit.is_reduced and not repeated:
        model_log.note(f"llama.cpp has fitted the model to the memory: {fit.describe()}")
    if backend.squeezed:
        reason = f"something else holds memory, so it has less than it could have: {fit.describe()}"
        log.warning("backend.squeezed", model=backend.model, reason=reason)
        model_log.note(reason)


def _log_and_remove(group: ControlGroup, spec: ModelSpec) -> None:
    """Log the peak memory of a backend, and remove its control group."""
    if (peak_bytes := group.peak_bytes()) is not None:
        log.info("backend.measured", model=spec.id, peak_mib=round(peak_bytes / 2**20, 1))
    group.remove()


def _can_change_port(spec: ModelSpec) -> bool:
    """Return whether the port appears in the backend's command or environment."""
    return any(
        render(spec, port=1, host=BACKEND_HOST) != render(spec, port=2, host=BACKEND_HOST)
        for render in (command_line, environment)
    )


async def _report(spec: ModelSpec, readiness: ReadinessState, expected_s: float | None) -> None:
    """Log every second what a start waits for."""
    begun_s = trio.current_time()
    while True:
        await trio.sleep(REPORT_S)
        now_s = trio.current_time()
        left_s = None if expected_s is None or expected_s <= now_s else expected_s - now_s
        log.info(
            "backend.loading",
            model=spec.id,
            waited_s=round(now_s - begun_s, 1),
            left_s=None if left_s is None else round(left_s, 1),
            timeout_s=spec.spawn.ready_timeout_s,
            limit_s=spec.spawn.ready_limit_s,
            progress=readiness.progress,
            awaited=(
                f"{spec.spawn.health_endpoint} to answer 200; last seen: {readiness.last_probe}"
            ),
        )


async def _find_elsewhere(
    spec: ModelSpec, process: SpawnedProcess, readiness: ReadinessState
) -> tuple[str, ...]:
    """Return the addresses on which a backend listens that refuses connections to its port."""
    found: tuple[str, ...] = ()
    if readiness.last_probe == os.strerror(errno.ECONNREFUSED):
        with trio.move_on_after(SCAN_TIMEOUT_S), suppress(SpawnError):
            found = await in_start_thread(
                spec, listening_addresses, process.pid, abandon_on_cancel=True
            )
    return found


def _not_ready(
    spec: ModelSpec,
    port: int,
    readiness: ReadinessState,
    outcome: StartOutcome,
    model_log: ModelLog,
    elsewhere: tuple[str, ...],
) -> ReadinessTimeoutError:
    if outcome is StartOutcome.LATE:
        when = f"within {spec.spawn.ready_limit_s:g} s (ready_limit_s)"
    else:
        when = (
            f"when nothing had moved for {spec.spawn.ready_timeout_s:g} s (ready_timeout_s): "
            "no output, and nothing read, written or put into memory"
        )
    tail = model_log.tail(LAST_LINES, since_mark=True)
    output = f"; its last output: {quoted(tail)}" if tail else "; it has not printed anything"
    advice = advice_on_probe(readiness.last_probe)
    if elsewhere:
        advice = f"; it listens on {', '.join(elsewhere)}, and must listen on $host and $port"
    return ReadinessTimeoutError(
        f"the backend of model {str(spec.id)!r} was not ready {when}: "
        f"http://{BACKEND_HOST}:{port}{spec.spawn.health_endpoint}: "
        f"{readiness.last_probe}{advice}{output}"
    )
