"""Devices, footprints and plans, as the admin API answers them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ...core.config.config import Config
from ...core.config.names import ModelId
from ...core.memory.footprint import Footprint
from ...core.memory.view import Claims, MemoryView
from ...core.scheduling.placement import Resident
from ...core.scheduling.plan import Step, steps_for
from . import model_schemas


def describe_devices(view: MemoryView, claims: Iterable[Claims]) -> list[model_schemas.Device]:
    """Return the devices of *view*.

    Args:
        view: What is known of them.
        claims: What each loaded model takes.
    """
    claimed: Counter[str] = Counter()
    for each in claims:
        claimed.update(each)
    return [
        model_schemas.Device(
            name=name,
            kind=state.device.kind.value,
            description=state.device.name,
            capacity_mib=state.device.capacity_mib,
            reserve_mib=state.device.reserve_mib,
            budget_mib=state.device.budget_mib,
            others_mib=state.others_mib,
            freeing_mib=state.freeing_mib,
            claimed_mib=claimed[name],
            free_mib=max(0, state.available_mib - claimed[name]),
            programs=dict(state.programs),
        )
        for name, state in view.devices.items()
    ]


def describe_footprint(found: Footprint | None) -> model_schemas.Footprint | None:
    """Return a footprint; None if it is not known yet."""
    if found is None:
        return None
    return model_schemas.Footprint(
        source=found.source.value,
        host_mib=found.host_mib,
        gpu_mib=found.gpu_mib,
        fixed_mib=describe_claims(found.fixed_mib),
    )


def describe_claims(claims: Claims) -> dict[str, int]:
    """Return what a model takes, by device."""
    return {str(name): mib for name, mib in claims.items()}


def describe_plan(
    config: Config,
    view: MemoryView,
    faults: Sequence[str],
    residents: Mapping[ModelId, Resident],
    models: Sequence[ModelId],
) -> model_schemas.Plan:
    """Return what would happen if *models* were loaded one after the other.

    Without any, what would happen for each model of the configuration alone.

    Args:
        config: The configuration in force.
        view: What is known of devices and models.
        faults: A sentence for each driver that cannot be read.
        residents: What is loaded.
        models: The models to be loaded.
    """
    local = config.local
    if models:
        here = [model for model in models if model in local.models]
        steps = steps_for(local, view, residents.values(), here)
    else:
        steps = [
            step
            for model in local.models
            for step in steps_for(local, view, residents.values(), [model])
        ]
    steps += [
        Step(model=model, footprint=None, claims={}, reason=f"a service serves it: {spec.url}")
        for model, spec in config.models.items()
        if spec.url is not None and (not models or model in models)
    ]
    return model_schemas.Plan(
        policy=config.scheduler.policy.value,
        devices=describe_devices(view, (each.claims for each in residents.values())),
        device_faults=list(faults),
        loaded=[str(model) for model in residents],
        models=[
            model_schemas.PlannedModel(
                id=str(step.model),
                footprint=describe_footprint(step.footprint),
                claims=describe_claims(step.claims),
                evicted=[str(model) for model in step.evicted],
                reason=step.reason,
            )
            for step in steps
        ],
    )
