"""The present state as families: phases, queues, memory of devices. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from ...core.config.names import ModelId
from ...core.memory.devices import DeviceKind
from ...core.memory.view import MemoryView
from ...core.scheduling.lifecycle import Phase
from ...core.scheduling.model_entry import ModelStatistics
from .exposition import Family, labels, samples

MODELS: Final = Family("llama_router_models", "gauge", "Models in each phase of their backends.")
PHASE: Final = Family(
    "llama_router_model_phase",
    "gauge",
    "1 for the phase that the model's backend is in; other phases have no sample.",
)
IN_FLIGHT: Final = Family("llama_router_requests_in_flight", "gauge", "Requests being served.")
QUEUED: Final = Family("llama_router_requests_queued", "gauge", "Requests that wait.")
OLDEST: Final = Family(
    "llama_router_oldest_queued_seconds",
    "gauge",
    "How long the oldest waiting request of the model has waited; 0 if none waits.",
)
CLAIMED: Final = Family(
    "llama_router_model_device_memory_bytes",
    "gauge",
    "Memory of each device that a loaded model takes, where the policy of memory knows it.",
)
CAPACITY: Final = Family(
    "llama_router_device_memory_capacity_bytes", "gauge", "Memory of a device."
)
DEVICE: Final = Family(
    "llama_router_device_memory_bytes",
    "gauge",
    "Memory of a device by what it is used for: models, others, reserved, freeing, free.",
)

_MIB: Final = 2**20

Part: TypeAlias = Callable[[], str]
"""Makes the text of one family."""


def parts_of_models(found: Mapping[ModelId, ModelStatistics], now_s: float) -> list[Part]:
    """Return functions that make one family each, of models and their queues.

    Args:
        found: A snapshot of each model.
        now_s: Clock time, in seconds.
    """
    tags = {model: labels(model=str(model)) for model in found}

    def models() -> str:
        phases = Counter(stats.phase for stats in found.values())
        return samples(MODELS, [(labels(phase=phase.value), phases[phase]) for phase in Phase])

    def phase() -> str:
        values = [(f'{tags[m]},phase="{stats.phase.value}"', 1) for m, stats in found.items()]
        return samples(PHASE, values)

    def in_flight() -> str:
        return samples(IN_FLIGHT, [(tags[m], stats.in_flight) for m, stats in found.items()])

    def queued() -> str:
        return samples(QUEUED, [(tags[m], stats.queued) for m, stats in found.items()])

    def oldest() -> str:
        since = {m: next(iter(s.waiting_since_s.values()), now_s) for m, s in found.items()}
        return samples(OLDEST, [(tags[m], round(now_s - at_s, 3)) for m, at_s in since.items()])

    def claimed() -> str:
        values = [
            (f"{tags[model]},{labels(device=str(device))}", mib * _MIB)
            for model, stats in found.items()
            for device, mib in stats.claims.items()
        ]
        return samples(CLAIMED, values)

    return [models, phase, in_flight, queued, oldest, claimed]


def devices_text(view: MemoryView, found: Mapping[ModelId, ModelStatistics]) -> str:
    """Return the families of devices, which are known with the policy of memory only.

    Args:
        view: What is known of them.
        found: A snapshot of each model.
    """
    claimed: Counter[str] = Counter()
    for stats in found.values():
        claimed.update({str(device): mib for device, mib in stats.claims.items()})
    devices = {
        name: state
        for name, state in view.devices.items()
        if state.device.kind is not DeviceKind.POOL
    }
    uses: list[tuple[str, float]] = []
    for name, state in devices.items():
        amounts = {
            "models": claimed[name],
            "others": state.others_mib,
            "reserved": state.device.reserve_mib,
            "freeing": state.freeing_mib,
            "free": max(0, state.available_mib - claimed[name]),
        }
        uses += [(labels(device=str(name), state=use), mib * _MIB) for use, mib in amounts.items()]
    capacity = [
        (labels(device=str(name)), state.device.capacity_mib * _MIB)
        for name, state in devices.items()
    ]
    return samples(CAPACITY, capacity) + samples(DEVICE, uses)
