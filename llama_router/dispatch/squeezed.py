"""Models that llama.cpp squeezed, because something else held memory, are loaded again.

That is when they are idle, no request waits for any model, and their GPUs have room for all of
them: the driver is asked for that. A model that turns out squeezed all the same is tried again
later and later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

import attrs
import trio

from ..backends.backend import Backend
from ..core.config.names import ModelId
from ..core.memory.devices import GPU_KINDS, MachineReading
from ..devices.machine import Machine
from ..event_feed import ModelSqueezed
from ..logs.events import log
from ..process.family import families
from ..threads import ThreadRefusedError, in_thread
from .dispatcher import Dispatcher

#: Seconds for which such a model must have been idle, and between two looks.
IDLE_S: Final = 10.0
PERIOD_S: Final = 5.0

#: Seconds after a vain reload before the next one; each further one waits twice as long.
PAUSE_S: Final = 30.0
_MOST_DOUBLINGS: Final = 7


@attrs.define
class _Vain:
    """Reloads of a model after which it was squeezed again: how many, and when the last began."""

    count: int = 0
    at_s: float = -float("inf")

    @property
    def next_s(self) -> float:
        """Clock time from which on the next one is worth a try, in seconds."""
        return self.at_s + PAUSE_S * (1 << min(self.count, _MOST_DOUBLINGS))


class SqueezedModels:
    """Loads squeezed models again when there is room.

    Args:
        dispatcher: Returns what knows the models.
        machine: Reads the devices.
    """

    def __init__(self, dispatcher: Callable[[], Dispatcher], machine: Machine) -> None:
        self._dispatcher = dispatcher
        self._machine = machine
        self._backends: dict[ModelId, Backend] = {}
        self._vain: dict[ModelId, _Vain] = {}
        self._noted = trio.Event()

    def note(self, model: ModelId) -> None:
        """Take note that *model* became ready squeezed. Never blocks."""
        dispatcher = self._dispatcher()
        backend = dispatcher.backend(model)
        if backend is None:
            return
        vain = self._vain.get(model)
        if vain is not None and vain.next_s < trio.current_time() - PAUSE_S:
            del self._vain[model]  # that reload was of use
        summary = "" if backend.fit is None else backend.fit.describe()
        dispatcher.feed.publish(ModelSqueezed(model, summary, reloading=False))
        self._backends[model] = backend
        self._noted.set()

    async def run(self) -> NoReturn:
        """Look for room until cancelled."""
        while True:
            if not self._backends:
                self._noted = trio.Event()
                await self._noted.wait()
            await trio.sleep(PERIOD_S)
            await self._look()

    async def _look(self) -> None:
        """Load the models again that are idle and have room, one at a time."""
        dispatcher = self._dispatcher()
        backend_of = dispatcher.backend
        self._backends = {m: b for m, b in self._backends.items() if backend_of(m) is b}
        for model, backend in tuple(self._backends.items()):
            if not self._is_idle(model) or dispatcher.wanted():
                continue
            room_mib = await self._room_mib(model, backend)
            if room_mib < backend.unsqueezed_mib or not self._is_idle(model):
                continue
            vain = self._vain.setdefault(model, _Vain())
            vain.count, vain.at_s = vain.count + 1, trio.current_time()
            if dispatcher.renew(model):
                log.info(
                    "backend.unsqueezed",
                    model=model,
                    free_mib=round(room_mib),
                    needs_mib=backend.unsqueezed_mib,
                )
                dispatcher.feed.publish(ModelSqueezed(model, "", reloading=True))
                return

    def _is_idle(self, model: ModelId) -> bool:
        """Return whether a model has been idle for long enough, and is worth a try."""
        now_s = trio.current_time()
        found = self._dispatcher().statistics_of(model)
        if found is None or found.idle_since_s is None or found.idle_since_s > now_s - IDLE_S:
            return False
        vain = self._vain.get(model)
        return vain is None or vain.next_s <= now_s

    async def _room_mib(self, model: ModelId, backend: Backend) -> float:
        """Return what a new process of a model would find free on the GPUs of the present one."""
        leader = self._dispatcher().leaders.get(model)
        if leader is None or backend.fit is None or not backend.fit.gpus:
            return 0.0  # without GPUs, llama.cpp does not look at what is free
        try:
            found = await in_thread(families, (leader,), abandon_on_cancel=True)
        except ThreadRefusedError:
            return 0.0
        family = found.get(leader.pid, frozenset())
        return _room_mib(await self._machine.read(family), family, backend.fit.gpus)


def _room_mib(reading: MachineReading, family: frozenset[int], gpus: int) -> float:
    """Return what is free, or held by *family*, on its GPUs.

    Where drivers do not tell, it is that of as many GPUs as it has, those with the least free.
    """
    rooms: list[tuple[bool, float]] = []
    for device in reading.devices:
        if device.kind in GPU_KINDS:
            own_mib = sum((device.processes or {}).get(pid, 0.0) for pid in family)
            rooms.append((not own_mib, device.total_mib - device.used_mib + own_mib))
    return sum(mib for _, mib in sorted(rooms)[:gpus])
