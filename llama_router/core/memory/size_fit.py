"""The memory in which a model fits of which only the size of its files is known. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import attrs

from .devices import HOST, Device, DeviceId

#: What a model takes beside its weights where its header is not known: a part of its size, and in
#: MiB. With 8192 tokens, models of 1 to 70 billion parameters take 4 to 11 % for their caches, and
#: some hundred MiB for buffers.
_OVERHEAD_PART: Final = 0.1
_OVERHEAD_MIB: Final = 300

#: What each further GPU takes of a model that is split, in MiB: buffers of its own.
_SPLIT_MIB: Final = 300


class Where(StrEnum):
    """The memory in which a model fits."""

    GPU = "gpu"
    GPUS = "gpus"
    GPU_AND_HOST = "gpu_and_host"
    HOST = "host"
    NONE = "none"


@attrs.frozen
class Fit:
    """Where a model fits when nothing else is loaded.

    Attributes:
        where: The memory.
        devices: The devices that it would use.
        need_mib: What it takes.
    """

    where: Where
    devices: tuple[DeviceId, ...]
    need_mib: int


def where_it_fits(
    size_bytes: int, devices: Iterable[Device], *, overhead_mib: int | None = None
) -> Fit:
    """Return where a model with files of *size_bytes* fits.

    Args:
        size_bytes: Of the model and its projector.
        devices: The devices of the machine.
        overhead_mib: What it takes beside that; None if that is not known.
    """
    size_mib = size_bytes / 2**20
    if overhead_mib is None:
        overhead_mib = round(size_mib * _OVERHEAD_PART + _OVERHEAD_MIB)
    need_mib = round(size_mib + overhead_mib)
    known = {device.id: device for device in devices}
    gpus = sorted((d for d in known.values() if d.is_gpu), key=lambda gpu: gpu.budget_mib)
    for gpu in gpus:
        if gpu.budget_mib >= need_mib:
            return Fit(Where.GPU, (gpu.id,), need_mib)
    names = tuple(gpu.id for gpu in gpus)
    together_mib = sum(gpu.budget_mib for gpu in gpus)
    split_mib = need_mib + _SPLIT_MIB * (len(gpus) - 1)
    if len(gpus) > 1 and together_mib >= split_mib:
        return Fit(Where.GPUS, names, split_mib)
    host_mib = known[HOST].budget_mib if HOST in known else 0
    if gpus and together_mib + host_mib >= split_mib:
        return Fit(Where.GPU_AND_HOST, (*names, HOST), split_mib)
    if host_mib >= need_mib:
        return Fit(Where.HOST, (HOST,), need_mib)
    return Fit(Where.NONE, (), need_mib)
