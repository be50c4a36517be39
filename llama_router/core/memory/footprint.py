"""Footprints: the memory that a backend takes, and how that is known. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import attrs

from .devices import DeviceId


class Source(StrEnum):
    """How a footprint is known; the best source first."""

    CONFIGURED = "configured"  # memory_mib in router.toml
    MEASURED = "measured"  # the same launch was measured, in this or an earlier life
    REPORTED = "reported"  # llama.cpp said so at an earlier load of the same launch
    ESTIMATED = "estimated"  # from the header of the file and the flags
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class Footprint:
    """What one backend takes, before devices are chosen for it.

    Attributes:
        source: How it is known.
        host_mib: Of host memory, the mapped model file included.
        gpu_mib: Of GPUs, all of them together. It is placed on one if it fits, else split.
        per_gpu_mib: What each further GPU of a split costs in addition.
        fixed_mib: Of devices that its launch names itself, or its settings do; pools included.
        is_pinned: Its launch names its GPUs itself: the router chooses none for it.
        least_host_mib: Of host memory, with the least context that llama.cpp's fitting would
            choose; None if it is not fitted.
        least_gpu_mib: The same of GPUs, with all layers there.
        uncounted_mib: The part of *host_mib* that the fitting does not count.
    """

    source: Source
    host_mib: int = 0
    gpu_mib: int = 0
    per_gpu_mib: int = 0
    fixed_mib: Mapping[DeviceId, int] = attrs.field(factory=dict[DeviceId, int])
    is_pinned: bool = False
    least_host_mib: int | None = None
    least_gpu_mib: int | None = None
    uncounted_mib: int = 0

    @property
    def is_known(self) -> bool:
        """True if there is a figure."""
        return self.source is not Source.UNKNOWN

    @property
    def shrinks(self) -> bool:
        """True if llama.cpp reduces its context and its layers on GPUs until it fits."""
        return self.least_gpu_mib is not None


UNKNOWN = Footprint(source=Source.UNKNOWN)
"""The footprint of a backend about which nothing is known: it runs alone, and is measured."""
