"""AMD's and Intel's GPUs, by what their drivers show in /sys and /proc.

Integrated GPUs are no devices: their memory is that of the machine. What they use of it for a
process is in no figure of the process itself, and is told beside the devices.

Source: Linux, drivers/gpu/drm/amd/amdgpu (amdgpu_vram_mgr.c: mem_info_vram_*) and
drivers/gpu/drm/xe (xe_tile_sysfs.c: physical_vram_size_bytes).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs

from ..core.memory.devices import DeviceId, DeviceKind, DeviceReading
from .drm_clients import DrmClients, Held
from .kfd import KfdNode, held_mib, kfd_nodes
from .pci import device_name, display_devices
from .port import DriverReading

#: Vendors of PCI devices.
_AMD: Final = "0x1002"
_INTEL: Final = "0x8086"

#: An integrated GPU of AMD has less of its own, taken from the machine's memory by the firmware.
_SMALLEST_MIB: Final = 1024

#: On its first bus, Intel's GPU is a part of the processor.
_INTEGRATED: Final = "0000:00:"

_CARD: Final = re.compile(r"card[0-9]+")
_RENDER_NODE: Final = re.compile(r"renderD([0-9]+)")

_BYTES_PER_MIB: Final = 2**20


@attrs.frozen(kw_only=True)
class _Card:
    """A GPU in /sys.

    Attributes:
        folder: Of the card.
        device: Of the PCI device.
        address: Its PCI address.
        vendor: Its PCI vendor.
    """

    folder: Path
    device: Path
    address: str
    vendor: str


class DrmReader:
    """Reads all GPUs of AMD and Intel.

    Args:
        root: The root of the file system; another one in tests.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._clients = DrmClients(root / "proc")
        self._names: dict[str, str] = {}
        self._addresses: dict[str, list[str]] = {_AMD: [], _INTEL: []}

    def read(self, backends: frozenset[int]) -> DriverReading:
        """Return the GPUs with memory of their own, and the host memory that any of them uses.

        One whose driver does not say how much it has is a fault.
        """
        cards = sorted(_cards(self._root), key=lambda card: card.address)
        cards = [card for card in cards if not _is_integrated(card)]
        held = self._clients.held(backends, search=bool(cards))
        devices: list[DeviceReading] = []
        faults: list[str] = []
        for card in cards:
            number = self._number(card)
            if card.vendor == _AMD:
                devices.append(self._amd(number, card, held))
            elif total_mib := _intel_total_mib(card):
                devices.append(self._intel(number, card, total_mib, held))
            else:
                faults.append(
                    f"{self._name(card)} is not used as a device: its driver does not say how "
                    "much memory it has (xe does, and i915 does not)"
                )
        return DriverReading(devices=tuple(devices), faults=tuple(faults), host_mib=held.on_host)

    def close(self) -> None:
        """Nothing is held."""

    def _amd(self, number: int, card: _Card, held: Held) -> DeviceReading:
        node = _node(card, kfd_nodes(self._root))
        processes = held.on_gpu.get(card.address, {})
        if node is not None and processes is not None:
            processes = _larger(processes, held_mib(node.gpu_id, self._root))
        return DeviceReading(
            id=DeviceId(f"amd{number}"),
            kind=DeviceKind.AMD,
            name=self._name(card),
            selector=node.selector if node is not None else "",
            total_mib=_mib(card.device / "mem_info_vram_total"),
            used_mib=_mib(card.device / "mem_info_vram_used"),
            processes=processes,
        )

    def _intel(self, number: int, card: _Card, total_mib: float, held: Held) -> DeviceReading:
        processes = held.on_gpu.get(card.address, {})
        available = card.folder / "lmem_avail_bytes"
        used_mib = sum((processes or {}).values())
        if available.exists():
            used_mib = total_mib - _mib(available)
        # Its place among all of Intel's GPUs: ZE_ENABLE_PCI_ID_DEVICE_ORDER makes them count so.
        order = display_devices(_INTEL, self._root)
        return DeviceReading(
            id=DeviceId(f"intel{number}"),
            kind=DeviceKind.INTEL,
            name=self._name(card),
            selector=str(order.index(card.address)) if card.address in order else "",
            total_mib=total_mib,
            used_mib=used_mib,
            processes=processes,
        )

    def _number(self, card: _Card) -> int:
        """Return the number of a GPU among its vendor's; it keeps it, whatever else is lost."""
        known = self._addresses[card.vendor]
        if card.address not in known:
            known.append(card.address)
        return known.index(card.address)

    def _name(self, card: _Card) -> str:
        """Return what people call it, or at least vendor and address."""
        if card.address not in self._names:
            vendor = "AMD" if card.vendor == _AMD else "Intel"
            found = device_name(card.address, self._root)
            self._names[card.address] = f"{vendor} {found or f'GPU {card.address}'}"
        return self._names[card.address]


def find_drm(root: Path = Path("/")) -> DrmReader | None:
    """Return what reads the GPUs of AMD and Intel; None if no driver shows one."""
    return DrmReader(root) if any(True for _ in _cards(root)) else None


def _cards(root: Path) -> Iterable[_Card]:
    try:
        found = list((root / "sys/class/drm").iterdir())
    except OSError:
        return
    for folder in found:
        if not _CARD.fullmatch(folder.name):  # a connector, or a render node
            continue
        try:
            device = (folder / "device").resolve(strict=True)
            vendor = (device / "vendor").read_text().strip()
        except (OSError, RuntimeError):  # the second one for a circle of links
            continue
        if vendor in {_AMD, _INTEL}:
            yield _Card(folder=folder, device=device, address=device.name, vendor=vendor)


def _is_integrated(card: _Card) -> bool:
    if card.vendor == _AMD:
        return _mib(card.device / "mem_info_vram_total") < _SMALLEST_MIB
    return card.address.startswith(_INTEGRATED)


def _intel_total_mib(card: _Card) -> float:
    """Return the memory of all parts of a GPU; 0 if its driver does not tell."""
    tiles = card.device.glob("tile[0-9]*/physical_vram_size_bytes")
    return sum(map(_mib, tiles)) or _mib(card.folder / "lmem_total_bytes")


def _node(card: _Card, nodes: Iterable[KfdNode]) -> KfdNode | None:
    """Return the GPU as the compute driver knows it."""
    found = (_RENDER_NODE.fullmatch(each.name) for each in (card.device / "drm").glob("renderD*"))
    minors = {int(each[1]) for each in found if each}
    return next((node for node in nodes if node.render_minor in minors), None)


def _larger(
    processes: Mapping[int, float], others: Iterable[tuple[int, float]]
) -> dict[int, float]:
    """Return *processes* with those of *others*, each with the larger of its two figures."""
    result = dict(processes)
    for pid, mib in others:
        result[pid] = max(result.get(pid, 0.0), mib)
    return result


def _mib(path: Path) -> float:
    """Return the bytes in a file of the kernel as MiB; 0 if it cannot be read."""
    try:
        return int(path.read_text()) / _BYTES_PER_MIB
    except (OSError, ValueError):
        return 0.0
