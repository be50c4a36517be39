"""The processor time of a decision by the real scheduler, on a large machine."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.memory.footprint import Footprint, Source
from llama_router.core.memory.view import MemoryView
from llama_router.core.scheduling.events import (
    Arrived,
    Changed,
    Event,
    Finished,
    Grant,
    MemoryChanged,
    Start,
    Stop,
)
from llama_router.core.scheduling.lifecycle import Signal
from llama_router.core.scheduling.scheduler import Scheduler

from .figures import quantile
from .router import devices

#: Most processor time of a decision: the 99th percentile, in milliseconds.
GOAL_MS: Final = 1.0

_GPUS = (24_000,) * 8
_STEP_S = 0.5
_CLIENTS = tuple(f"client-{number}" for number in range(20))


@attrs.frozen(kw_only=True)
class Decisions:
    """The processor time of decisions, in milliseconds.

    Attributes:
        count: Number of decisions.
        waiting: Requests that waited on average.
        p50_ms: The median.
        p99_ms: The 99th percentile.
        longest_ms: The longest.
    """

    count: int
    waiting: float
    p50_ms: float
    p99_ms: float
    longest_ms: float

    @property
    def met(self) -> bool:
        """True if the goal is met."""
        return self.p99_ms < GOAL_MS


def measure(
    *,
    models: int = 300,
    waiting: int = 1000,
    steps: int = 300,
    clock: Callable[[], float] = time.process_time,
) -> Decisions:
    """Return how long the decisions take while requests wait and models come and go.

    Args:
        models: Number of models, of 1 to 20 GB, on eight GPUs of 24 GB.
        waiting: Number of requests that wait.
        steps: In each a model becomes ready, one exits, a request ends, and new ones arrive.
        clock: Returns processor time, in seconds.
    """
    load = _Load(models)
    while load.waiting < waiting:
        load.handle(load.arrival())
    times_ms: list[float] = []
    queued = 0
    gc.collect()
    gc.freeze()
    try:
        for _ in range(steps):
            load.now_s += _STEP_S
            queued += load.waiting
            for event in load.next_events(waiting):
                begun_s = clock()
                load.handle(event)
                times_ms.append((clock() - begun_s) * 1e3)
    finally:
        gc.unfreeze()
    times_ms.sort()
    return Decisions(
        count=len(times_ms),
        waiting=queued / steps,
        p50_ms=quantile(times_ms, 0.5),
        p99_ms=quantile(times_ms, 0.99),
        longest_ms=times_ms[-1],
    )


class _Load:
    def __init__(self, models: int) -> None:
        self._chance = random.Random(1)
        self._names = [ModelId(f"m{number}") for number in range(models)]
        self._scheduler = Scheduler(
            parse_config(
                {
                    "router": {"max_queue_wait_s": 1e6, "max_queued": 10_000},
                    "scheduler": {"policy": "memory"},
                    "models": {name: {"path": "x.gguf"} for name in self._names},
                }
            )
        )
        self.now_s = 0.0
        self.waiting = 0
        self._sent = 0
        self._granted: list[int] = []
        self._starting: list[ModelId] = []
        self._stopping: list[ModelId] = []
        footprints = {
            name: Footprint(source=Source.ESTIMATED, gpu_mib=self._chance.randint(1000, 20_000))
            for name in self._names
        }
        self.handle(
            MemoryChanged(MemoryView(devices=devices(_GPUS, {}, {}), footprints=footprints))
        )

    def arrival(self) -> Event:
        self._sent += 1
        self.waiting += 1
        model, client = self._chance.choice(self._names), self._chance.choice(_CLIENTS)
        return Arrived(self._sent, model, client=client)

    def next_events(self, waiting: int) -> Iterator[Event]:
        if self._starting:
            yield Changed(self._starting.pop(0), Signal.PROBE_OK)
        if self._stopping:
            yield Changed(self._stopping.pop(0), Signal.EXITED)
        if self._granted:
            yield Finished(self._granted.pop(0))
        yield self.arrival()
        while self.waiting < waiting:
            yield self.arrival()

    def handle(self, event: Event) -> None:
        for action in self._scheduler.handle(event, now_s=self.now_s):
            match action:
                case Grant(request):
                    self.waiting -= 1
                    self._granted.append(request)
                case Start(model):
                    self._starting.append(model)
                case Stop(model):
                    self._stopping.append(model)
                case _:
                    raise AssertionError(f"the scheduler refused a request: {action}")
