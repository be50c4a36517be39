"""The rule of llama-router: the real scheduler, with the policy of memory. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.memory.devices import Device, DeviceId, DeviceKind
from llama_router.core.memory.footprint import Footprint, Source
from llama_router.core.memory.view import DeviceState, MemoryView
from llama_router.core.scheduling.events import (
    Action,
    Arrived,
    Changed,
    Event,
    Finished,
    Grant,
    MemoryChanged,
    Reconfigured,
    Refuse,
    Start,
    Stop,
    Tick,
)
from llama_router.core.scheduling.lifecycle import Signal
from llama_router.core.scheduling.scheduler import Scheduler
from llama_router.errors.backends import BackendExitedError

from .simulation import Granted, Order, Refused, Started, Stopped
from .traces import Trace

#: Seconds between two readings of the devices; see `dispatch.memory_watch`.
_READ_EVERY_S: Final = 1.0


class Router:
    """Passes what happens to the scheduler as its events, and its actions on as orders.

    Args:
        trace: The trace: its machine and its models.
        settings: Of ``[router]``, those that are not the default.
    """

    notices_after_s = _READ_EVERY_S

    def __init__(self, trace: Trace, settings: Mapping[str, Any] | None = None) -> None:
        self._machine = trace.machine
        self._settings = dict(settings or {})
        self._models = trace.models
        self._slots = {model.name: model.slots for model in trace.models}
        self._reloads: dict[str, int] = {}
        self._held_mib: Mapping[int, int] = {}
        self._claims: dict[str, Mapping[int, int]] = {}
        self._freeing_mib: Counter[int] = Counter()
        self._footprints = {
            ModelId(model.name): Footprint(
                source=Source.ESTIMATED, gpu_mib=model.size_mib, per_gpu_mib=model.split_mib
            )
            for model in trace.models
        }
        self.scheduler = Scheduler(self._config())
        self._read_s = 0.0
        self._tell(MemoryChanged(self._view()), 0.0)

    @property
    def wake_s(self) -> float:
        """The time that the scheduler asks for."""
        return self.scheduler.wake_s

    @property
    def wants_reading(self) -> bool:
        """Whether the scheduler would start or stop something by a new reading."""
        return self.scheduler.wants_reading

    def arrived(
        self,
        request: int,
        model: str,
        client: str,
        now_s: float,
    ) -> list[Order]:
        """Pass it on."""
        return self._tell(Arrived(request, ModelId(model), client=client), now_s)

    def ended(self, request: int, now_s: float) -> list[Order]:
        """Pass it on."""
        return self._tell(Finished(request), now_s)

    def ready(self, model: str, now_s: float) -> list[Order]:
        """Pass it on."""
        slots = self._slots[model]
        return self._tell(Changed(ModelId(model), Signal.PROBE_OK, slots=slots), now_s)

    def exited(self, model: str, now_s: float, *, crashed: bool) -> list[Order]:
        """Pass it on; its memory is free when the devices have been read again."""
        self._freeing_mib.update(self._claims.pop(model))
        self.scheduler.learn(self._view())
        error = BackendExitedError(model, 1) if crashed else None
        return self._tell(Changed(ModelId(model), Signal.EXITED, error), now_s)

    def others_hold(self, held_mib: Mapping[int, int], now_s: float) -> list[Order]:
        """Pass it on, as the ledger would."""
        self._held_mib, self._read_s = held_mib, now_s
        self._freeing_mib.clear()
        return self._tell(MemoryChanged(self._view()), now_s)

    def reloaded(self, changed: str, now_s: float) -> list[Order]:
        """Pass a configuration with other arguments of the model on."""
        self._reloads[changed] = self._reloads.get(changed, 0) + 1
        return self._tell(Reconfigured(self._config()), now_s)

    def tick(self, now_s: float) -> list[Order]:
        """Pass it on."""
        return self._tell(Tick(), now_s)

    def _tell(self, event: Event, now_s: float) -> list[Order]:
        orders = [_order(action) for action in self.scheduler.handle(event, now_s=now_s)]
        self._claims |= {each.model: each.claims for each in orders if isinstance(each, Started)}
        return orders

    def _config(self) -> Config:
        models = {
            model.name: {
                "path": f"{model.name}.gguf",
                "args": ["--seed", str(self._reloads.get(model.name, 0))],
            }
            for model in self._models
        }
        return parse_config(
            {"router": self._settings, "scheduler": {"policy": "memory"}, "models": models}
        )

    def _view(self) -> MemoryView:
        states = devices(self._machine.gpus, self._held_mib, self._freeing_mib)
        return MemoryView(devices=states, footprints=self._footprints, at_s=self._read_s)


def devices(
    gpus: Sequence[int],
    held_mib: Mapping[int, int],
    freeing_mib: Mapping[int, int],
) -> dict[DeviceId, DeviceState]:
    """Return GPUs with these budgets, of which other programs hold some, and some is freed."""
    states = {}
    for gpu, budget_mib in enumerate(gpus):
        device = Device(
            id=DeviceId(f"gpu{gpu}"), kind=DeviceKind.SIMULATED, capacity_mib=budget_mib
        )
        states[device.id] = DeviceState(
            device=device,
            others_mib=held_mib.get(gpu, 0),
            freeing_mib=freeing_mib.get(gpu, 0),
        )
    return states


def _order(action: Action) -> Order:
    match action:
        case Grant(request):
            return Granted(request)
        case Refuse(request):
            return Refused(request)
        case Start(model, claims):
            return Started(
                str(model), {int(name.removeprefix("gpu")): mib for name, mib in claims.items()}
            )
        case Stop(model):
            return Stopped(str(model))
