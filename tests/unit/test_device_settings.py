"""The settings of devices, applied to what their drivers say."""

import pytest

from llama_router.core.config.specs import DeclaredKind, DeviceSpec
from llama_router.core.memory.devices import (
    HOST,
    Device,
    DeviceId,
    DeviceKind,
    DeviceReading,
    MachineReading,
)
from llama_router.core.memory.settings import MAX_MODELS, devices_of

GPU = DeviceReading(
    id=DeviceId("nvidia0"),
    kind=DeviceKind.NVIDIA,
    name="NVIDIA H200",
    selector="GPU-1",
    total_mib=140000.7,
    used_mib=600,
)
HOST_MEMORY = DeviceReading(
    id=HOST, kind=DeviceKind.HOST, name="host memory", total_mib=64000, used_mib=9000
)
MACHINE = MachineReading(at_s=0, devices=(GPU, HOST_MEMORY))


def applied(
    *, faults: tuple[str, ...] = (), max_models: int | None = None, **specs: DeviceSpec
) -> tuple[dict[DeviceId, Device], list[str]]:
    reading = MachineReading(at_s=0, devices=MACHINE.devices, faults=faults)
    return devices_of(reading, specs, max_models)


def test_devices_are_used_as_they_are_found() -> None:
    """Host memory first; a tenth of it is left to others, and 512 MiB of each GPU."""
    devices, warnings = applied()
    assert list(devices) == [HOST, "nvidia0"]
    assert [each.budget_mib for each in devices.values()] == [57600, 139488]
    assert devices[GPU.id].selector == "GPU-1"
    assert not warnings


@pytest.mark.parametrize(
    ("spec", "capacity_mib", "reserve_mib"),
    [
        (DeviceSpec(reserve_mib=0), 140000, 0),
        (DeviceSpec(reserve_mib=4000), 140000, 4000),
        (DeviceSpec(memory_mib=100000), 100000, 0),
        (DeviceSpec(memory_mib=139800), 139800, 312),
        (DeviceSpec(memory_mib=100000, reserve_mib=100), 100000, 100),
    ],
)
def test_memory_and_reserve_can_be_set(
    spec: DeviceSpec, capacity_mib: int, reserve_mib: int
) -> None:
    """What memory_mib leaves out is left to others already, and counts as reserve."""
    devices, warnings = applied(nvidia0=spec)
    assert devices[GPU.id].capacity_mib == capacity_mib
    assert devices[GPU.id].reserve_mib == reserve_mib
    assert not warnings


def test_no_device_has_more_than_it_has() -> None:
    """The device's own size counts, and a warning says so."""
    devices, warnings = applied(nvidia0=DeviceSpec(memory_mib=150000))
    assert devices[GPU.id].capacity_mib == 140000
    assert "150000" in warnings[0]
    assert "140000" in warnings[0]


def test_a_device_without_a_budget_is_said() -> None:
    """A reserve larger than the device leaves nothing to models."""
    devices, warnings = applied(nvidia0=DeviceSpec(reserve_mib=200000))
    assert devices[GPU.id].budget_mib == 0
    assert "reserve_mib" in warnings[0]


@pytest.mark.parametrize("name", ["host", "nvidia0"])
def test_a_device_can_be_ignored(name: str) -> None:
    """Host memory, too."""
    devices, warnings = devices_of(MACHINE, {name: DeviceSpec(ignore=True)})
    assert len(devices) == 1
    assert name not in devices
    assert not warnings


def test_a_name_that_nothing_finds_is_a_warning() -> None:
    """With the names that exist."""
    _, warnings = applied(nvidia1=DeviceSpec(reserve_mib=0))
    assert "nvidia1" in warnings[0]
    assert "host, nvidia0" in warnings[0]


@pytest.mark.parametrize(
    ("spec", "faults"),
    [
        (DeviceSpec(ignore=True), ()),
        (DeviceSpec(reserve_mib=0), ("the NVIDIA driver does not answer",)),
    ],
)
def test_a_missing_device_may_be_expected(spec: DeviceSpec, faults: tuple[str, ...]) -> None:
    """It is ignored anyway, or its driver cannot be read now."""
    assert applied(nvidia1=spec, faults=faults)[1] == []


def test_declared_devices_need_no_driver() -> None:
    """A pool has units; a simulated GPU has memory, and nobody beside the models uses it."""
    devices, warnings = applied(
        slots=DeviceSpec(kind=DeclaredKind.POOL, amount=3),
        gpu=DeviceSpec(kind=DeclaredKind.SIMULATED, memory_mib=8000),
        other=DeviceSpec(kind=DeclaredKind.SIMULATED, memory_mib=8000, ignore=True),
    )
    assert list(devices) == [HOST, "nvidia0", "slots", "gpu"]
    slots, gpu = devices[DeviceId("slots")], devices[DeviceId("gpu")]
    assert (slots.kind, slots.budget_mib, slots.is_gpu) == (DeviceKind.POOL, 3, False)
    assert (gpu.kind, gpu.budget_mib, gpu.is_gpu) == (DeviceKind.SIMULATED, 8000, True)
    assert not warnings


def test_a_declared_device_cannot_take_the_name_of_a_real_one() -> None:
    """The real one stays, as if it had no settings."""
    devices, warnings = applied(host=DeviceSpec(kind=DeclaredKind.SIMULATED, memory_mib=100))
    assert devices[HOST].kind is DeviceKind.HOST
    assert devices[HOST].budget_mib == 57600
    assert "another name" in warnings[0]


def test_max_models_is_a_pool() -> None:
    """Every model takes one of its units."""
    devices, _ = applied(max_models=4)
    assert devices[MAX_MODELS].kind is DeviceKind.POOL
    assert devices[MAX_MODELS].budget_mib == 4
