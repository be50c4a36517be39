"""A model with what makes its backend use the GPUs that were chosen for it. Pure."""

from __future__ import annotations

import attrs

from ..config.specs import ModelSpec
from .visibility import DeviceChoice


@attrs.frozen(kw_only=True)
class PlacedModel(ModelSpec):
    """The settings of one start.

    Attributes:
        settings: Those of the configuration. What is learned from the start is about them: it
            counts on other GPUs, too.
    """

    settings: ModelSpec


def placed(spec: ModelSpec, choice: DeviceChoice) -> PlacedModel:
    """Return the settings of a start with the variables and arguments of *choice*."""
    fields = {field.name: getattr(spec, field.name) for field in attrs.fields(ModelSpec)}
    spawn = attrs.evolve(
        spec.spawn,
        env={**spec.spawn.env, **choice.env},
        args=(*spec.spawn.args, *choice.argv),
    )
    return PlacedModel(**{**fields, "spawn": spawn}, settings=spec)


def settings_of(spec: ModelSpec) -> ModelSpec:
    """Return the settings of the configuration that a start was made from."""
    return spec.settings if isinstance(spec, PlacedModel) else spec
