"""Readings of memory, and what the scheduler makes of them, with fake backends and devices."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from llama_router.backends.backend import BackendSpawned, LaunchEvent
from llama_router.backends.learned_launches import LearnedLaunches
from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec
from llama_router.core.memory.devices import DeviceId, DeviceKind, DeviceReading, MachineReading
from llama_router.core.memory.learned import LearnedFigures, MachineId
from llama_router.devices.machine import Machine
from llama_router.dispatch import footprints, memory_watch
from llama_router.dispatch.dispatcher import Dispatcher
from llama_router.dispatch.footprints import Footprints
from llama_router.dispatch.memory_watch import MemoryWatch
from llama_router.errors.backends import BackendExitedError
from llama_router.process.family import Leader
from tests.shell.test_dispatcher import A, B, FakeBackends, use

GPU = DeviceId("gpu")
PIDS = {A: 11, B: 12}
NEEDS_MIB = {A: 3000, B: 6000}
LOAD_S = 2.5


class Backends(FakeBackends):
    """Backends with pids; each takes its memory when it is ready."""

    most_alive = 0

    async def __call__(self, spec: ModelSpec, report: Callable[[LaunchEvent], None]) -> None:
        report(BackendSpawned(spec.id, Leader(PIDS[spec.id])))
        await super().__call__(spec, self._counting(report))

    def _counting(self, report: Callable[[LaunchEvent], None]) -> Callable[[LaunchEvent], None]:
        self.most_alive = max(self.most_alive, len(self.alive) + 1)
        return report


class OneGpu(Machine):
    """One GPU; a reading of it takes *takes_s*."""

    takes_s = 0.0

    def __init__(self, dispatcher: Dispatcher) -> None:
        super().__init__([])
        self.dispatcher = dispatcher

    async def read(self, _: Iterable[int] = ()) -> MachineReading:
        at_s = trio.current_time()
        held = {
            PIDS[model]: float(NEEDS_MIB[model])
            for model in PIDS
            if self.dispatcher.backend(model) is not None
        }
        await trio.sleep(self.takes_s)
        gpu = DeviceReading(
            id=GPU,
            kind=DeviceKind.SIMULATED,
            name="GPU",
            total_mib=8000,
            used_mib=sum(held.values()),
            processes=held,
        )
        return MachineReading(at_s=at_s, devices=(gpu,))

    async def host_footprint_mib(self, *_: object) -> float:
        await trio.lowlevel.checkpoint()
        return 0.0


def config(**models: dict[str, Any]) -> Config:
    return parse_config(
        {
            "scheduler": {"policy": "memory"},
            "devices": {"gpu": {"kind": "simulated", "memory_mib": 8000}},
            "models": {
                name: {"spawn": {"command": ["be", "$port"]}, **table}
                for name, table in models.items()
            },
        }
    )


class Watched:
    """A dispatcher whose memory is watched.

    Attributes:
        dispatcher: The dispatcher.
        backends: Its backends.
        machine: Its devices.
        watch: The watch.
    """

    def __init__(self, conf: Config) -> None:
        self.backends = Backends(load_s=LOAD_S)
        self.dispatcher = Dispatcher(conf, self.backends)
        self.machine = OneGpu(self.dispatcher)
        learned = LearnedLaunches(None, MachineId("this"), LearnedFigures(), lambda write: write())
        unknown = Footprints({}, lambda _: None, learned)
        self.watch = MemoryWatch(self.dispatcher, self.machine, unknown)


@pytest.fixture
def start(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """A function that starts a dispatcher and the watch of its memory, without threads."""

    async def at_once(look: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return look(*args)

    def families(leaders: Iterable[Leader]) -> dict[int, frozenset[int]]:
        return {leader.pid: frozenset({leader.pid}) for leader in leaders}

    monkeypatch.setattr(memory_watch, "in_thread", at_once)
    monkeypatch.setattr(footprints, "in_thread", at_once)
    monkeypatch.setattr(memory_watch, "families", families)

    async def start(conf: Config) -> Watched:
        watched = Watched(conf)
        await nursery.start(watched.dispatcher.run)
        nursery.start_soon(watched.watch.run)
        return watched

    return start


async def test_models_that_do_not_fit_together_replace_each_other(
    start: Callable, autojump_clock: MockClock
) -> None:
    """Also if the second one is wanted in the moment in which the first one is ready."""
    watched = await start(config(a={}, b={}))
    watched.machine.takes_s = 0.3
    for model in ("a", "b"):  # each runs alone, and is measured
        await use(watched.dispatcher, model)
        await trio.sleep(3)
    assert watched.watch.view.footprints[B].gpu_mib == NEEDS_MIB[B]
    for model in ("a", "b", "a", "b"):
        await use(watched.dispatcher, model)
    assert watched.backends.most_alive == 1


async def test_a_failed_load_is_not_measured(start: Callable, autojump_clock: MockClock) -> None:
    """Its model remains unknown, and has room for itself at the next try."""
    watched = await start(config(a={}))
    watched.backends.fails[A] = [BackendExitedError(A, 1)] * 9
    with pytest.raises(BackendExitedError):
        await use(watched.dispatcher, "a")
    assert not watched.watch.view.footprints[ModelId("a")].is_known


async def test_a_container_is_not_measured(start: Callable, autojump_clock: MockClock) -> None:
    """Its command is only a client of the runtime; without GPUs, it is in host memory."""
    run = {"spawn": {"command": ["docker", "run", "image", "$port"]}}
    watched = await start(config(a={**run, "memory_mib": 5000}, b=run))
    for model in ("a", "b"):
        await use(watched.dispatcher, model)
        await trio.sleep(3)
    assert watched.watch.view.footprints[A].host_mib == 5000
    assert watched.watch.view.measured == {}
    assert not watched.watch.view.footprints[B].is_known
