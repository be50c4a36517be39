"""A discrete-event simulation of a machine on which a rule runs models. Pure.

The rule decides which models run and which requests are granted; the simulation has the clients,
the processes and the memory, and keeps a record. Equal traces give equal records.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeAlias

import attrs

from .traces import Client, Model, Reload, Taken, Trace

#: How long it takes to read the devices, in seconds.
READ_S: Final = 0.02


class RuleError(Exception):
    """A rule ordered what is impossible, such as a second process of a model."""


@attrs.frozen
class Granted:
    """The request may use its model's backend."""

    request: int


@attrs.frozen
class Refused:
    """The request is answered with an error."""

    request: int


@attrs.frozen
class Started:
    """A process of the model is started, and takes memory at once.

    Attributes:
        model: The model.
        claims: What it takes, by the number of the GPU, in MiB.
    """

    model: str
    claims: Mapping[int, int]


@attrs.frozen
class Stopped:
    """The model's process is told to stop; requests that it serves fail."""

    model: str


Order: TypeAlias = Granted | Refused | Started | Stopped


class Rule(Protocol):
    """A rule of scheduling. Each method returns what it orders, in order.

    Attributes:
        wake_s: Time at which `tick` is due, in seconds; infinite for never.
        notices_after_s: Seconds after which it notices that another program has taken memory.
        wants_reading: It decides only when the devices have been read again.
    """

    @property
    def wake_s(self) -> float:
        """Return that time."""

    @property
    def notices_after_s(self) -> float:
        """Return those seconds."""

    @property
    def wants_reading(self) -> bool:
        """Return whether that is so."""

    def arrived(self, request: int, model: str, client: str, now_s: float) -> list[Order]:
        """A request arrived."""

    def ended(self, request: int, now_s: float) -> list[Order]:
        """A request that waited or was granted has ended, or its client disconnected."""

    def ready(self, model: str, now_s: float) -> list[Order]:
        """A started process is ready."""

    def exited(self, model: str, now_s: float, *, crashed: bool) -> list[Order]:
        """A process is gone, and its memory is free."""

    def others_hold(self, held_mib: Mapping[int, int], now_s: float) -> list[Order]:
        """Other programs hold this much of each GPU."""

    def reloaded(self, changed: str, now_s: float) -> list[Order]:
        """The settings of a model were changed: a process with the old ones must be replaced."""

    def tick(self, now_s: float) -> list[Order]:
        """The time of `wake_s` has come."""


@attrs.define
class Request:
    """The record of a request.

    Attributes:
        client: Its client.
        model: Its model.
        arrived_s: Time of its arrival, in seconds.
        served_s: Time at which a slot began to serve it; None if none did.
        ended_s: Time of its end; None if the simulation ended before.
        failed: It was refused, or its backend was stopped or ended while it was served.
        left: Its client disconnected.
    """

    client: Client
    model: str
    arrived_s: float
    served_s: float | None = None
    ended_s: float | None = None
    failed: bool = False
    left: bool = False


@attrs.define
class Record:
    """What happened in one simulation.

    Attributes:
        requests: All requests, in the order of their arrival.
        loads: Model of each load that did not crash, in order.
        crashes: Number of processes that ended by themselves.
        evicted_busy: Number of processes that were stopped while they had requests.
        overcommit_s: Seconds in which more of a GPU was in use than it has.
        end_s: Time of the last event of a client, in seconds.
        unsent: Number of requests that were not even sent when the time was up.
    """

    requests: list[Request] = attrs.field(factory=list)
    loads: list[str] = attrs.field(factory=list)
    crashes: int = 0
    evicted_busy: int = 0
    overcommit_s: float = 0.0
    end_s: float = 0.0
    unsent: int = 0


@attrs.define(eq=False)
class _Process:
    model: Model
    claims: Mapping[int, int]
    is_ready: bool = False
    is_stopping: bool = False
    served: set[int] = attrs.field(factory=set)
    queued: deque[int] = attrs.field(factory=deque)


@attrs.define(eq=False)
class _Sender:
    client: Client
    sent: int = 0
    from_s: float = 0.0  # since when the pause before the next request counts


class Simulation:
    """One rule on one trace.

    Args:
        trace: The trace.
        rule: The rule.
        limit_s: Simulated time after which everything ends, in seconds.
    """

    def __init__(self, trace: Trace, rule: Rule, *, limit_s: float = 7200.0) -> None:
        self._trace = trace
        self._machine = trace.machine
        self._models = {model.name: model for model in trace.models}
        self._rule = rule
        self._limit_s = limit_s
        self._now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._ticks_s = math.inf  # of the earliest tick that is in the events
        self._is_reading = False  # the devices, because the rule wants it
        self._processes: dict[str, _Process] = {}
        self._senders: dict[int, _Sender] = {}
        self._service_s: dict[int, float] = {}
        self._open: set[int] = set()
        self._aside: set[int] = set()
        self._others_mib = dict.fromkeys(range(len(trace.machine.gpus)), 0)
        self._cached: list[str] = []  # files in the page cache, the latest at the end
        self._left = sum(len(client.steps) for client in trace.clients)
        self.record = Record()

    def run(self) -> Record:
        """Run until the last request has ended, or the time is up; return the record."""
        for client in self._trace.clients:
            self._plan(_Sender(client), client.begins_s)
        for incident in self._trace.incidents:
            self._at(incident.at_s, self._incident(incident))
        while self._events and self._left:
            at_s, _, event = heapq.heappop(self._events)
            if at_s > self._limit_s:
                at_s, event = self._limit_s, self._give_up
            self._count_overcommit(at_s - self._now_s)
            self._now_s = at_s
            event()
            self._plan_reading()
            self._plan_tick()
        if self._left:  # the rule waits for nothing, and neither do the clients
            self._give_up()
        self.record.end_s = self._now_s
        return self.record

    # -- time -----------------------------------------------------------------------------

    def _at(self, at_s: float, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (at_s, self._order, event))

    def _plan_tick(self) -> None:
        wake_s = max(self._rule.wake_s, self._now_s)
        if wake_s < self._ticks_s:
            self._ticks_s = wake_s
            self._at(wake_s, self._tick)

    def _plan_reading(self) -> None:
        if self._rule.wants_reading and not self._is_reading:
            self._is_reading = True
            self._at(self._now_s + READ_S, self._read_wanted)

    def _read_wanted(self) -> None:
        self._is_reading = False
        self._read()

    def _tick(self) -> None:
        self._ticks_s = math.inf
        if self._rule.wake_s <= self._now_s:
            self._obey(self._rule.tick(self._now_s))

    def _give_up(self) -> None:
        for request in self._open:
            self.record.requests[request].failed = True
            self.record.requests[request].ended_s = self._now_s
        self.record.unsent = self._left - len(self._open)
        self._left = 0

    # -- clients --------------------------------------------------------------------------

    def _plan(self, sender: _Sender, from_s: float) -> None:
        if sender.sent < len(sender.client.steps):
            step = sender.client.steps[sender.sent]
            sender.from_s = from_s
            # One after a request aside may be due before that was sent.
            at_s = max(self._now_s, from_s + step.pause_s)
            self._at(at_s, lambda: self._send(sender))

    def _send(self, sender: _Sender) -> None:
        step = sender.client.steps[sender.sent]
        sender.sent += 1
        number = len(self.record.requests)
        self.record.requests.append(Request(sender.client, step.model, self._now_s))
        self._senders[number] = sender
        self._open.add(number)
        if step.leaves_after_s < math.inf:
            self._at(self._now_s + step.leaves_after_s, lambda: self._leave(number))
        if sender.client.open_loop:
            self._plan(sender, self._now_s)
        elif step.aside:
            self._aside.add(number)
            self._plan(sender, sender.from_s)
        self._service_s[number] = step.service_s
        self._obey(self._rule.arrived(number, step.model, sender.client.name, self._now_s))

    def _leave(self, number: int) -> None:
        if number in self._open:
            self.record.requests[number].left = True
            self._end(number)

    def _end(self, number: int, *, failed: bool = False, told: bool = False) -> None:
        """End a request; tell the rule, unless the rule ended it."""
        request = self.record.requests[number]
        request.ended_s, request.failed = self._now_s, failed
        self._open.discard(number)
        self._left -= 1
        process = self._processes.get(request.model)
        if process is not None:
            if number in process.queued:
                process.queued.remove(number)
            process.served.discard(number)
            self._serve(process)
        sender = self._senders.pop(number)
        if not sender.client.open_loop and number not in self._aside:
            self._plan(sender, self._now_s)
        if not told:
            self._obey(self._rule.ended(number, self._now_s))

    # -- processes ------------------------------------------------------------------------

    def _obey(self, orders: list[Order]) -> None:
        for order in orders:
            match order:
                case Granted(request):
                    self._grant(request)
                case Refused(request):
                    self._end(request, failed=True, told=True)
                case Started(model, claims):
                    self._start(self._models[model], claims)
                case Stopped(model):
                    self._stop(model)

    def _grant(self, number: int) -> None:
        request = self.record.requests[number]
        process = self._processes.get(request.model)
        if process is None or not process.is_ready or process.is_stopping:
            raise RuleError(f"request {number} was granted, but {request.model} is not ready")
        process.queued.append(number)
        self._serve(process)

    def _serve(self, process: _Process) -> None:
        while process.queued and len(process.served) < process.model.slots:
            number = process.queued.popleft()
            process.served.add(number)
            self.record.requests[number].served_s = self._now_s
            self._at(
                self._now_s + self._service_s[number], functools.partial(self._complete, number)
            )

    def _complete(self, number: int) -> None:
        if number in self._open:
            self._end(number)

    def _start(self, model: Model, claims: Mapping[int, int]) -> None:
        if model.name in self._processes:
            raise RuleError(f"a second process of {model.name} was started")
        process = self._processes[model.name] = _Process(model, claims)
        if model.crashes_after_s is not None:
            self._at(self._now_s + model.crashes_after_s, lambda: self._crash(process))
            return
        self.record.loads.append(model.name)
        self._at(self._now_s + self._load_s(model), lambda: self._become_ready(process))

    def _load_s(self, model: Model) -> float:
        """Return how long a load takes now; its file is in the page cache from now on."""
        machine = self._machine
        speed_mib_s = machine.disk_mib_s
        if model.name in self._cached:
            speed_mib_s = machine.cache_mib_s
            self._cached.remove(model.name)
        self._cached.append(model.name)
        while sum(self._models[name].size_mib for name in self._cached) > machine.cache_mib:
            self._cached.pop(0)
        return machine.begin_s + model.size_mib / speed_mib_s

    def _become_ready(self, process: _Process) -> None:
        if not process.is_stopping:
            process.is_ready = True
            self._obey(self._rule.ready(process.model.name, self._now_s))

    def _stop(self, model: str) -> None:
        process = self._processes.get(model)
        if process is None or process.is_stopping:
            raise RuleError(f"{model} was stopped, but does not run")
        process.is_stopping = True
        self._at(self._now_s + self._machine.stop_s, lambda: self._exit(process, crashed=False))
        if process.served or process.queued:
            self.record.evicted_busy += 1
            self._fail_all(process)

    def _crash(self, process: _Process) -> None:
        if not process.is_stopping:
            process.is_stopping = True
            self.record.crashes += 1
            self._exit(process, crashed=True)

    def _exit(self, process: _Process, *, crashed: bool) -> None:
        del self._processes[process.model.name]
        self._obey(self._rule.exited(process.model.name, self._now_s, crashed=crashed))
        self._at(self._now_s + READ_S, self._read)

    def _fail_all(self, process: _Process) -> None:
        numbers = [*process.served, *process.queued]
        process.queued.clear()
        for number in sorted(numbers):
            self._end(number, failed=True)

    # -- memory ---------------------------------------------------------------------------

    def _incident(self, incident: Taken | Reload) -> Callable[[], None]:
        if isinstance(incident, Taken):
            return lambda: self._take(incident)
        return lambda: self._obey(self._rule.reloaded(incident.changed, self._now_s))

    def _take(self, incident: Taken) -> None:
        gpu = incident.gpu
        free_mib = max(0, self._machine.gpus[gpu] - self._used_mib(gpu) + self._others_mib[gpu])
        self._others_mib[gpu] = min(incident.mib, free_mib)
        self._at(self._now_s + self._rule.notices_after_s, self._read)

    def _read(self) -> None:
        self._obey(self._rule.others_hold(dict(self._others_mib), self._now_s))

    def _used_mib(self, gpu: int) -> int:
        ours = sum(process.claims.get(gpu, 0) for process in self._processes.values())
        return ours + self._others_mib[gpu]

    def _count_overcommit(self, passed_s: float) -> None:
        if any(self._used_mib(gpu) > mib for gpu, mib in enumerate(self._machine.gpus)):
            self.record.overcommit_s += passed_s
