"""Carries out what the scheduler decides; the only one that feeds it.

Code between two Trio checkpoints cannot be interrupted, so `Dispatcher.submit`,
a plain function, needs no lock: it feeds one event to the scheduler and performs
the actions. Nothing that it calls is ever asynchronous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import NoReturn, assert_never

import structlog
import trio

from ..backends.backend import Backend
from ..core.answers import refusals
from ..core.apis.notices import Wait
from ..core.config.config import Config
from ..core.config.diff import ReloadPlan
from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec
from ..core.scheduling.events import (
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
from ..core.scheduling.lifecycle import Phase, Signal
from ..core.scheduling.roster import ModelStatistics
from ..core.scheduling.scheduler import Scheduler
from ..errors.admission import UnknownModelError
from ..errors.backends import BackendError
from ..errors.requests import ModelNotLoadedError, NoModelRunningError
from ..event_feed import EventFeed
from .fleet import Fleet, Launch
from .lease import Lease
from .waits import Waits

log = structlog.get_logger()


class Dispatcher:
    """Bridge between the sans-IO scheduler and Trio tasks.

    Attributes:
        news: What happens to the models, for those who follow it.
        waits: What requests wait for, for those who tell their clients.
    """

    def __init__(self, config: Config, launch: Launch) -> None:
        self._scheduler = Scheduler(config)
        self._ids = count(1)
        self._leases: dict[int, Lease] = {}
        self._fleet = Fleet(launch, self._note_change)
        self._backends = self._fleet.ready  # the same table: each request looks there
        self._alarm = trio.CancelScope()
        self._moved = trio.Event()
        self.news = EventFeed()
        self.waits = Waits(self._scheduler.wait_of, self.news)

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._scheduler.config

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Own the backends' tasks until cancelled; backends end with this task."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._fleet.run)
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
            self.waits.loads.add(lease.request)
            try:
                yield lease
            finally:
                self.waits.loads.discard(lease.request)

    def release(self, request: int) -> None:
        """Give back what *request* holds."""
        if self._leases.pop(request, None) is None:
            return
        now_s = trio.current_time()
        if not self._scheduler.finish_at_once(request, now_s):
            self.submit(Finished(request), now_s)

    def wait_of(self, request: int) -> Wait | None:
        """Return what *request* waits for; None if it does not."""
        return self.waits.of(request)

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
            for backend in self._fleet.latest_first():
                if may_use(backend.spec):
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

    def leaving(self) -> list[ModelSpec]:
        """Return the models that are configured no more, but still have a process or requests."""
        return self._scheduler.leaving()

    def backend(self, model: ModelId) -> Backend | None:
        """Return the ready backend of *model*, if there is one."""
        return self._backends.get(model)

    def ready_backends(self) -> list[Backend]:
        """Return the ready backends, the last spawned one first."""
        return list(self._fleet.latest_first())

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
                    self.waits.begin_progress(model)
                    self._fleet.start(self._scheduler.spec(model))
                case Stop(model, reason):
                    self._fleet.stop(model, reason)
                case _:
                    assert_never(action)
        if moves := self._scheduler.take_moves():
            self._announce(moves)
        elif actions and self.waits.watching:  # a grant concerns those in the same queue
            self.waits.tell({action.model for action in actions if isinstance(action, Grant)})
        if self._alarm.deadline != self._scheduler.wake_s:
            self._alarm.deadline = self._scheduler.wake_s

    def _announce(self, moves: Iterable[tuple[ModelId, Phase]]) -> None:
        for model, phase in moves:
            self.news.publish("model", {"id": str(model), "phase": phase.value})
        self._moved.set()
        self._moved = trio.Event()
        self.waits.tell_all()

    def _note_change(self, event: Changed) -> None:
        """Take in that a backend became ready, or is gone."""
        self.submit(event)
        if event.signal is Signal.EXITED:
            self._log_end(event.model, event.error)

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
