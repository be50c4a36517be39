"""The port of a driver: what a module must offer that reads one kind of device. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import attrs

from ..core.memory.devices import DeviceReading


class DriverError(Exception):
    """A driver is there, and cannot be read. The message is a sentence for people."""


class DriverMissingError(Exception):
    """A device is there, and no driver by which it can be read. The message is a sentence."""


@attrs.frozen(kw_only=True)
class DriverReading:
    """What one driver says at one moment.

    Attributes:
        devices: The devices that could be read.
        faults: A sentence for each other one.
        host_mib: Host memory that the driver holds for processes, by process id.
    """

    devices: tuple[DeviceReading, ...] = ()
    faults: tuple[str, ...] = ()
    host_mib: Mapping[int, float] = attrs.field(factory=dict[int, float])


class DeviceReader(Protocol):
    """Reads the devices of one driver. Its methods block; no two are called at once."""

    def read(self, backends: frozenset[int]) -> DriverReading:
        """Return what the driver says now.

        Args:
            backends: Processes whose memory is wanted exactly, where that takes more work.

        Raises:
            DriverError: if it cannot be read at all.
        """

    def close(self) -> None:
        """Give back what it holds of the driver. Never raises."""
