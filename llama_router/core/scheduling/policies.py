"""The choice of the placement policy: imports every policy, and no policy imports it. Pure."""

from __future__ import annotations

from ..config.config import Config
from .placement import GroupPlacement, Placement


def placement_for(config: Config) -> Placement:  # noqa: ARG001 -- a policy with settings reads them
    """Return the placement policy that *config* asks for."""
    return GroupPlacement()
