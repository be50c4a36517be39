"""The settings of devices, ``[devices.NAME]``, applied to what their drivers say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..config.specs import DeclaredKind, DeviceSpec
from .devices import HOST, Device, DeviceId, DeviceKind, DeviceReading, MachineReading

#: What is left to other programs on a GPU: a desktop takes about this much.
GPU_RESERVE_MIB: Final = 512

#: The same of host memory, as a part of it.
HOST_RESERVE: Final = 0.1

MAX_MODELS: Final = DeviceId("max_models")
"""The pool of which every model takes one unit, if ``max_models`` is set."""


def devices_of(
    reading: MachineReading, specs: Mapping[str, DeviceSpec], max_models: int | None = None
) -> tuple[dict[DeviceId, Device], list[str]]:
    """Return the devices that the router may use, and what is wrong with their settings.

    Args:
        reading: What the drivers say.
        specs: The tables ``[devices.NAME]``.
        max_models: The setting of ``[scheduler]``.

    Returns:
        The devices by name: host memory, GPUs, declared ones. A warning is a sentence.
    """
    warnings: list[str] = []
    devices: dict[DeviceId, Device] = {}
    for found in sorted(reading.devices, key=lambda each: each.id != HOST):
        if found.kind is DeviceKind.SIMULATED:
            continue  # it is declared
        spec = specs.get(found.id, DeviceSpec())
        if spec.kind is not None:
            warnings.append(
                f"[devices.{found.id}] has kind = '{spec.kind}', but {found.id} is the name of "
                f"{found.name}: give the declared device another name"
            )
            spec = DeviceSpec()
        if not spec.ignore:
            devices[found.id] = _found(found, spec, warnings)
    names = {each.id for each in reading.devices}
    for name, spec in specs.items():
        if name not in devices and not spec.ignore:
            if spec.kind is not None:
                devices[DeviceId(name)] = _declared(DeviceId(name), spec)
            elif not reading.faults:  # else a driver that cannot be read may know it
                warnings.append(
                    f"[devices.{name}] has no effect: there is no device of this name (found: "
                    f"{', '.join(sorted(names)) or 'none'})"
                )
    if max_models is not None:
        devices[MAX_MODELS] = Device(id=MAX_MODELS, kind=DeviceKind.POOL, capacity_mib=max_models)
    return devices, warnings


def _found(found: DeviceReading, spec: DeviceSpec, warnings: list[str]) -> Device:
    total_mib = int(found.total_mib)
    capacity_mib = spec.memory_mib or total_mib
    if capacity_mib > total_mib:
        warnings.append(
            f"[devices.{found.id}] memory_mib = {capacity_mib} is more than the device has: "
            f"{total_mib} MiB are used"
        )
        capacity_mib = total_mib
    reserve_mib = spec.reserve_mib
    if reserve_mib is None:
        # What memory_mib leaves out is left to other programs already.
        default_mib = int(total_mib * HOST_RESERVE) if found.id == HOST else GPU_RESERVE_MIB
        reserve_mib = max(0, default_mib - (total_mib - capacity_mib))
    device = Device(
        id=found.id,
        kind=found.kind,
        name=found.name,
        selector=found.selector,
        capacity_mib=capacity_mib,
        reserve_mib=reserve_mib,
        beyond_mib=total_mib - capacity_mib,
    )
    if not device.budget_mib:
        warnings.append(
            f"{found.id} is left to other programs: its reserve of {reserve_mib} MiB is all of its "
            f"{capacity_mib} MiB; [devices.{found.id}] reserve_mib sets another one"
        )
    return device


def _declared(name: DeviceId, spec: DeviceSpec) -> Device:
    """Return a pool, or a simulated GPU: no other programs are there, so nothing is reserved."""
    kind = DeviceKind(spec.kind or DeclaredKind.POOL)
    return Device(
        id=name,
        kind=kind,
        name=f"{kind} {name}",
        capacity_mib=(spec.amount if kind is DeviceKind.POOL else spec.memory_mib) or 0,
        reserve_mib=spec.reserve_mib or 0,
    )
