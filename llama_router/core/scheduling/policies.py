"""The choice of the placement policy: imports every policy, and no policy imports it. Pure."""

from __future__ import annotations

from ..config.config import Config
from ..config.specs import Policy
from .memory_placement import MemoryPlacement
from .placement import GroupPlacement, Placement


def placement_for(config: Config) -> Placement:
    """Return the placement policy that *config* asks for."""
    match config.scheduler.policy:
        case Policy.GROUPS:
            return GroupPlacement()
        case Policy.MEMORY:
            return MemoryPlacement.of(config)
