"""The state of the router and its models, as ``GET /admin/status`` answers it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio

from ... import __version__
from ...backends.backend import Backend
from ...core.apis.notices import sentence_about
from ...core.config.config import Config
from ...core.config.names import ModelId
from ...core.config.redaction import redacted_config
from ...core.config.reload import ReloadReport
from ...core.config.specs import ModelSpec
from ...core.memory.fit import options_of
from ...core.scheduling.lifecycle import Phase
from ...core.scheduling.state import ModelStatistics
from ...errors.backends import BackendError, BackendExitedError
from ...errors.config import Problem
from ...process import procfs
from ...threads import in_thread
from ..llama_cpp.entries import BackendInfo
from ..llama_cpp.model_facts import context_length
from ..web.context import ControlContext
from . import schemas
from .memory import describe_claims, describe_devices, describe_footprint

#: Statistics of a model that a reload removed while a request waited for its end.
_REMOVED: Final = ModelStatistics(
    phase=Phase.STOPPED, in_flight=0, queued=0, failures=0, last_error=None
)

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class StatusPage:
    """Describes the router of *context* and its models."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._redacted: tuple[Config, dict[str, Any]] | None = None
        self._contexts: dict[ModelId, tuple[ModelSpec, BackendInfo | None, int | None]] = {}

    async def router(self, *, with_configuration: bool) -> schemas.Status:
        """Return the state of the whole router."""
        context = self._context
        config = context.dispatcher.config
        memory_mib = await self._memory(self._shown())
        configuration: dict[str, Any] | None = None
        if with_configuration:
            if self._redacted is None or self._redacted[0] is not config:
                # On a thread: hundreds of models take a few milliseconds.
                self._redacted = (config, await in_thread(redacted_config, config))
            configuration = self._redacted[1]
        return schemas.Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=round(time.time() - context.started_s, 3),
            urls=list(context.urls()),
            state_dir=str(context.state_dir),
            config_path=str(context.config_path),
            programs=[
                schemas.Program(
                    program=each.program,
                    version=each.version,
                    devices=None if each.devices is None else list(each.devices),
                    warning=each.fault or each.warning,
                    summary=each.describe(),
                )
                for each in context.programs.programs
            ],
            devices=describe_devices(
                context.memory.view,
                (each.claims for each in context.dispatcher.statistics().values()),
            ),
            device_faults=list(context.memory.faults),
            reload=describe_reload(context.report()),
            models=[
                self._model(spec, memory_mib) for spec in self._shown()
            ],  # again: a reload may have run
            configuration=configuration,
        )

    async def model(self, spec: ModelSpec) -> schemas.Model:
        """Return the state of one model."""
        return self._model(spec, await self._memory([spec]))

    def _shown(self) -> list[ModelSpec]:
        """Return all models, and removed ones with a process: their memory is not free yet."""
        dispatcher = self._context.dispatcher
        return [*dispatcher.config.models.values(), *dispatcher.leaving()]

    def _waits_for(self, statistics: ModelStatistics) -> str | None:
        oldest = next(iter(statistics.waiting_since_s), None)
        if oldest is None:
            return None
        wait = self._context.dispatcher.wait_of(oldest)
        return None if wait is None else sentence_about(wait)

    async def _memory(self, specs: Iterable[ModelSpec]) -> dict[int, float]:
        """Return the memory of each ready backend by its pid, in MiB."""
        backend_of = self._context.dispatcher.backend
        ready = [backend for spec in specs if (backend := backend_of(spec.id)) is not None]
        if not ready:
            return {}
        return await in_thread(
            lambda: {backend.pid: memory_mib_of(backend) for backend in ready},
            abandon_on_cancel=True,
        )

    def _load_left_s(self, spec: ModelSpec, statistics: ModelStatistics) -> float | None:
        if statistics.phase is not Phase.STARTING:
            return None
        left_s = self._context.dispatcher.waits.left_s(spec.id)
        return None if left_s is None else round(left_s, 3)

    def _load_progress(self, spec: ModelSpec, statistics: ModelStatistics) -> float | None:
        if statistics.phase is not Phase.STARTING:
            return None
        progress = self._context.dispatcher.waits.progress(spec.id)
        return None if progress is None else round(progress, 3)

    def _n_ctx(self, spec: ModelSpec) -> int | None:
        """Return the context of one request to a model, as lists for clients have it."""
        info = self._context.model_info.get(spec.id)
        known = self._contexts.get(spec.id)
        if known is not None and known[0] is spec and known[1] == info:
            return known[2]
        n_ctx = context_length(spec) if info is None else context_length(spec, reported=info.fields)
        self._contexts[spec.id] = spec, info, n_ctx
        return n_ctx

    def _model(self, spec: ModelSpec, memory_mib: dict[int, float]) -> schemas.Model:
        dispatcher = self._context.dispatcher
        statistics = dispatcher.statistics_of(spec.id) or _REMOVED
        backend = dispatcher.backend(spec.id)
        file = self._context.model_info.file(spec)
        now_s = trio.current_time()

        def key_of(request: int) -> str | None:
            lease = dispatcher.find_lease(request)
            return None if lease is None else lease.caller

        def age_s(request: int) -> float:
            lease = dispatcher.find_lease(request)
            return 0.0 if lease is None else round(now_s - lease.arrived_s, 3)

        return schemas.Model(
            id=str(spec.id),
            aliases=list(spec.aliases),
            group=spec.group,
            state=spec.state.value,
            autoload=spec.autoload,
            unlisted=spec.unlisted,
            phase=statistics.phase.value,
            sleeping=backend is not None and backend.sleeping,
            pid=None if backend is None else backend.pid,
            port=None if backend is None else backend.port,
            memory_mib=None if backend is None else memory_mib.get(backend.pid),
            claims=describe_claims(statistics.claims),
            footprint=describe_footprint(self._context.memory.view.footprints.get(spec.id)),
            size_bytes=file.size_bytes,
            quantization=file.quant,
            n_ctx=self._n_ctx(spec),
            waits_for=self._waits_for(statistics),
            ready_for_s=None if backend is None else round(now_s - backend.ready_s, 3),
            load_progress=self._load_progress(spec, statistics),
            load_left_s=self._load_left_s(spec, statistics),
            fit=None if backend is None else _fit(backend),
            idle_for_s=_ago(statistics.idle_since_s, now_s),
            ttl_left_s=_ttl_left_s(statistics, now_s),
            in_flight=statistics.in_flight,
            queued=statistics.queued,
            serving=[
                schemas.Serving(id=request, age_s=age_s(request), key=key_of(request))
                for request in statistics.requests
            ],
            waiting=[
                schemas.Waiting(id=request, waited_s=round(now_s - since_s, 3), key=key_of(request))
                for request, since_s in statistics.waiting_since_s.items()
            ],
            failures=statistics.failures,
            crashed=statistics.crashed,
            retry_in_s=(
                None
                if statistics.retry_at_s is None
                else round(max(0.0, statistics.retry_at_s - now_s), 3)
            ),
            last_error=_failure(statistics.last_error, _ago(statistics.failed_s, now_s)),
        )


def _fit(backend: Backend) -> schemas.Fit | None:
    fit = backend.fit
    if fit is None:
        return None
    return schemas.Fit(
        n_ctx=fit.n_ctx,
        n_ctx_full=fit.n_ctx_full,
        n_gpu_layers=fit.n_gpu_layers,
        n_layers=fit.n_layers,
        squeezed=backend.squeezed,
        options=list(options_of(fit, backend.spec)) if fit.is_exact else [],
        summary=fit.describe(),
    )


def _ttl_left_s(statistics: ModelStatistics, now_s: float) -> float | None:
    """Return the time until an idle model is unloaded; None if it is busy, or stays."""
    if statistics.idle_since_s is None or math.isinf(statistics.stays_s):
        return None
    return round(max(0.0, statistics.idle_since_s + statistics.stays_s - now_s), 3)


def _ago(since_s: float | None, now_s: float) -> float | None:
    return None if since_s is None else round(now_s - since_s, 3)


def describe_reload(report: ReloadReport) -> schemas.Reload:
    """Return *report* as the admin API answers it."""
    return schemas.Reload(
        status=report.outcome.value,
        at=round(report.at_s, 3),
        problems=[_problem(problem) for problem in report.problems],
        warnings=[_problem(problem) for problem in report.warnings],
        added=list(report.added),
        removed=list(report.removed),
        restarted=list(report.restarted),
        retuned=list(report.retuned),
        needs_router_restart=list(report.needs_router_restart),
    )


def _problem(problem: Problem) -> schemas.Problem:
    return schemas.Problem(line=problem.line, where=problem.location, message=problem.message)


def _failure(error: BackendError | None, ago_s: float | None) -> schemas.Failure | None:
    if error is None:
        return None
    tail = error.log_tail if isinstance(error, BackendExitedError) else ()
    return schemas.Failure(
        code=error.code,
        message=str(error),
        cause=error.cause,
        log_tail=list(tail),
        ago_s=ago_s,
    )


def memory_mib_of(backend: Backend) -> float:
    """Return the memory that is charged to a backend's control group, in MiB.

    Without a control group it is the resident memory of the backend's processes; a page that
    they share then counts once per process.
    """
    if backend.group is not None and (counted := backend.group.memory_bytes()) is not None:
        return round(counted / 2**20, 1)
    pages = 0
    for process in {backend.pid, *procfs.descendants(backend.pid)}:
        with suppress(OSError, ValueError, IndexError):  # the process just ended
            pages += int(Path(f"/proc/{process}/statm").read_text("ascii").split()[1])
    return round(pages * _PAGE_BYTES / 2**20, 1)
