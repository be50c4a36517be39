"""Devices with memory, and what their drivers say about them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NewType

import attrs

DeviceId = NewType("DeviceId", str)
"""The name of a device: its kind and a number (``nvidia0``), or the one in ``[devices.NAME]``."""

HOST: Final = DeviceId("host")
"""The memory of the machine itself."""


class DeviceKind(StrEnum):
    """The kind of a device: it decides how the device is read and how programs name it."""

    NVIDIA = "nvidia"
    AMD = "amd"
    INTEL = "intel"
    HOST = "host"
    POOL = "pool"  # a resource that only people know: nothing reads it
    SIMULATED = "simulated"  # a GPU that does not exist, for tests and simulations


#: Devices that a model can be placed on, or split over.
GPU_KINDS: Final = frozenset(
    {DeviceKind.NVIDIA, DeviceKind.AMD, DeviceKind.INTEL, DeviceKind.SIMULATED}
)


@attrs.frozen(kw_only=True)
class DeviceReading:
    """What the driver of a device says at one moment.

    Attributes:
        id: Its name.
        kind: Its kind.
        name: What people call it: ``NVIDIA GeForce RTX 4090``.
        selector: How programs name it, for example in ``CUDA_VISIBLE_DEVICES``: a UUID or a
            number; empty if programs cannot choose it.
        total_mib: Its memory.
        used_mib: The part of it that a new process cannot have. For host memory, that is the
            total less what the kernel calls available.
        processes: What each process holds, by process id; None if the driver does not tell.
    """

    id: DeviceId
    kind: DeviceKind
    name: str
    selector: str = ""
    total_mib: float
    used_mib: float
    processes: Mapping[int, float] | None = None


@attrs.frozen(kw_only=True)
class MachineReading:
    """All devices at one moment.

    Attributes:
        at_s: Clock time before the first of them was read, in seconds.
        devices: What each driver says.
        faults: A sentence for each driver that is there and could not be read.
        names: What people call the processes that hold much and are no backends, by process id.
    """

    at_s: float
    devices: tuple[DeviceReading, ...]
    faults: tuple[str, ...] = ()
    names: Mapping[int, str] = attrs.field(factory=dict[int, str])


@attrs.frozen(kw_only=True)
class Device:
    """A device as the router may use it.

    Attributes:
        id: Its name.
        kind: Its kind.
        name: What people call it.
        selector: How programs name it, see `DeviceReading`.
        capacity_mib: Its memory, or the part of it that ``memory_mib`` allows; the amount of a
            pool.
        reserve_mib: What is left to other programs.
        beyond_mib: The part of its memory that ``memory_mib`` leaves out, to other programs, too.
    """

    id: DeviceId
    kind: DeviceKind
    name: str = ""
    selector: str = ""
    capacity_mib: int
    reserve_mib: int = 0
    beyond_mib: int = 0

    @property
    def budget_mib(self) -> int:
        """What all models together may take."""
        return max(0, self.capacity_mib - self.reserve_mib)

    @property
    def is_gpu(self) -> bool:
        """True if a model can be placed on it, or split over it and others."""
        return self.kind in GPU_KINDS
