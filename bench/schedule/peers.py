"""The rules by which peers schedule, in their essence. Pure.

They are models, not programs: each has the rule of a peer by which models are loaded and leave,
and requests are granted, and none of its delays. Where a peer leaves a choice to a person, it is
made well: at most as many models as fit in any case, and groups as large as fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import ClassVar, Final

import attrs

from .simulation import Granted, Order, Refused, Started, Stopped
from .traces import Machine, Model, Trace

#: Ollama's ``OLLAMA_KEEP_ALIVE``: how long an idle model stays, in seconds.
KEEP_ALIVE_S: Final = 300.0

#: Ollama's ``OLLAMA_MAX_LOADED_MODELS``, for each GPU.
_MODELS_PER_GPU: Final = 3


class _Phase(Enum):
    LOADING = auto()
    READY = auto()
    STOPPING = auto()


@attrs.define(eq=False)
class _Process:
    claims: Mapping[int, int]
    phase: _Phase = _Phase.LOADING
    busy: set[int] = attrs.field(factory=set)
    used_s: float = 0.0
    outdated: bool = False

    @property
    def is_idle(self) -> bool:
        return self.phase is _Phase.READY and not self.busy


class Peer:
    """What the rules have in common: a queue, processes, and the choice of a GPU.

    A model goes to the GPU that it fills best, or is split over all that have room; so no peer is
    at a disadvantage by its choice of GPUs. A process that ended by itself fails the requests that
    wait for it; the next request starts it again. A model with changed settings drains.

    Args:
        trace: The trace: its machine, and its models in their order.
    """

    #: Its name in tables.
    name: ClassVar[str]

    #: Memory that others hold is read when it is needed.
    notices_after_s = 0.0
    wants_reading = False

    def __init__(self, trace: Trace) -> None:
        self._machine = trace.machine
        self._models = {model.name: model for model in trace.models}
        self._queue: dict[int, str] = {}  # oldest first
        self._processes: dict[str, _Process] = {}
        self._others_mib: Mapping[int, int] = {}
        self._now_s = 0.0
        self.wake_s = math.inf

    # -- events ---------------------------------------------------------------------------

    def arrived(
        self,
        request: int,
        model: str,
        client: str,  # noqa: ARG002 -- peers know no clients
        now_s: float,
    ) -> list[Order]:
        """Queue it."""
        self._queue[request] = model
        return self._decide(now_s)

    def ended(self, request: int, now_s: float) -> list[Order]:
        """Forget it."""
        self._queue.pop(request, None)
        for process in self._processes.values():
            if request in process.busy:
                process.busy.discard(request)
                process.used_s = now_s
        return self._decide(now_s)

    def ready(self, model: str, now_s: float) -> list[Order]:
        """Note it."""
        process = self._processes[model]
        process.phase, process.used_s = _Phase.READY, now_s
        return self._decide(now_s)

    def exited(self, model: str, now_s: float, *, crashed: bool) -> list[Order]:
        """Forget the process; requests for a model that crashed fail."""
        process = self._processes.pop(model)
        orders: list[Order] = []
        if crashed:
            failed = [*process.busy, *(r for r, name in self._queue.items() if name == model)]
            for request in failed:
                self._queue.pop(request, None)
                orders.append(Refused(request))
        return orders + self._decide(now_s)

    def others_hold(self, held_mib: Mapping[int, int], now_s: float) -> list[Order]:
        """Note it; only some peers look at it."""
        self._others_mib = held_mib
        return self._decide(now_s)

    def reloaded(self, changed: str, now_s: float) -> list[Order]:
        """Let the model with other settings drain."""
        if (process := self._processes.get(changed)) is not None:
            process.outdated = True
        return self._decide(now_s)

    def tick(self, now_s: float) -> list[Order]:
        """Decide again."""
        return self._decide(now_s)

    # -- steps ----------------------------------------------------------------------------

    def _decide(self, now_s: float) -> list[Order]:
        self._now_s = now_s
        orders: list[Order] = []
        for model, process in self._processes.items():
            if process.outdated and process.is_idle:
                orders.append(self._stop(model))
        return orders + self._next()

    def _next(self) -> list[Order]:
        """Return what the rule orders now."""
        raise NotImplementedError

    def _serves(self, model: str) -> bool:
        process = self._processes.get(model)
        return process is not None and process.phase is _Phase.READY and not process.outdated

    def _grant(self, request: int) -> Granted:
        self._processes[self._queue.pop(request)].busy.add(request)
        return Granted(request)

    def _grant_ready(self) -> list[Order]:
        """Grant all requests for ready models."""
        ready = [request for request, model in self._queue.items() if self._serves(model)]
        return [self._grant(request) for request in ready]

    def _start(self, model: str) -> Started:
        claims = place(self._models[model], self._free_mib()) or self._anywhere(model)
        self._processes[model] = _Process(claims)
        return Started(model, claims)

    def _stop(self, model: str) -> Stopped:
        self._processes[model].phase = _Phase.STOPPING
        return Stopped(model)

    def _free_mib(self, *, minding_others: bool = False) -> list[int]:
        return [
            budget_mib
            - (self._others_mib.get(gpu, 0) if minding_others else 0)
            - sum(process.claims.get(gpu, 0) for process in self._processes.values())
            for gpu, budget_mib in enumerate(self._machine.gpus)
        ]

    def _anywhere(self, model: str) -> Mapping[int, int]:
        free_mib = self._free_mib()
        return {free_mib.index(max(free_mib)): self._models[model].size_mib}


def place(model: Model, free_mib: Sequence[int]) -> dict[int, int] | None:
    """Return the claims of a model: one GPU, the fullest with room, else split; None if neither."""
    room = [gpu for gpu, mib in enumerate(free_mib) if mib >= model.size_mib]
    if room:
        return {min(room, key=free_mib.__getitem__): model.size_mib}
    largest = sorted(range(len(free_mib)), key=free_mib.__getitem__, reverse=True)
    for count in range(2, len(largest) + 1):
        chosen = largest[:count]
        need_mib = model.size_mib + (count - 1) * model.split_mib
        if min(free_mib[gpu] for gpu in chosen) <= 0:
            return None
        if need_mib <= sum(free_mib[gpu] for gpu in chosen):
            return _split(need_mib, {gpu: free_mib[gpu] for gpu in chosen})
    return None


def _split(need_mib: int, room_mib: Mapping[int, int]) -> dict[int, int]:
    """Return shares in proportion to the room, each within it."""
    claims: dict[int, int] = {}
    for gpu, mib in room_mib.items():
        later_mib = sum(room_mib.values()) - sum(room_mib[each] for each in claims) - mib
        rest_mib = need_mib - sum(claims.values())
        claims[gpu] = max(rest_mib - later_mib, rest_mib * mib // (mib + later_mib))
    return claims


class StrictFifo(Peer):
    """One model at a time; requests are granted in the order of their arrival only."""

    name = "strict FIFO"

    def _next(self) -> list[Order]:
        orders: list[Order] = []
        while self._queue:
            request, model = next(iter(self._queue.items()))
            if self._serves(model):
                orders.append(self._grant(request))
                continue
            orders += [self._stop(m) for m, p in self._processes.items() if p.is_idle]
            if not self._processes:
                orders.append(self._start(model))
            break
        return orders


class LruByCount(Peer):
    """llama.cpp's router: at most N models, the idle one leaves that was used least recently.

    Requests for a loaded model are granted at once; models are loaded in the order in which the
    oldest request for each has arrived. N is the largest number of models of which any fit.
    """

    name = "LRU by count"

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self._most = most_that_always_fit(trace.machine, trace.models)

    def _next(self) -> list[Order]:
        orders = self._grant_ready()
        for model in dict.fromkeys(self._queue.values()):
            if model in self._processes:
                continue
            if len(self._processes) < self._most:
                orders.append(self._start(model))
                continue
            if any(p.phase is _Phase.STOPPING for p in self._processes.values()):
                break
            idle = [m for m, p in self._processes.items() if p.is_idle]
            if idle:
                orders.append(self._stop(min(idle, key=lambda m: self._processes[m].used_s)))
            break
        return orders


class LruByMemory(Peer):
    """Ollama: what fits stays, until it was idle for five minutes.

    Requests are looked at in the order of their arrival. One whose model does not fit makes the
    idle model leave that would have left next, and holds up all later ones meanwhile; if none is
    idle, the first that is. While a model is loaded, another one waits that does not fit beside.
    """

    name = "LRU by memory"

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self._most = _MODELS_PER_GPU * len(trace.machine.gpus)

    def _next(self) -> list[Order]:
        orders = self._expire()
        loading = {m for m, p in self._processes.items() if p.phase is _Phase.LOADING}
        for request, model in tuple(self._queue.items()):
            if self._serves(model):
                orders.append(self._grant(request))
            elif model in self._processes:
                if model not in loading:
                    break  # it has to be gone first
            elif self._fits(model):
                orders.append(self._start(model))
                loading.add(model)
            elif not loading:
                idle = [m for m, p in self._processes.items() if p.is_idle]
                if idle and not any(p.phase is _Phase.STOPPING for p in self._processes.values()):
                    orders.append(self._stop(min(idle, key=lambda m: self._processes[m].used_s)))
                break
        return orders

    def _fits(self, model: str) -> bool:
        free_mib = self._free_mib(minding_others=True)
        return (
            len(self._processes) < self._most and place(self._models[model], free_mib) is not None
        )

    def _start(self, model: str) -> Started:
        claims = place(self._models[model], self._free_mib(minding_others=True))
        assert claims is not None
        self._processes[model] = _Process(claims)
        return Started(model, claims)

    def _expire(self) -> list[Order]:
        orders: list[Order] = []
        self.wake_s = math.inf
        for model, process in self._processes.items():
            if not process.is_idle or model in self._queue.values():
                continue
            due_s = process.used_s + KEEP_ALIVE_S
            if due_s <= self._now_s:
                orders.append(self._stop(model))
            else:
                self.wake_s = min(self.wake_s, due_s)
        return orders


class Groups(Peer):
    """llama-swap: the models of one group run side by side, one group at a time.

    Requests for loaded models are granted at once, before older ones for others. When no request
    for the group is left, the group of the oldest request takes its place. A reload stops all.
    A group has as many models as fit together, in the order in which they are written down.
    """

    name = "groups, collated"

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self._group = groups_that_fit(trace.machine, trace.models)

    def reloaded(
        self,
        changed: str,  # noqa: ARG002 -- not only that one
        now_s: float,
    ) -> list[Order]:
        """Stop every process, whatever it serves."""
        running = [m for m, p in self._processes.items() if p.phase is not _Phase.STOPPING]
        orders: list[Order] = [self._stop(model) for model in running]
        return orders + self._decide(now_s)

    def _next(self) -> list[Order]:
        orders = self._grant_ready()
        if not self._queue:
            return orders
        wanted = tuple(dict.fromkeys(self._queue.values()))
        active = {self._group[model] for model in self._processes}
        first = self._group[wanted[0]]
        if not active:
            active = {first}
        for model in wanted:
            if self._group[model] in active and model not in self._processes:
                others_leave = any(
                    p.phase is _Phase.STOPPING and self._group[m] != self._group[model]
                    for m, p in self._processes.items()
                )
                if not others_leave and not self._is_leaving(self._group[model]):
                    orders.append(self._start(model))
        if first not in active and all(p.is_idle for p in self._processes.values()):
            orders += [self._stop(model) for model in self._processes]
        return orders

    def _is_leaving(self, group: int) -> bool:
        return any(
            p.phase is _Phase.STOPPING
            for m, p in self._processes.items()
            if self._group[m] == group
        )


def most_that_always_fit(machine: Machine, models: Sequence[Model]) -> int:
    """Return the largest number of models of which any fit together, at least 1."""
    largest = sorted(models, key=lambda model: model.size_mib, reverse=True)
    count = 1
    while count < len(largest) and _fit_together(machine, largest[: count + 1]):
        count += 1
    return count


def groups_that_fit(machine: Machine, models: Sequence[Model]) -> dict[str, int]:
    """Return the group of each model: each is put into the first group in which it fits."""
    groups: list[list[Model]] = []
    for model in models:
        for group in groups:
            if _fit_together(machine, [*group, model]):
                group.append(model)
                break
        else:
            groups.append([model])
    return {model.name: number for number, group in enumerate(groups) for model in group}


def _fit_together(machine: Machine, models: Sequence[Model]) -> bool:
    free_mib = list(machine.gpus)
    for model in sorted(models, key=lambda model: model.size_mib, reverse=True):
        claims = place(model, free_mib)
        if claims is None:
            return False
        for gpu, mib in claims.items():
            free_mib[gpu] -= mib
    return True


PEERS: Final[tuple[type[Peer], ...]] = (StrictFifo, LruByCount, LruByMemory, Groups)
