"""The bridge between the scheduler and Trio: the only module that feeds events to it.

Code between two Trio checkpoints cannot be interrupted, so `Dispatcher.submit`, a plain function,
needs no lock: it feeds one event to the scheduler and performs the actions. Nothing that it calls
is ever asynchronous.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from itertools import count
from typing import Final, NoReturn, assert_never

import trio

from ..backends.backend import Backend, BackendSlept, CacheMoves, LoadExpected, LoadProgress
from ..backends.readiness import probe as probe_health
from ..backends.service import Answer
from ..backends.upstream import Upstream
from ..core.access.caller import UNRESTRICTED, Caller
from ..core.config.config import Config
from ..core.config.names import ModelId
from ..core.config.reload import ReloadPlan, local_plan
from ..core.config.service import Service
from ..core.config.specs import ModelSpec
from ..core.memory.view import Claims, MemoryView
from ..core.scheduling import policies, refusals
from ..core.scheduling.causes import StartCause, StopReason
from ..core.scheduling.events import (
    Arrived,
    Changed,
    Event,
    ExplicitLoad,
    Finished,
    Grant,
    Hung,
    Keep,
    Reconfigured,
    Refuse,
    Renew,
    ShutDown,
    Start,
    Stop,
    Tick,
    Unload,
)
from ..core.scheduling.lifecycle import Phase, Signal
from ..core.scheduling.model_entry import ModelStatistics
from ..core.scheduling.placement import Placement, Resident
from ..core.scheduling.scheduler import Scheduler
from ..core.scheduling.waits import Wait
from ..core.services.health import Finding
from ..core.services.models import ServiceModels
from ..errors.admission import UnknownModelError
from ..errors.backends import (
    BackendError,
    BackendExitedError,
    UpstreamError,
    UpstreamTimeoutError,
)
from ..errors.base import RouterError
from ..errors.requests import NoModelRunningError
from ..event_feed import EventFeed, ModelPhaseChanged, SleepChanged
from ..logs.events import log
from ..process.family import Leader
from ..timeouts import LATE_S
from .activity import ClientActivity
from .activity_log import ActivityLog
from .backend_tasks import BackendEvent, BackendTasks, Launch
from .captures import Captures
from .health import HealthChecks, Probe
from .lease import Lease
from .load_log import LoadLog
from .services import AskService, Services
from .waits import Waits

#: Time between two looks at the clock while requests wait, in seconds. A look that comes late
#: shows that the router was held up: that time does not count for ``max_queue_wait_s``.
LOOK_S: Final = 1.0


async def _ask_none(service: Service, *, timeout_s: float) -> Answer:  # noqa: ARG001 -- a default
    """Find no service; for a dispatcher without any."""
    await trio.lowlevel.checkpoint()
    return Answer(Finding.REFUSES, "cannot be asked here")


class Dispatcher:
    """Performs what the scheduler decides, and what `ServiceModels` does for those of services.

    Every method takes a model by its id: names and aliases are resolved where a request comes in.

    Args:
        config: The configuration in force.
        launch: Runs one backend.
        placement_for: Returns the placement policy of a configuration.
        probe: Sends one request to the health endpoint of a backend.
        ask_service: Asks a service that the router did not start for its health.
        note: Adds a sentence to the log of a model, between the output of its backends.
        on_squeezed: Called with a model that became ready, but got less context or fewer layers
            on the GPU because something else held memory; must not block.

    Attributes:
        config: The configuration in force. An attribute, since each request reads it five times.
        feed: Receives an event for each change of a phase and each percent of a load.
        waits: The state of each wait, for notices to clients.
        activity: The requests, live and past.
        loads: The loads, lasting and past.
        captures: Those with their bodies, as far as `capture_mib` keeps any.
        changed: Set, and replaced by a new one, after each change of a queue or a phase.
        reading_wanted: Set while a decision waits for a new reading of the devices.
        on_start: Called with settings and claims of a model that is to start; returns the settings
            with which it does. None while nothing watches memory.
        on_end: Called with a model, its claims and its failure when its backend is gone; returns
            what is known of memory then. None while nothing watches it.
    """

    def __init__(
        self,
        config: Config,
        launch: Launch,
        *,
        placement_for: Callable[[Config], Placement] = policies.placement_for,
        probe: Probe = probe_health,
        ask_service: AskService = _ask_none,
        note: Callable[[ModelId, str], None] = lambda *_: None,
        on_squeezed: Callable[[ModelId], None] = lambda _: None,
    ) -> None:
        self._scheduler = Scheduler(config.local, placement_for)
        self.config = config
        self._served = ServiceModels(config)
        self._services = Services(
            self._served, lambda: self.config, ask_service, self._perform_for_services
        )
        self._note = note
        self._on_squeezed = on_squeezed
        self._ids = count(1)
        self._clock: Callable[[], float] = trio.current_time  # `run` replaces it
        self._leases: dict[int, Lease] = {}  # those that wait for a model, or hold it
        self._clients = ClientActivity()
        self._listening: dict[int, Lease] = {}  # those that hold it only while clients send
        self._tasks = BackendTasks(launch, self._on_backend_event)
        self._backends = self._tasks.ready  # the same table: each request looks there
        self._health = HealthChecks(
            probe,
            leases_of=self._leases_of,
            replace=lambda backend, error: self.submit(Hung(backend.model, error)),
        )
        self._nursery: trio.Nursery | None = None
        self._alarm = trio.CancelScope()
        self._alarm_s = math.inf  # its deadline
        self._moved = trio.Event()
        self.feed = EventFeed()
        self.on_start: Callable[[ModelSpec, Claims], ModelSpec] | None = None
        self.on_end: Callable[[ModelId, Claims, BackendError | None], MemoryView] | None = None
        self.changed = trio.Event()
        self.reading_wanted = trio.Event()
        self.waits = Waits(self._scheduled_wait_of, self.feed)
        self.loads = LoadLog()
        self.activity = ActivityLog(self._loading_since)
        self.captures = Captures()

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> NoReturn:
        """Own the backends' tasks until cancelled; backends end with this task."""
        self._clock = trio.lowlevel.current_clock().current_time  # without two wrappers
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self._tasks.run)
            await self._nursery.start(self._services.run)
            self.submit(Tick())  # some models start without a request
            task_status.started()
            while True:
                with trio.CancelScope(deadline=self._alarm_s) as self._alarm:
                    await trio.sleep_forever()
                self._end_holds()
                self._services.act(self._served.time_out(trio.current_time()))
                self.submit(Tick())

    # -- requests -------------------------------------------------------------------------

    def lease(
        self,
        model: ModelId,
        *,
        caller: Caller = UNRESTRICTED,
        address: str = "",
        may_load: bool = True,
        takes_slot: bool = True,
    ) -> Lease:
        """Request *model*. Never blocks, and raises nothing; see `Lease`.

        Args:
            model: The model.
            caller: The sender of the request.
            address: The address that it came from, which its client is known by if it has no API
                key.
            may_load: The model may be loaded for the request.
            takes_slot: The request counts for ``max_in_flight``.
        """
        request, now_s = next(self._ids), self._clock()
        lease = self._leases[request] = Lease(self, request, caller.name, now_s)
        lease.takes_slot = takes_slot
        if self._scheduler.admit_at_once(request, model, now_s, takes_slot=takes_slot):
            lease.settle(self._backends[model], now_s)
        else:
            client = address if caller.name is None else f"key {caller.name}"
            priority = caller.priority_at(self.config.models.get(model))
            arrived = Arrived(request, model, may_load, takes_slot, client, priority, caller.weight)
            if model in self._served:
                self._services.act(self._served.arrived(arrived, now_s))
            elif model not in self.config.models:
                lease.settle(refusals.unknown(model, self.config), now_s)
            else:
                self.submit(arrived, now_s)
        return lease

    @contextmanager
    def load(self, model: ModelId) -> Iterator[Lease]:
        """Request *model* as `lease` does, only in order to load it, whatever failed before."""
        if model in self._served:
            self._services.act(self._served.asked(model))
        else:
            self.submit(ExplicitLoad(model))
        with self.lease(model, takes_slot=False) as lease:
            self.waits.loads.add(lease.request)
            try:
                yield lease
            finally:
                self.waits.loads.discard(lease.request)

    def release(self, request: int) -> None:
        """Release what *request* holds or waits for."""
        if self._listening and self._listening.pop(request, None) is not None:
            self._clients.forget(request)
        if self._leases.pop(request, None) is not None:
            self._finish(request)

    def _finish(self, request: int) -> None:
        now_s = self._clock()
        if self._served.has(request):
            self._services.act(self._served.finished(request, now_s))
        elif not self._scheduler.finish_at_once(request, now_s):
            self.submit(Finished(request), now_s)

    # -- connections that hold their lease only while their clients send: see `activity` ----

    def hold_while_sending(self, lease: Lease) -> None:
        """Let *lease*, which is granted, hold its model only while its client sends."""
        self._listening[lease.request] = lease
        self._clients.begin(lease.request, trio.current_time())
        self._set_alarm(trio.current_time())

    def client_sent(self, request: int) -> None:
        """Record that the client of *request* sent something on its open connection."""
        if self._clients.sent(request, trio.current_time()) and self._hold_again(request):
            self._clients.holds(request)
            self._set_alarm(trio.current_time())

    def hold_to_end(self, request: int) -> None:
        """Let *request* hold its model until its end again, unless that is being stopped."""
        if request in self._listening and (request in self._leases or self._hold_again(request)):
            del self._listening[request]
            self._clients.forget(request)

    def _hold_again(self, request: int) -> bool:
        """Take the lease of *request* again, if its backend still serves and is not in the way."""
        lease = self._listening[request]
        backend = lease.backend
        if not isinstance(backend, Backend) or self._backends.get(backend.model) is not backend:
            return False
        held = self._scheduler.hold_again(
            request, backend.model, trio.current_time(), takes_slot=lease.takes_slot
        )
        if not held:
            return False
        self._leases[request] = lease
        return True

    def _end_holds(self) -> None:
        """Release the leases of connections whose clients were silent, or that are in the way."""
        now_s = trio.current_time()
        for end in self._clients.ended(now_s):
            backend = self._listening[end.request].backend
            assert backend is not None, "a lease that listens is granted"
            if not end.silent and self._scheduler.may_hold(backend.model, now_s):
                self._clients.holds(end.request)
                continue
            del self._leases[end.request]
            self._finish(end.request)
        if self._scheduler.shutting_down:
            self._cut_silent()

    def _cut_silent(self) -> None:
        """End the connections that hold no lease now, because the router is shutting down."""
        for request, lease in self._listening.items():
            if request not in self._leases and lease.cut is not None:
                lease.cut(refusals.cut_by_shutdown())

    def _stop(self, model: ModelId, reason: StopReason, error: BackendError | None) -> None:
        """Stop *model*'s backend, and end the connections to it that only listen."""
        self._note(model, f"the router ends it: {error or reason}")
        backend = self._backends.get(model)
        for lease in self._listening.values():
            if lease.cut is not None and lease.backend is backend:
                lease.cut(error or refusals.cut_by_unload(model))
        self.loads.stopping(model, reason)
        self._tasks.stop(model, reason.words, error)

    def wait_of(self, request: int) -> Wait | None:
        """Return what *request* waits for; None if it does not."""
        return self.waits.of(request)

    def note_outcome(self, backend: Upstream, *, status: int, error: RouterError | None) -> None:
        """Take note of the end of a request; *backend* is replaced if it turns out to hang.

        Args:
            backend: The backend that served it.
            status: Status of its response; 0 if there was none.
            error: The error of the exchange, if it failed.
        """
        if isinstance(error, UpstreamError) or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            if not isinstance(backend, Backend):
                at_once = isinstance(error, UpstreamError)
                self._services.note_failure(backend, at_once=at_once)
                return
            if self._nursery is None:
                return
            symptom = f"it answered with status {status}" if error is None else str(error)
            silent = isinstance(error, UpstreamTimeoutError)
            self._health.note_failure(backend, symptom, silent=silent, nursery=self._nursery)
        elif status:
            backend.failures = 0

    def _leases_of(self, backend: Backend) -> list[Lease]:
        return [lease for lease in self._leases.values() if lease.backend is backend]

    def find_lease(self, request: int) -> Lease | None:
        """Return the lease of *request*, unless it is over."""
        return self._leases.get(request) or self._listening.get(request)

    def cancel(self, request: int) -> bool:
        """End *request*, queued or in flight; return whether there was such a request.

        Its client gets `RequestCancelledError`: as the answer, or as the last event of a
        stream that has begun.
        """
        lease = self.find_lease(request)
        if lease is None:
            return False
        error = refusals.cancelled()
        if lease.cut is not None:
            lease.cut(error)
        else:  # a load that the router itself requested
            lease.settle(error, trio.current_time())
        return True

    # -- models ---------------------------------------------------------------------------

    def running(
        self, model: ModelId | None, may_use: Callable[[ModelSpec], bool] = lambda _: True
    ) -> Upstream:
        """Return a ready backend, without a lease and without loading it.

        Args:
            model: Its model; None for the last spawned model of this router.
            may_use: Returns whether a model counts if none is requested.

        Raises:
            UnknownModelError: if there is no such model.
            NoModelRunningError: if it is not ready.
        """
        if model is None:
            for backend in self._tasks.latest_first():
                if may_use(backend.spec):
                    return backend
            raise NoModelRunningError("no models running")
        if model not in self.config.models:
            raise UnknownModelError(f"no model or alias is named {str(model)!r}")
        if (upstream := self._services.upstreams.get(model)) is not None:
            return upstream
        if model not in self._backends:
            phase = self.phase(model)
            raise NoModelRunningError(
                f"model {str(model)!r} is not running (it is {phase}); watching does not load it"
            )
        return self._backends[model]

    def reconfigure(self, config: Config, plan: ReloadPlan | None = None) -> frozenset[ModelId]:
        """Replace the configuration; see `Scheduler` for what that stops and starts.

        Args:
            config: The new one.
            plan: See `Reconfigured`.

        Returns:
            The models that return without a request: as soon as the old process is gone,
            unless another model takes their place.
        """
        former, self.config = self.config, config
        if plan is not None and (former.local is not former or config.local is not config):
            plan = local_plan(plan, former, config)
        self.submit(Reconfigured(config.local, plan))
        self._services.reconfigure(config, trio.current_time())
        self.loads.forget_removed(config.models.keys())
        self.captures.limit(config.router.capture_mib * 2**20)
        returning = self._scheduler.returning
        for model, backend in self._backends.items():
            if model in config.models:
                backend.spec = config.models[model]
        return returning

    async def unload(self, model: ModelId, *, force: bool) -> None:
        """Stop *model*'s backend; return once it is gone.

        Queued requests for the model are refused; later ones start a new backend.

        Args:
            model: A model of the configuration in force.
            force: End the requests in flight instead of waiting for them.
        """
        if model in self._served:
            self._unload_service(model, force=force)
            return
        self.submit(Unload(model, force))
        while self.phase(model) in (Phase.DRAINING, Phase.STOPPING):
            await self._moved.wait()

    def keep(self, model: ModelId, idle_s: float | None) -> None:
        """Keep *model* loaded for *idle_s* idle seconds; None for its ``ttl_s``.

        It counts until the backend is gone; without a backend it has no effect.
        """
        self.submit(Keep(model, idle_s))

    def renew(self, model: ModelId) -> bool:
        """Replace the process of *model*, which was squeezed; return whether it is being stopped.

        It is if it is idle and may start beside the others; it returns without a request.
        """
        self.submit(Renew(model))
        return self.phase(model) is Phase.STOPPING

    def shut_down(self) -> None:
        """Refuse all queued requests, and start nothing more."""
        for model in self._tasks.running:
            self._note(model, "the router is shutting down, and ends it after its requests")
        self.submit(ShutDown())
        self._services.act(self._served.shut_down())
        self._cut_silent()

    async def save_caches(self, give_up: trio.Event) -> None:
        """Save the prompt caches of all ready backends, until *give_up* is set; the router ends."""
        await self._tasks.save_all(give_up)

    # -- snapshots ------------------------------------------------------------------------

    def phase(self, model: ModelId) -> Phase | None:
        """Return the phase of *model*'s backend; None if there is no such model."""
        stats = self.statistics_of(model)
        return None if stats is None else stats.phase

    def statistics_of(self, model: ModelId) -> ModelStatistics | None:
        """Return a snapshot of *model*; None if there is no such model."""
        try:
            if model in self._served:
                return self._served.statistics_of(model)
            return self._scheduler.statistics_of(model)
        except KeyError:
            return None

    def statistics(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model."""
        return self._scheduler.statistics() | self._served.statistics()

    def local_statistics(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model that may have a process here."""
        return self._scheduler.statistics()

    def failed(self) -> dict[ModelId, ModelStatistics]:
        """Return a snapshot of every model that was given up."""
        return self._scheduler.failed()

    def leaving(self) -> list[ModelSpec]:
        """Return the models that are configured no more, but still have a process or requests."""
        return self._scheduler.leaving()

    @property
    def leaders(self) -> Mapping[ModelId, Leader]:
        """The process of each model that has one."""
        return self._tasks.leaders

    def residents(self) -> dict[ModelId, Resident]:
        """Return the models with a process, as placement policies see them."""
        return self._scheduler.residents(trio.current_time())

    def next_start(self) -> ModelSpec | None:
        """Return the model that starts as soon as others have left; None if none waits for that."""
        return self._scheduler.next_start(trio.current_time())

    def wanted(self) -> frozenset[ModelId]:
        """Return the models that requests wait for."""
        return self._scheduler.wanted

    def _loading_since(self, model: ModelId) -> float | None:
        """Return the clock time at which *model* began to load; None if it does not load."""
        if self.phase(model) is not Phase.STARTING:
            return None
        return self.waits.started_s(model)

    def backend(self, model: ModelId) -> Backend | None:
        """Return the ready backend of *model*, if there is one."""
        return self._backends.get(model)

    def ready_backends(self) -> list[Backend]:
        """Return the ready backends, the last spawned one first."""
        return list(self._tasks.latest_first())

    # -- events ---------------------------------------------------------------------------

    def submit(self, event: Event, now_s: float | None = None) -> None:
        """Feed one event to the scheduler and perform its actions; synchronous, hence atomic."""
        if now_s is None:
            now_s = trio.current_time()
        if now_s > self._alarm_s + LATE_S:
            self._scheduler.held_up(now_s - self._alarm_s, now_s=now_s)
            self._served.held_up(now_s - self._alarm_s)
        actions = self._scheduler.handle(event, now_s=now_s)
        for action in actions:
            match action:
                case Grant(request, model):
                    self._leases[request].settle(self._backends[model], now_s)
                case Refuse(request, refusal):
                    self._leases[request].settle(refusal, now_s)
                case Start(model, claims, cause):
                    self._start(model, claims, cause)
                case Stop(model, reason, error):
                    self._stop(model, reason, error)
                case _:
                    assert_never(action)
        if moves := self._scheduler.take_moves():
            self._publish(moves)
        elif actions and self.waits.watching:  # a grant changes the places in the same queue
            self.waits.notify({action.model for action in actions if isinstance(action, Grant)})
        self._announce_change()
        self._set_alarm(now_s)

    def _perform_for_services(self, actions: Iterable[Grant | Refuse]) -> None:
        """Carry out what was decided about requests for models of services."""
        now_s = trio.current_time()
        granted: set[ModelId] = set()
        for action in actions:
            lease = self._leases[action.request]
            if isinstance(action, Grant):
                granted.add(action.model)
                lease.settle(self._services.upstreams[action.model], now_s)
            else:
                lease.settle(action.error, now_s)
        if self._served.moves:
            moves, self._served.moves = self._served.moves, []
            self._publish(moves)
        elif granted and self.waits.watching:
            self.waits.notify(granted)
        self._announce_change()
        self._set_alarm(now_s)

    def _unload_service(self, model: ModelId, *, force: bool) -> None:
        """Leave the service of *model* alone; its requests go on, unless *force* ends them."""
        self._services.unload(model)
        if not force:
            return
        error = refusals.cut_by_unload(model)
        for request in self._served.in_flight(model):
            lease = self.find_lease(request)
            if lease is not None and lease.cut is not None:
                lease.cut(error)

    def _scheduled_wait_of(self, request: int) -> Wait | None:
        """Return what *request* waits for, as those see it that decide; None if it does not."""
        if self._served.has(request):
            return self._served.wait_of(request)
        return self._scheduler.wait_of(request)

    def _announce_change(self) -> None:
        """Wake those that wait for a change, or for the wish to read the devices."""
        self.changed.set()
        self.changed = trio.Event()
        if self._scheduler.wants_reading:
            self.reading_wanted.set()

    def _start(self, model: ModelId, claims: Claims, cause: StartCause) -> None:
        self.waits.begin_progress(model)
        self.loads.started(model, cause, tuple(map(str, claims)))
        spec = self._scheduler.spec(model)
        if claims and self.on_start is not None:
            spec = self.on_start(spec, claims)
        self._tasks.start(spec)

    def _set_alarm(self, now_s: float) -> None:
        """Set the time of the next `Tick`, and of the next look at the clock."""
        at_s = min(self._scheduler.wake_s, self._clients.next_s, self._served.wake_s)
        if self._scheduler.has_queue or self._served.wake_s < math.inf:
            at_s = min(at_s, now_s + LOOK_S)
        self._alarm_s = at_s
        if self._alarm.deadline != at_s:
            self._alarm.deadline = at_s

    def _publish(self, moves: Iterable[tuple[ModelId, Phase]]) -> None:
        for model, phase in moves:
            self.feed.publish(ModelPhaseChanged(model, phase))
            if phase is Phase.DRAINING:
                self._tasks.save_idle(model)
        self._moved.set()
        self._moved = trio.Event()
        self.waits.notify_all()

    def _on_backend_event(self, event: BackendEvent) -> None:
        """Process an event of a backend. All of them come here."""
        match event:
            case LoadExpected(model, ready_s):
                self.waits.note_expected(model, ready_s)
            case LoadProgress(model, fraction):
                self.waits.note_progress(model, fraction)
            case CacheMoves(model, step):
                self.waits.note_step(model, step)
            case BackendSlept(model, sleeping):
                self.feed.publish(SleepChanged(model, sleeping))
            case Changed():
                self._on_change(event)
            case _:
                assert_never(event)

    def _on_change(self, event: Changed) -> None:
        """Process that a backend is ready, or gone."""
        if event.signal is Signal.EXITED:
            self.loads.gone(event.model, event.error)
        else:
            self.loads.ready(event.model)
        if event.signal is Signal.EXITED and self.on_end is not None:
            claims = self._scheduler.statistics_of(event.model).claims
            self._scheduler.learn(self.on_end(event.model, claims, event.error))
        self.submit(event)
        if event.signal is Signal.EXITED:
            self._log_end(event.model, event.error)
        elif (backend := self._backends.get(event.model)) is not None and backend.squeezed:
            self._on_squeezed(event.model)

    def _log_end(self, model: ModelId, error: BackendError | None) -> None:
        if error is None:
            log.info("backend.stopped", model=model)
            return
        if not isinstance(error, BackendExitedError):  # that is noted with its process id
            self._note(model, str(error))
        stats = self.statistics_of(model)
        fields = {
            "model": model,
            "cause": error.cause,
            "reason": str(error),
            "failures": stats.failures if stats else 0,
        }
        if stats and stats.phase is Phase.FAILED:
            wait_s = None if stats.retry_at_s is None else stats.retry_at_s - trio.current_time()
            retry_in_s = None if wait_s is None else round(wait_s, 3)
            log.error("backend.failed", **fields, retry_in_s=retry_in_s)
        else:
            log.warning("backend.crashed", **fields)
