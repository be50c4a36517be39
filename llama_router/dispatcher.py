"""Carries out what the scheduler decides; the only one that feeds it.

Code between two Trio checkpoints cannot be interrupted, so `Dispatcher.submit`,
a plain function, needs no lock: it feeds one event to the scheduler and performs
the actions. Nothing that it calls is ever asynchronous.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import NoReturn, Protocol, Self, assert_never

import attrs
import structlog
import trio

from .backends.backend import Backend
from .core import refusals
from .core.config import Config, ModelId, ModelSpec
from .core.diff import ReloadPlan
from .core.events import (
    Arrived,
    Changed,
    Event,
    Finished,
    Grant,
    Keep,
    Reconfigured,
    Refuse,
    ShutDown,
    Start,
    Stop,
    Tick,
    Unload,
)
from .core.lifecycle import Phase, Signal
from .core.notices import Wait
from .core.roster import ModelStatistics
from .core.scheduler import Scheduler
from .errors.admission import UnknownModelError
from .errors.backends import BackendError
from .errors.base import RouterError
from .errors.requests import ModelNotLoadedError, NoModelRunningError
from .news import News

log = structlog.get_logger()


class Launch(Protocol):
    """Runs a backend; reports it once it is ready."""

    async def __call__(
        self, spec: ModelSpec, *, task_status: trio.TaskStatus[Backend] = ...
    ) -> None:
        """Return only if cancelled; raise `BackendError` if the backend fails."""


class Lease:
    """One request's hold on a model, from its arrival to its end.

    Use it as a (plain) context manager: leaving the block gives the hold back,
    whether the request was served, refused or abandoned.

    Attributes:
        request: Its number; later requests have higher ones.
        arrived_s: Clock time of the arrival, in seconds.
        granted_s: Clock time of the grant, in seconds; NaN before.
        backend: The backend to talk to; None while the request waits.
        asker: Name of the API key that the request came with, if it needed one.
        cut: Ends a request that is being served, with an error for its client; set by who
            serves it.
        on_news: Called when the wait is over, or something about it changes; see
            `Dispatcher.watch`.
    """

    __slots__ = (
        "_dispatcher",
        "_error",
        "_settled",
        "arrived_s",
        "asker",
        "backend",
        "cut",
        "granted_s",
        "on_news",
        "request",
    )

    def __init__(
        self, dispatcher: Dispatcher, request: int, asker: str | None, arrived_s: float
    ) -> None:
        self._dispatcher = dispatcher
        self.request = request
        self._settled: trio.Event | None = None
        self._error: RouterError | None = None
        self.arrived_s = arrived_s
        self.granted_s = math.nan
        self.backend: Backend | None = None
        self.asker = asker
        self.cut: Callable[[RouterError], None] | None = None
        self.on_news: Callable[[], None] | None = None

    @property
    def settled(self) -> bool:
        """Whether the wait is over, with a backend or with a refusal."""
        return self.backend is not None or self._error is not None

    def waits_for(self) -> Wait | None:
        """Return what the request waits for; None if it does not."""
        return self._dispatcher.wait_of(self.request)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._dispatcher.release(self.request)

    def granted_nowait(self) -> Backend | None:
        """Return the backend if there is one already, or None if the request must wait.

        Raises:
            AdmissionError: if the request was refused.
            BackendError: if the backend cannot be brought up.
        """
        if self._error is not None:
            raise self._error
        return self.backend

    async def granted(self) -> Backend:
        """Wait for the grant and return the backend.

        Raises:
            AdmissionError: if the request is refused.
            BackendError: if the backend cannot be brought up.
        """
        while (backend := self.granted_nowait()) is None:
            if self._settled is None:
                self._settled = trio.Event()
            await self._settled.wait()
        return backend

    @property
    def load_s(self) -> float:
        """Seconds of the wait in which the granted backend was loading."""
        if self.backend is None:
            return 0.0
        return max(0.0, self.backend.ready_s - max(self.arrived_s, self.backend.spawned_s))

    @property
    def queue_s(self) -> float:
        """Seconds of the wait before that: for others, for a turn, for a slot."""
        return max(0.0, self.granted_s - self.arrived_s - self.load_s)

    def settle(self, result: Backend | RouterError, now_s: float) -> None:
        """End the wait, with a backend or with a refusal."""
        if isinstance(result, Backend):
            self.backend = result
            self.granted_s = now_s
        else:
            self._error = result
        if self._settled is not None:
            self._settled.set()
        if self.on_news is not None:
            self.on_news()


class Dispatcher:
    """Bridge between the sans-IO scheduler and Trio tasks.

    Attributes:
        news: What happens to the models, for those who follow it.
    """

    def __init__(self, config: Config, launch: Launch) -> None:
        self._scheduler = Scheduler(config)
        self._launch = launch
        self._ids = count(1)
        self._leases: dict[int, Lease] = {}
        self._backends: dict[ModelId, Backend] = {}
        self._scopes: dict[ModelId, trio.CancelScope] = {}
        self._last_spawned: list[ModelId] = []  # newest last
        self._alarm = trio.CancelScope()
        self._moved = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._watching: dict[Lease, ModelId] = {}
        self._loads: set[int] = set()
        self._progress: dict[ModelId, float] = {}
        self.news = News()

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._scheduler.config

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Own the backends' tasks until cancelled; backends end with this task."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.submit(Tick())  # some models come without being asked for
            task_status.started()
            while True:
                with trio.CancelScope(deadline=self._scheduler.wake_s) as self._alarm:
                    await trio.sleep_forever()
                self.submit(Tick())

    def lease(self, name: str, *, asker: str | None = None) -> Lease:
        """Ask for *name* (an id or an alias). Never blocks; see `Lease`."""
        request, now_s = next(self._ids), trio.current_time()
        lease = self._leases[request] = Lease(self, request, asker, now_s)
        model = self._scheduler.admit_at_once(request, name)
        if model is None:
            self.submit(Arrived(request, name), now_s)
        else:
            lease.settle(self._backends[model], now_s)
        return lease

    @contextmanager
    def load(self, name: str) -> Iterator[Lease]:
        """Ask for *name* as `lease` does, but with nothing to do there: nobody waits behind it."""
        with self.lease(name) as lease:
            self._loads.add(lease.request)
            try:
                yield lease
            finally:
                self._loads.discard(lease.request)

    def release(self, request: int) -> None:
        """Give back what *request* holds."""
        if self._leases.pop(request, None) is None:
            return
        now_s = trio.current_time()
        if not self._scheduler.finish_at_once(request, now_s):
            self.submit(Finished(request), now_s)

    @contextmanager
    def watch(self, lease: Lease, model: ModelId, on_news: Callable[[], None]) -> Iterator[None]:
        """Within the block, let *on_news* be called when *lease*'s wait for *model* changes.

        It may be called without a reason, and must not call back at once.
        """
        lease.on_news = on_news
        self._watching[lease] = model
        try:
            yield
        finally:
            del self._watching[lease]
            lease.on_news = None

    def wait_of(self, request: int) -> Wait | None:
        """Return what *request* waits for; None if it does not."""
        wait = self._scheduler.wait_of(request)
        if wait is not None and wait.ahead and self._loads:
            earlier = [self._scheduler.wait_of(load) for load in self._loads if load < request]
            idle = sum(other is not None and other.model == wait.model for other in earlier)
            wait = attrs.evolve(wait, ahead=max(0, wait.ahead - idle))
        if wait is not None and wait.phase is Phase.STARTING:
            wait = attrs.evolve(wait, progress=self._progress.get(wait.model))
        return wait

    def note_progress(self, model: ModelId, progress: float) -> None:
        """Take in how much of *model*, which is being started, is loaded: 0 to 1."""
        if int(progress * 100) != int(self._progress.get(model, 0.0) * 100):
            self.news.publish("progress", {"id": str(model), "progress": progress})
        self._progress[model] = progress
        self._tell_watchers({model})

    def _tell_watchers(self, models: Collection[ModelId]) -> None:
        for lease, model in self._watching.items():
            if lease.on_news is not None and model in models:
                lease.on_news()

    def find_lease(self, request: int) -> Lease | None:
        """Return the hold of *request*, if it is not over."""
        return self._leases.get(request)

    def cancel(self, request: int) -> bool:
        """End *request*, waiting or being served; return whether it was there.

        Its client gets `RequestCancelledError`: as the answer, or as the last event of a
        stream that has begun.
        """
        lease = self._leases.get(request)
        if lease is None:
            return False
        error = refusals.cancelled()
        if lease.cut is not None:
            lease.cut(error)
        else:  # somebody inside of the router waits for a load
            lease.settle(error, trio.current_time())
        return True

    def running(
        self, name: str | None, may_use: Callable[[ModelSpec], bool] = lambda _: True
    ) -> Backend:
        """Return a ready backend as it is, without a hold on it and without loading.

        Args:
            name: Model or alias; None for the last spawned model.
            may_use: Says which models count if none is named.

        Raises:
            UnknownModelError: if there is no such model.
            NoModelRunningError: if it is not ready.
        """
        if name is None:
            for model in reversed(self._last_spawned):
                backend = self._backends.get(model)
                if backend is not None and may_use(backend.spec):
                    return backend
            raise NoModelRunningError("no models running")
        model_id = self.config.resolve(name)
        if model_id is None:
            raise UnknownModelError(f"no model or alias is named {name!r}")
        if model_id not in self._backends:
            phase = self._scheduler.phase(model_id)
            raise NoModelRunningError(
                f"model {str(model_id)!r} is not running (it is {phase}); watching does not load it"
            )
        return self._backends[model_id]

    def check_loaded(self, model: ModelId) -> None:
        """Refuse a request for *model* that must not load it.

        Raises:
            ModelNotLoadedError: if it would have to be loaded.
        """
        if self.phase(model) is not Phase.READY:
            raise ModelNotLoadedError(
                f"model {str(model)!r} is not loaded, and the request has autoload=false: load it "
                "by POST /models/load, or leave autoload out",
                param="model",
            )

    def reconfigure(self, config: Config, plan: ReloadPlan | None = None) -> frozenset[ModelId]:
        """Replace the configuration; see `Scheduler` for what that stops and starts.

        Args:
            config: The new one.
            plan: See `Reconfigured`.

        Returns:
            The models that are started again by themselves: as soon as the old process is
            gone, unless another model takes its place.
        """
        self.submit(Reconfigured(config, plan))
        returning = self._scheduler.returning
        for model, backend in self._backends.items():
            if model in config.models:
                backend.spec = config.models[model]
        return returning

    async def unload(self, model: ModelId, *, force: bool) -> None:
        """Stop *model*'s backend; return once it is gone.

        Whoever waits for the model, or asks for it later, brings it back.

        Args:
            model: A model of the configuration in force.
            force: End the requests that it serves instead of waiting for them.
        """
        self.submit(Unload(model, force))
        while self.phase(model) in (Phase.DRAINING, Phase.STOPPING):
            await self._moved.wait()

    def keep(self, model: ModelId, idle_s: float | None) -> None:
        """Let *model* stay for so long when it is idle, in seconds; None for its ``ttl_s``.

        It counts until the backend is gone; without one it means nothing.
        """
        self.submit(Keep(model, idle_s))

    def phase(self, model: ModelId) -> Phase | None:
        """Return where *model*'s backend is in its life; None if there is no such model."""
        stats = self.statistics_of(model)
        return None if stats is None else stats.phase

    def statistics_of(self, model: ModelId) -> ModelStatistics | None:
        """Return a snapshot of *model*; None if there is no such model."""
        try:
            return self._scheduler.statistics_of(model)
        except KeyError:
            return None

    def backend(self, model: ModelId) -> Backend | None:
        """Return the ready backend of *model*, if there is one."""
        return self._backends.get(model)

    def ready_backends(self) -> list[Backend]:
        """Return the ready backends, the last spawned one first."""
        found = (self._backends.get(model) for model in reversed(self._last_spawned))
        return [backend for backend in found if backend is not None]

    def shut_down(self) -> None:
        """Refuse whoever waits, and start nothing more."""
        self.submit(ShutDown())

    def statistics(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model."""
        return self._scheduler.statistics()

    def failed(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model that was given up."""
        return self._scheduler.failed()

    def submit(self, event: Event, now_s: float | None = None) -> None:
        """Feed one event to the scheduler and do what it says; synchronous, hence atomic."""
        if now_s is None:
            now_s = trio.current_time()
        actions = self._scheduler.handle(event, now_s=now_s)
        for action in actions:
            match action:
                case Grant(request, model):
                    self._leases[request].settle(self._backends[model], now_s)
                case Refuse(request, error):
                    self._leases[request].settle(error, now_s)
                case Start(model):
                    self._progress.pop(model, None)
                    assert self._nursery is not None, "the dispatcher is not running"
                    self._scopes[model] = trio.CancelScope()
                    self._nursery.start_soon(self._contain, self._scheduler.spec(model))
                case Stop(model, reason):
                    log.info("backend.stopping", model=model, reason=reason)
                    self._scopes[model].cancel()
                    self._end(model, None)
                case _:
                    assert_never(action)
        if moves := self._scheduler.take_moves():
            self._announce(moves)
        elif self._watching:  # a grant concerns those in the same queue
            granted = {action.model for action in actions if isinstance(action, Grant)}
            self._tell_watchers(granted)
        if self._alarm.deadline != self._scheduler.wake_s:
            self._alarm.deadline = self._scheduler.wake_s

    def _announce(self, moves: Iterable[tuple[ModelId, Phase]]) -> None:
        for model, phase in moves:
            self.news.publish("model", {"id": str(model), "phase": phase.value})
        self._moved.set()
        self._moved = trio.Event()
        self._tell_watchers(set(self._watching.values()))

    async def _contain(self, spec: ModelSpec) -> None:
        """Run one backend; turn its failure into an event. The bulkhead."""
        model = spec.id
        error: BackendError | None = None
        with self._scopes[model] as scope:
            try:
                async with trio.open_nursery() as nursery:
                    backend: Backend = await nursery.start(self._run, spec)
                    if not scope.cancel_called:
                        self._backends[model] = backend
                        self._last_spawned = [m for m in self._last_spawned if m != model]
                        self._last_spawned.append(model)
                        self.submit(Changed(model, Signal.PROBE_OK))
            except* BackendError as group:  # expected failures only; bugs pass through
                error = _first(group)
            finally:
                if scope.cancel_called:
                    error = None  # it was asked to go; how it went was logged
                self._end(model, error)  # here, because the router's own end passes through
        del self._scopes[model]
        self.submit(Changed(model, Signal.EXITED, error))
        self._log_end(model, error)

    async def _run(self, spec: ModelSpec, *, task_status: trio.TaskStatus[Backend]) -> None:
        await self._launch(spec, task_status=task_status)

    def _end(self, model: ModelId, error: BackendError | None) -> None:
        """Let nobody begin to talk to *model*'s backend any more."""
        backend = self._backends.pop(model, None)
        if backend is not None:
            backend.end(error)

    def _log_end(self, model: ModelId, error: BackendError | None) -> None:
        if error is None:
            log.info("backend.stopped", model=model)
            return
        stats = self.statistics_of(model)
        fields = {
            "model": model,
            "cause": error.cause,
            "reason": str(error),
            "failures": stats.failures if stats else 0,
        }
        if stats and stats.phase is Phase.FAILED:
            log.error("backend.failed", **fields, retry_in_s=error.retry_after_s)
        else:
            log.warning("backend.crashed", **fields)


def _first(group: BaseExceptionGroup[BackendError]) -> BackendError:
    """Return the first leaf of *group*."""
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, BackendError)
    return leaf
