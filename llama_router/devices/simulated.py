"""Simulated GPUs: ``[devices.NAME] kind = "simulated"``, for tests without a GPU.

What processes hold of one is in a file that they write themselves, ``NAME.json`` in the folder
``simulated`` of the state directory: MiB by process id, ``{"4711": 2048}``. As with a real
driver, a process that is gone holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from ..core.config.specs import DeclaredKind, DeviceSpec
from ..core.memory.devices import DeviceId, DeviceKind, DeviceReading
from ..process import procfs
from .port import DriverReading


class SimulatedReader:
    """Reads what processes claim of simulated GPUs.

    Args:
        specs: Returns the tables ``[devices.NAME]`` in force.
        folder: The folder of the files.
    """

    def __init__(self, specs: Callable[[], Mapping[str, DeviceSpec]], folder: Path) -> None:
        self._specs = specs
        self._folder = folder

    def read(self, backends: frozenset[int]) -> DriverReading:  # noqa: ARG002 -- all are exact
        """Return the simulated devices; a file that cannot be read is a fault of its device."""
        devices, faults = [], []
        for name, spec in self._specs().items():
            if spec.kind is DeclaredKind.SIMULATED:
                try:
                    devices.append(self._device(name, float(spec.memory_mib or 0)))
                except (OSError, ValueError) as exc:
                    faults.append(f"the memory of the simulated device {name} is unknown: {exc}")
        return DriverReading(devices=tuple(devices), faults=tuple(faults))

    def close(self) -> None:
        """Nothing is held."""

    def _device(self, name: str, total_mib: float) -> DeviceReading:
        try:
            content = (self._folder / f"{name}.json").read_bytes()
        except FileNotFoundError:
            content = b"{}"
        written = msgspec.json.decode(content, type=dict[int, float])
        held_mib = {pid: mib for pid, mib in written.items() if _lives(pid)}
        return DeviceReading(
            id=DeviceId(name),
            kind=DeviceKind.SIMULATED,
            name=f"simulated {name}",
            total_mib=total_mib,
            used_mib=sum(held_mib.values()),
            processes=held_mib,
        )


def _lives(pid: int) -> bool:
    stat = procfs.read_stat(pid)
    return stat is not None and not stat.gone
