"""Models that were squeezed, and are loaded again when there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from llama_router.backends.backend import BackendSpawned, LaunchEvent
from llama_router.core.config.specs import ModelSpec
from llama_router.core.memory.devices import DeviceId, DeviceKind, DeviceReading, MachineReading
from llama_router.core.memory.fit import Fit
from llama_router.devices.machine import Machine
from llama_router.dispatch import squeezed
from llama_router.dispatch.dispatcher import Dispatcher
from llama_router.dispatch.squeezed import SqueezedModels
from llama_router.event_feed import ModelSqueezed
from llama_router.process.family import Leader
from tests.shell.test_dispatcher import A, B, FakeBackends, config, use

PID = 11


class Backends(FakeBackends):
    """Backends with a process, on one GPU."""

    async def __call__(self, spec: ModelSpec, report: Callable[[LaunchEvent], None]) -> None:
        report(BackendSpawned(spec.id, Leader(PID)))
        await super().__call__(spec, report)


class Gpus(Machine):
    """Two GPUs of 12,000 MiB; backends hold 3,000 of the second one, other programs some more.

    Attributes:
        others_mib: What other programs hold of it.
        tells: The driver tells what each process holds.
    """

    others_mib = 8000.0
    tells = True

    def __init__(self) -> None:
        super().__init__([])

    async def read(self, _: Iterable[int] = ()) -> MachineReading:
        await trio.lowlevel.checkpoint()
        held = {"gpu0": {99: 1000.0}, "gpu1": {PID: 3000.0, 99: self.others_mib}}
        return MachineReading(
            at_s=trio.current_time(),
            devices=tuple(
                DeviceReading(
                    id=DeviceId(name),
                    kind=DeviceKind.NVIDIA,
                    name=name,
                    total_mib=12000,
                    used_mib=sum(each.values()),
                    processes=each if self.tells else None,
                )
                for name, each in held.items()
            ),
        )


class Squeezing:
    """A dispatcher whose model ``a`` is squeezed; it needs 10,000 MiB.

    Attributes:
        backends: Its backends.
        gpus: Its devices.
        dispatcher: The dispatcher.
        models: Loads squeezed models again.
    """

    def __init__(self) -> None:
        self.backends = Backends(load_s=1.0)
        self.backends.squeezed = {A}
        self.backends.fit = Fit(n_ctx=4096, n_ctx_full=32768, gpus=1, need_mib=9000)
        self.gpus = Gpus()
        self.models = SqueezedModels(lambda: self.dispatcher, self.gpus)
        self.dispatcher = Dispatcher(
            config(a={}, b={}), self.backends, on_squeezed=self.models.note
        )

    def starts(self) -> list[float]:
        """Return the times at which ``a`` was started."""
        return [at_s for at_s, model in self.backends.started if model == A]

    def told(self) -> list[bool]:
        """Return what the feed said about it: whether it was being loaded again."""
        events = self.dispatcher.feed.after(0) or []
        return [each.event.reloading for each in events if isinstance(each.event, ModelSqueezed)]


@pytest.fixture
async def squeezing(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Squeezing:
    """A squeezed model that is ready and idle, without threads."""

    async def at_once(look: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return look(*args)

    monkeypatch.setattr(squeezed, "in_thread", at_once)
    monkeypatch.setattr(
        squeezed, "families", lambda leaders: {each.pid: frozenset({each.pid}) for each in leaders}
    )
    found = Squeezing()
    await nursery.start(found.dispatcher.run)
    nursery.start_soon(found.models.run)
    await use(found.dispatcher, "a")
    return found


async def test_it_is_loaded_again_when_there_is_room(
    squeezing: Squeezing, autojump_clock: MockClock
) -> None:
    """What it holds itself counts as room; the feed says both, and then it is left alone."""
    await trio.sleep(60)
    assert (len(squeezing.starts()), squeezing.told()) == (1, [False])
    squeezing.gpus.others_mib = 2000.0
    squeezing.backends.squeezed.clear()
    await trio.sleep(600)
    assert (len(squeezing.starts()), squeezing.told()) == (2, [False, True])
    backend = squeezing.dispatcher.backend(A)
    assert backend is not None
    assert not backend.squeezed


async def test_room_on_another_gpu_is_none(squeezing: Squeezing, autojump_clock: MockClock) -> None:
    """The process is told which one it uses."""
    await trio.sleep(60)  # gpu0 has 11,000 MiB free all the time
    assert len(squeezing.starts()) == 1


async def test_where_a_driver_does_not_tell_the_tightest_gpu_counts(
    squeezing: Squeezing, autojump_clock: MockClock
) -> None:
    """It may be on any of them, and how much of that it holds is not known."""
    squeezing.gpus.tells = False
    squeezing.gpus.others_mib = 0.0  # 9,000 MiB of gpu1 are free beside it
    await trio.sleep(60)
    assert len(squeezing.starts()) == 1
    squeezing.gpus.others_mib = -2000.0
    await trio.sleep(60)
    assert len(squeezing.starts()) > 1


async def test_a_busy_model_is_left_alone(squeezing: Squeezing, autojump_clock: MockClock) -> None:
    """So is an idle one for some seconds: the next request would wait for its load."""
    squeezing.gpus.others_mib = 0.0
    with squeezing.dispatcher.lease(A) as lease:
        await lease.granted()
        await trio.sleep(60)
        assert len(squeezing.starts()) == 1
    ended_s = trio.current_time()
    squeezing.backends.squeezed.clear()
    await trio.sleep(60)
    assert squeezing.starts()[1] >= ended_s + squeezed.IDLE_S


async def test_vain_reloads_become_rare(squeezing: Squeezing, autojump_clock: MockClock) -> None:
    """Something is wrong with the figures: each one disturbs the next request."""
    squeezing.gpus.others_mib = 0.0
    await trio.sleep(3600)
    starts = squeezing.starts()
    pauses_s = [later - earlier for earlier, later in pairwise(starts)][1:]
    assert pauses_s == sorted(pauses_s)
    assert len(starts) < 8


async def test_a_model_that_left_is_forgotten(
    squeezing: Squeezing, autojump_clock: MockClock
) -> None:
    """Its place was taken; the next request loads it, as it is then."""
    await use(squeezing.dispatcher, "b")
    squeezing.gpus.others_mib = 0.0
    await trio.sleep(60)
    assert len(squeezing.starts()) == 1
    assert squeezing.dispatcher.backend(B) is not None
