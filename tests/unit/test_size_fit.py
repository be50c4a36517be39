"""Where a model of a known size fits."""

from __future__ import annotations

import pytest

from llama_router.core.memory.devices import HOST, Device, DeviceId, DeviceKind
from llama_router.core.memory.size_fit import Where, where_it_fits

GIB = 2**30


def machine(*gpus_mib: int, host_mib: int = 32_000) -> list[Device]:
    gpus = [
        Device(id=DeviceId(f"gpu{n}"), kind=DeviceKind.SIMULATED, capacity_mib=mib)
        for n, mib in enumerate(gpus_mib)
    ]
    return [*gpus, Device(id=HOST, kind=DeviceKind.HOST, capacity_mib=host_mib, reserve_mib=2000)]


@pytest.mark.parametrize(
    ("size_gib", "devices", "where", "names"),
    [
        (4, machine(8000, 24000), Where.GPU, ["gpu0"]),
        (10, machine(8000, 24000), Where.GPU, ["gpu1"]),
        (26, machine(8000, 24000), Where.GPUS, ["gpu0", "gpu1"]),
        (40, machine(8000, 24000), Where.GPU_AND_HOST, ["gpu0", "gpu1", "host"]),
        (70, machine(8000, 24000), Where.NONE, []),
        (10, machine(), Where.HOST, ["host"]),
        (29, machine(), Where.NONE, []),
        (1, [], Where.NONE, []),
    ],
)
def test_the_smallest_memory_that_is_enough_is_named(size_gib, devices, where, names) -> None:
    """One GPU before several, and these before the host."""
    fit = where_it_fits(size_gib * GIB, devices)
    assert (fit.where, list(fit.devices)) == (where, names)


def test_what_a_header_says_counts() -> None:
    """A large cache makes the difference."""
    assert where_it_fits(7 * GIB, machine(8000), overhead_mib=100).where is Where.GPU
    assert where_it_fits(7 * GIB, machine(8000), overhead_mib=2000).where is Where.GPU_AND_HOST
