"""The rows of models and devices in ``/admin/status`` and in the events of the live state."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from ...backends.backend import Backend
from ...core.apis.notices import sentence_about
from ...core.config.names import ModelId
from ...core.config.specs import ModelSpec
from ...core.memory.fit import options_of
from ...core.scheduling.lifecycle import Phase
from ...core.scheduling.model_entry import ModelStatistics
from ...dispatch.dispatcher import Dispatcher
from ...dispatch.memory_watch import MemoryWatch
from ...dispatch.token_rates import TokenRates
from ...errors.backends import BackendError, BackendExitedError
from ...process import procfs
from ...threads import in_thread
from ..llama_cpp.entries import BackendInfo
from ..llama_cpp.model_facts import abilities, context_length
from ..llama_cpp.model_info import ModelInfo
from . import model_schemas
from .memory import describe_claims, describe_devices, describe_footprint

#: Statistics of a model that a reload removed while a request waited for its end.
_REMOVED: Final = ModelStatistics(
    phase=Phase.STOPPED, in_flight=0, queued=0, failures=0, last_error=None
)

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class ModelRows:
    """Makes the rows of models.

    Args:
        dispatcher: Their phases and requests.
        model_info: What their backends and files say.
        memory: What the devices are used for.
    """

    def __init__(self, dispatcher: Dispatcher, model_info: ModelInfo, memory: MemoryWatch) -> None:
        self._dispatcher = dispatcher
        self._model_info = model_info
        self._memory = memory
        self._rates = TokenRates(dispatcher.activity)
        self._contexts: dict[ModelId, tuple[ModelSpec, BackendInfo | None, int | None]] = {}

    def refresh(self) -> None:
        """Take in what requests did since the last time; before rows are made."""
        self._rates.refresh(trio.current_time())

    @property
    def facts_changed(self) -> trio.Event:
        """Return an event that is set when backends or files tell more than they do now."""
        return self._model_info.changed

    async def all(self) -> list[model_schemas.Model]:
        """Return the rows of all models."""
        self._model_info.want_templates()  # abilities are known a moment later
        memory_mib = await self.memory_mib(self.shown())
        self.refresh()
        shown = self.shown()  # again: a reload may have run
        for model in self._contexts.keys() - {spec.id for spec in shown}:
            del self._contexts[model]
        return [self.row(spec, memory_mib) for spec in shown]

    async def one(self, spec: ModelSpec) -> model_schemas.Model:
        """Return the row of one model."""
        memory_mib = await self.memory_mib([spec])
        self.refresh()
        return self.row(spec, memory_mib)

    def devices(self) -> list[model_schemas.Device]:
        """Return the devices with memory; none unless the policy is that of memory."""
        statistics = self._dispatcher.statistics()
        return describe_devices(self._memory.view, (each.claims for each in statistics.values()))

    def shown(self) -> list[ModelSpec]:
        """Return all models, and removed ones with a process: their memory is not free yet."""
        dispatcher = self._dispatcher
        return [*dispatcher.config.models.values(), *dispatcher.leaving()]

    def _waits_for(self, statistics: ModelStatistics) -> str | None:
        oldest = next(iter(statistics.waiting_since_s), None)
        if oldest is None:
            return None
        wait = self._dispatcher.wait_of(oldest)
        return None if wait is None else sentence_about(wait)

    async def memory_mib(self, specs: Iterable[ModelSpec]) -> dict[int, float]:
        """Return the memory of each ready backend by its pid, in MiB."""
        backend_of = self._dispatcher.backend
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
        left_s = self._dispatcher.waits.left_s(spec.id)
        return None if left_s is None else round(left_s, 3)

    def _load_progress(self, spec: ModelSpec, statistics: ModelStatistics) -> float | None:
        if statistics.phase is not Phase.STARTING:
            return None
        progress = self._dispatcher.waits.progress(spec.id)
        return None if progress is None else round(progress, 3)

    def _n_ctx(self, spec: ModelSpec) -> int | None:
        """Return the context of one request to a model, as lists for clients have it."""
        info = self._model_info.get(spec.id)
        known = self._contexts.get(spec.id)
        if known is not None and known[0] is spec and known[1] == info:
            return known[2]
        n_ctx = context_length(spec) if info is None else context_length(spec, reported=info.fields)
        self._contexts[spec.id] = spec, info, n_ctx
        return n_ctx

    def _capabilities(self, spec: ModelSpec) -> list[str]:
        file, info = self._model_info.file(spec), self._model_info.get(spec.id)
        found = abilities(
            spec,
            kind=file.kind,
            takes_tools=file.takes_tools,
            thinks=file.thinks,
            reported={} if info is None else info.fields,
        )
        return list(found)

    def mark(self, spec: ModelSpec, memory_mib: dict[int, float]) -> tuple[object, ...]:
        """Return a value that changes with the row of a model, but not with the time alone."""
        dispatcher, rates = self._dispatcher, self._rates
        statistics = dispatcher.statistics_of(spec.id)
        backend = dispatcher.backend(spec.id)
        starting = statistics is not None and statistics.phase is Phase.STARTING
        waits = statistics is not None and bool(statistics.waiting_since_s)
        return (
            spec,
            statistics,
            backend,
            backend is not None and (backend.sleeping, memory_mib.get(backend.pid)),
            self._memory.view.footprints.get(spec.id),
            self._model_info.get(spec.id),
            self._model_info.file(spec),
            self._load_progress(spec, statistics) if starting and statistics else None,
            self._waits_for(statistics) if waits and statistics else None,
            rates.tokens_per_s(spec.id),
            rates.last_tokens_per_s(spec.id),
        )

    def row(self, spec: ModelSpec, memory_mib: dict[int, float]) -> model_schemas.Model:
        """Return the state of one model, with what `memory_mib` returned."""
        dispatcher = self._dispatcher
        statistics = dispatcher.statistics_of(spec.id) or _REMOVED
        backend = dispatcher.backend(spec.id)
        file, rates = self._model_info.file(spec), self._rates
        now_s = trio.current_time()

        def key_of(request: int) -> str | None:
            lease = dispatcher.find_lease(request)
            return None if lease is None else lease.caller

        def age_s(request: int) -> float:
            lease = dispatcher.find_lease(request)
            return 0.0 if lease is None else round(now_s - lease.arrived_s, 3)

        return model_schemas.Model(
            id=str(spec.id),
            aliases=list(spec.aliases),
            group=spec.group,
            state=spec.state.value,
            autoload=spec.autoload,
            unlisted=spec.unlisted,
            keep_loaded=spec.keep_loaded,
            phase=statistics.phase.value,
            url=spec.url,
            sleeping=backend is not None and backend.sleeping,
            pid=None if backend is None else backend.pid,
            port=None if backend is None else backend.port,
            memory_mib=None if backend is None else memory_mib.get(backend.pid),
            claims=describe_claims(statistics.claims),
            footprint=describe_footprint(self._memory.view.footprints.get(spec.id)),
            size_bytes=file.size_bytes,
            quantization=file.quant,
            capabilities=self._capabilities(spec),
            n_ctx=self._n_ctx(spec),
            waits_for=self._waits_for(statistics),
            ready_for_s=None if backend is None else round(now_s - backend.ready_s, 3),
            load_progress=self._load_progress(spec, statistics),
            load_left_s=self._load_left_s(spec, statistics),
            fit=None if backend is None else _fit(backend),
            idle_for_s=_ago(statistics.idle_since_s, now_s),
            ttl_left_s=_ttl_left_s(statistics, now_s),
            last_used_at=rates.used_at(spec.id),
            tokens_per_s=rates.tokens_per_s(spec.id),
            last_tokens_per_s=rates.last_tokens_per_s(spec.id),
            in_flight=statistics.in_flight,
            max_in_flight=statistics.limit,
            queued=statistics.queued,
            serving=[
                model_schemas.Serving(id=request, age_s=age_s(request), key=key_of(request))
                for request in statistics.requests
            ],
            waiting=[
                model_schemas.Waiting(
                    id=request, waited_s=round(now_s - since_s, 3), key=key_of(request)
                )
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


def _fit(backend: Backend) -> model_schemas.Fit | None:
    fit = backend.fit
    if fit is None:
        return None
    return model_schemas.Fit(
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


def _failure(error: BackendError | None, ago_s: float | None) -> model_schemas.Failure | None:
    if error is None:
        return None
    tail = error.log_tail if isinstance(error, BackendExitedError) else ()
    return model_schemas.Failure(
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
