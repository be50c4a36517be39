"""The devices that a llama-server lists, and which of the machine's they are. Pure.

Source: llama.cpp, ``--list-devices``; its names of devices, such as ``CUDA0`` and ``Vulkan1``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import attrs

from .devices import Device, DeviceId, DeviceKind

#: What llama.cpp calls the devices of a vendor's own interface.
NATIVE: Final = {
    DeviceKind.NVIDIA: "CUDA",
    DeviceKind.AMD: "ROCm",
    DeviceKind.INTEL: "SYCL",
}

#: Words by which a description tells the vendor.
_VENDORS: Final = {
    DeviceKind.NVIDIA: {"nvidia", "geforce", "quadro", "tesla"},
    DeviceKind.AMD: {"amd", "radeon", "radv", "instinct"},
    DeviceKind.INTEL: {"intel", "arc"},
}

_LINE: Final = re.compile(r"(?P<name>([A-Za-z_]+)[0-9]+): (?P<words>.*?)(?: \((\d+) MiB, .*\))?")
_WORD: Final = re.compile(r"[a-z0-9]+")


@attrs.frozen(kw_only=True)
class ListedDevice:
    """A device as a program lists it.

    Attributes:
        name: Its name in ``--device``.
        interface: The first part of the name: ``CUDA``, ``Vulkan``.
        description: What its driver calls it.
        total_mib: Its memory; 0 if it is not said.
    """

    name: str
    interface: str
    description: str
    total_mib: int = 0


def listed_devices(lines: Iterable[str]) -> tuple[ListedDevice, ...]:
    """Return the devices in *lines*: ``CUDA0: NVIDIA H200 (143156 MiB, 142631 MiB free)``."""
    found = (_LINE.fullmatch(line.strip()) for line in lines)
    return tuple(
        ListedDevice(
            name=each["name"],
            interface=each[2],
            description=each["words"],
            total_mib=int(each[4] or 0),
        )
        for each in found
        if each
    )


def identified(listed: Sequence[ListedDevice], devices: Iterable[Device]) -> dict[str, DeviceId]:
    """Return which of *devices* each listed one is, by its name there.

    The vendor must be the same; the words of the descriptions decide, then the size, then the
    order, which is all that tells two equal cards apart. A device that several interfaces list
    occurs several times; one that is none of the machine's is left out.
    """
    gpus = [device for device in devices if device.kind in _VENDORS]
    found: dict[str, DeviceId] = {}
    for interface in dict.fromkeys(each.interface for each in listed):
        left = list(gpus)
        for each in (each for each in listed if each.interface == interface):
            words = _words(each.description)
            same_vendor = [
                device
                for device in left
                if NATIVE[device.kind] == interface or words & _VENDORS[device.kind]
            ]
            if same_vendor:
                best = max(same_vendor, key=lambda device: _likeness(device, each))
                found[each.name] = best.id
                left.remove(best)
    return found


def _likeness(device: Device, listed: ListedDevice) -> tuple[int, int]:
    """Return how well two descriptions agree. Of equal ones, `max` takes the first."""
    common = _words(device.name) & _words(listed.description)
    return len(common), -abs(device.capacity_mib - listed.total_mib)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
