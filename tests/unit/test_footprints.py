"""The footprint of a model: the best source that there is, on the devices that there are."""

from __future__ import annotations

import attrs

from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec
from llama_router.core.memory.devices import HOST, Device, DeviceId, DeviceKind
from llama_router.core.memory.footprint import UNKNOWN, Footprint, Source
from llama_router.core.memory.footprints import Sources, footprint_from

GPU0, GPU1 = map(DeviceId, ("nvidia0", "nvidia1"))
MACHINE = {HOST: Device(id=HOST, kind=DeviceKind.HOST, capacity_mib=32000)}
WORKSTATION = MACHINE | {
    GPU0: Device(id=GPU0, kind=DeviceKind.NVIDIA, capacity_mib=24000),
    GPU1: Device(id=GPU1, kind=DeviceKind.NVIDIA, capacity_mib=12000),
}
ESTIMATED = Footprint(source=Source.ESTIMATED, host_mib=500, gpu_mib=8000, per_gpu_mib=300)
REPORTED = Footprint(source=Source.REPORTED, host_mib=510, gpu_mib=8100)


def spec(**fields: object) -> ModelSpec:
    return parse_config({"models": {"a": {"path": "m.gguf", **fields}}}).models[ModelId("a")]


def test_the_best_source_counts() -> None:
    """The settings, then what was measured, what was reported, what is estimated."""
    everything = Sources(measured={GPU0: 8300, HOST: 600}, reported=REPORTED, estimated=ESTIMATED)
    found = footprint_from(spec(memory_mib=9000), everything, WORKSTATION)
    assert (found.source, found.gpu_mib) == (Source.CONFIGURED, 9000)
    found = footprint_from(spec(), everything, WORKSTATION)
    assert (found.source, found.gpu_mib, found.host_mib) == (Source.MEASURED, 8300, 600)
    said = Sources(reported=REPORTED, estimated=ESTIMATED)
    assert footprint_from(spec(), said, WORKSTATION) == REPORTED
    assert footprint_from(spec(), Sources(estimated=ESTIMATED), WORKSTATION) == ESTIMATED
    assert footprint_from(spec(), Sources(), WORKSTATION) == UNKNOWN


def test_what_was_measured_on_one_gpu_can_be_placed_on_another() -> None:
    """GPUs are added up; a further one of a split costs what the estimate says."""
    measured = Sources(measured={GPU0: 5000, GPU1: 3000}, estimated=ESTIMATED)
    found = footprint_from(spec(), measured, WORKSTATION)
    assert (found.gpu_mib, found.per_gpu_mib, dict(found.fixed_mib)) == (8000, 300, {})


def test_what_was_measured_on_a_lost_gpu_is_needed_on_another() -> None:
    """It does not become a model that takes nothing; units of pools stay what they are."""
    pools = {DeviceId("lab"): Device(id=DeviceId("lab"), kind=DeviceKind.POOL, capacity_mib=2)}
    lost = Sources(measured={DeviceId("nvidia7"): 5000, HOST: 100, DeviceId("lab"): 1})
    found = footprint_from(spec(), lost, WORKSTATION | pools)
    assert (found.gpu_mib, found.host_mib, dict(found.fixed_mib)) == (5000, 100, {"lab": 1})


def test_the_least_of_a_fitted_model_comes_from_its_file() -> None:
    """Whatever else is known; a figure of the settings is not reduced, nor are pinned GPUs."""
    fitted = attrs.evolve(ESTIMATED, least_host_mib=400, least_gpu_mib=4000)
    measured = Sources(measured={GPU0: 8300}, estimated=fitted)
    found = footprint_from(spec(), measured, WORKSTATION)
    assert (found.least_host_mib, found.least_gpu_mib) == (400, 4000)
    assert not footprint_from(spec(memory_mib=9000), measured, WORKSTATION).shrinks
    pinned = attrs.evolve(measured, pinned=(GPU1,))
    assert not footprint_from(spec(), pinned, WORKSTATION).shrinks


def test_a_table_of_devices_is_taken_as_it_is() -> None:
    """It says where the model is, too."""
    found = footprint_from(spec(memory_mib={"nvidia1": 700, "host": 50}), Sources(), WORKSTATION)
    assert found.fixed_mib == {GPU1: 700, HOST: 50}


def test_without_a_gpu_one_figure_is_of_host_memory() -> None:
    """And so it is for a launch that uses none."""
    configured = spec(memory_mib=700)
    assert footprint_from(configured, Sources(), MACHINE).host_mib == 700
    assert footprint_from(configured, Sources(pinned=()), WORKSTATION).host_mib == 700


def test_a_launch_that_names_its_gpus_keeps_them() -> None:
    """Its part of GPUs is on these, in proportion to their size."""
    found = footprint_from(spec(), Sources(estimated=ESTIMATED, pinned=(GPU1,)), WORKSTATION)
    assert (found.gpu_mib, found.fixed_mib, found.is_pinned) == (0, {GPU1: 8000}, True)
    both = Sources(estimated=ESTIMATED, pinned=(GPU0, GPU1))
    assert footprint_from(spec(), both, WORKSTATION).fixed_mib == {GPU0: 5533, GPU1: 2767}
