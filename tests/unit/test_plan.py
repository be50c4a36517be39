"""The plan: what would fit with what, by the placement policy itself."""

from __future__ import annotations

from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.memory.devices import Device, DeviceId, DeviceKind
from llama_router.core.memory.footprint import Footprint, Source
from llama_router.core.memory.view import DeviceState, MemoryView
from llama_router.core.scheduling.plan import Step, steps_for

GPU = DeviceId("nvidia0")
A, B, C, HUGE = map(ModelId, ("a", "b", "c", "huge"))
NEEDS_MIB = {A: 4000, B: 5000, C: 6000, HUGE: 90000}
CONFIG = parse_config({"models": {str(model): {"path": "m.gguf"} for model in NEEDS_MIB}})
MEMORY = MemoryView(
    devices={GPU: DeviceState(device=Device(id=GPU, kind=DeviceKind.NVIDIA, capacity_mib=10000))},
    footprints={
        model: Footprint(source=Source.ESTIMATED, gpu_mib=mib) for model, mib in NEEDS_MIB.items()
    },
)


def steps(*models: ModelId) -> list[Step]:
    return steps_for(CONFIG, MEMORY, (), models)


def test_models_that_fit_are_placed_side_by_side() -> None:
    """Each step starts from what the one before it left."""
    first, second = steps(A, B)
    assert (first.claims, second.claims) == ({GPU: 4000}, {GPU: 5000})
    assert second.evicted == ()


def test_what_would_leave_is_named() -> None:
    """And is gone in the steps behind it."""
    *_, third, again = steps(A, B, C, B)
    assert third.evicted == (B,)
    assert again.evicted == (C,)  # without A there would not be enough


def test_a_model_that_is_there_takes_what_it_takes() -> None:
    """Nothing leaves for it."""
    assert steps(A, A)[1] == steps(A)[0]


def test_what_cannot_start_says_why_and_evicts_nothing() -> None:
    """The steps behind it start from the same state."""
    _, refused, after = steps(A, HUGE, B)
    assert refused.reason.startswith("model 'huge' needs 87.9 GiB of GPU memory (estimated)")
    assert (refused.claims, refused.evicted, refused.is_too_large) == ({}, (), True)
    assert after.evicted == ()
