"""The footprint of a model, from the best source that there is. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from ..config.specs import ModelSpec
from .devices import HOST, Device, DeviceId, DeviceKind
from .footprint import UNKNOWN, Footprint, Source
from .view import Claims


@attrs.frozen(kw_only=True)
class Sources:
    """All that is known about the memory of one launch.

    Attributes:
        measured: The most that it was seen to hold, by device.
        reported: What ``llama-server`` said; None if it did not.
        estimated: From the file and the flags; None if that cannot be said.
        pinned: Names of the devices that its launch names itself; None if it leaves the choice.
    """

    measured: Claims = attrs.field(factory=dict[DeviceId, int])
    reported: Footprint | None = None
    estimated: Footprint | None = None
    pinned: tuple[DeviceId, ...] | None = None


def footprint_from(
    spec: ModelSpec, sources: Sources, devices: Mapping[DeviceId, Device]
) -> Footprint:
    """Return the footprint of a model.

    Args:
        spec: Its settings.
        sources: What is known about its launch.
        devices: The devices that are used.
    """
    estimated = sources.estimated or UNKNOWN
    configured = spec.memory_mib
    is_pinned = sources.pinned is not None
    if isinstance(configured, Mapping):
        fixed = {DeviceId(name): mib for name, mib in configured.items()}
        return Footprint(source=Source.CONFIGURED, fixed_mib=fixed, is_pinned=is_pinned)
    has_gpu = any(device.is_gpu for device in devices.values())
    if configured is not None:
        found = (
            Footprint(
                source=Source.CONFIGURED, gpu_mib=configured, per_gpu_mib=estimated.per_gpu_mib
            )
            if has_gpu and sources.pinned != ()
            else Footprint(source=Source.CONFIGURED, host_mib=configured)
        )
    elif sources.measured:
        found = _measured(sources.measured, estimated, devices)
    elif sources.reported is not None:
        found = sources.reported
    else:
        found = estimated
    if found.source is not Source.CONFIGURED:
        # The least is known from the file only.
        found = attrs.evolve(
            found,
            least_host_mib=estimated.least_host_mib,
            uncounted_mib=estimated.uncounted_mib,
            least_gpu_mib=estimated.least_gpu_mib,
        )
    return attrs.evolve(_on_pinned(found, sources.pinned, devices), is_pinned=is_pinned)


def _measured(
    by_device: Claims, estimated: Footprint, devices: Mapping[DeviceId, Device]
) -> Footprint:
    """Return a footprint that can be placed elsewhere, too: GPUs are added up.

    What is not there any more was a GPU: it has been lost, and the model needs another one.
    """
    pools = {name for name, device in devices.items() if device.kind is DeviceKind.POOL}
    gpus = by_device.keys() - pools - {HOST}
    return Footprint(
        source=Source.MEASURED,
        host_mib=by_device.get(HOST, 0),
        gpu_mib=sum(by_device[name] for name in gpus),
        per_gpu_mib=estimated.per_gpu_mib,
        fixed_mib={name: mib for name, mib in by_device.items() if name in pools},
    )


def _on_pinned(
    footprint: Footprint,
    pinned: tuple[DeviceId, ...] | None,
    devices: Mapping[DeviceId, Device],
) -> Footprint:
    """Return the footprint with its GPU part on the devices that the launch names itself."""
    if pinned is None or not footprint.gpu_mib:
        return footprint
    there = [name for name in pinned if name in devices]
    if not there:
        return attrs.evolve(footprint, host_mib=footprint.host_mib + footprint.gpu_mib, gpu_mib=0)
    total_mib = footprint.gpu_mib + (len(there) - 1) * footprint.per_gpu_mib
    budget_mib = sum(devices[name].budget_mib for name in there) or 1
    fixed = dict(footprint.fixed_mib)
    for name in there:
        share = round(total_mib * devices[name].budget_mib / budget_mib)
        fixed[name] = fixed.get(name, 0) + share
    return attrs.evolve(
        footprint, gpu_mib=0, fixed_mib=fixed, least_host_mib=None, least_gpu_mib=None
    )
