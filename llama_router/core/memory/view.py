"""The state of all devices at one moment, as placement sees it, with footprints. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from ..config.names import ModelId
from ..config.specs import ModelSpec
from .devices import Device, DeviceId
from .footprint import Footprint

Claims = Mapping[DeviceId, int]
"""What a model takes of each device, in MiB; of a pool, in units."""


@attrs.frozen(kw_only=True)
class DeviceState:
    """A device and what it is used for, apart from the claims of models.

    Attributes:
        device: The device.
        others_mib: What other programs hold beyond the reserve.
        freeing_mib: What an ended backend held and the driver has not freed yet.
        programs: What the larger ones of the other programs hold, by their names, largest first.
            Only of devices whose driver tells.
    """

    device: Device
    others_mib: int = 0
    freeing_mib: int = 0
    programs: Mapping[str, int] = attrs.field(factory=dict[str, int])

    @property
    def available_mib(self) -> int:
        """What models may take together now."""
        return max(0, self.device.budget_mib - self.others_mib - self.freeing_mib)

    @property
    def soon_mib(self) -> int:
        """The same when everything is freed that is being freed."""
        return max(0, self.device.budget_mib - self.others_mib)


@attrs.frozen(kw_only=True, eq=False)
class MemoryView:
    """Memory at one moment.

    Attributes:
        devices: The devices that are used, by name.
        footprints: What each model would take; a model that is missing was not looked up yet,
            and cannot be placed.
        measured: What each running backend was seen to take at most since its start. Only of
            devices where it could be told.
        load_s: How long the last load of each model took, in seconds.
        at_s: Clock time at which the devices were read, in seconds; infinite if they need not be
            read again.
        memo: For policies: what they found out about it, and may need again.
    """

    devices: Mapping[DeviceId, DeviceState] = attrs.field(factory=dict[DeviceId, DeviceState])
    footprints: Mapping[ModelId, Footprint] = attrs.field(factory=dict[ModelId, Footprint])
    measured: Mapping[ModelId, Claims] = attrs.field(factory=dict[ModelId, Claims])
    load_s: Mapping[ModelId, float] = attrs.field(factory=dict[ModelId, float])
    at_s: float = math.inf
    memo: dict[object, Any] = attrs.field(
        factory=dict[object, Any], init=False, eq=False, repr=False
    )

    def runs_alone(self, spec: ModelSpec) -> bool:
        """Return whether no other model may run beside it: by its settings, or to measure it."""
        footprint = self.footprints.get(spec.id)  # a reload may have changed it meanwhile
        return spec.exclusive or (footprint is not None and not footprint.is_known)


NOTHING_KNOWN = MemoryView()
"""The view before the first reading."""
