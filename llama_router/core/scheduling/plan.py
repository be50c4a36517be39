"""Plan: what would fit with what, and what would leave, answered by the placement policy. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import attrs

from ..config.config import Config
from ..config.names import ModelId
from ..memory.footprint import Footprint
from ..memory.view import Claims, MemoryView
from .lifecycle import Phase
from .memory_placement import MemoryPlacement
from .placement import Obstacle, Occupancy, Resident


@attrs.frozen(kw_only=True)
class Step:
    """The start of one model.

    Attributes:
        model: The model.
        footprint: What it takes; None if that is not known yet.
        claims: What it would take of each device; empty if it cannot start.
        evicted: Models that would leave for it.
        reason: Why it cannot start, as a sentence; empty if it can.
        is_too_large: It fits nowhere, whatever leaves.
    """

    model: ModelId
    footprint: Footprint | None
    claims: Claims
    evicted: tuple[ModelId, ...] = ()
    reason: str = ""
    is_too_large: bool = False


def steps_for(
    config: Config,
    memory: MemoryView,
    residents: Iterable[Resident],
    models: Sequence[ModelId],
) -> list[Step]:
    """Return what would happen if *models* were loaded one after the other, all others idle.

    Args:
        config: The configuration.
        memory: The devices, and what models take.
        residents: What is loaded before.
        models: Some of the models of the configuration.
    """
    policy = attrs.evolve(MemoryPlacement.of(config), min_residency_s=0.0)
    there = {each.model: each for each in residents}
    steps = []
    for model in models:
        step = _step(config, memory, policy, there, model)
        for gone in step.evicted:
            del there[gone]
        if not step.reason:
            there[model] = Resident(
                spec=config.models[model], phase=Phase.READY, claims=step.claims
            )
        steps.append(step)
    return steps


def _step(
    config: Config,
    memory: MemoryView,
    policy: MemoryPlacement,
    there: dict[ModelId, Resident],
    model: ModelId,
) -> Step:
    spec = config.models[model]
    footprint = memory.footprints.get(model)
    if model in there:
        return Step(model=model, footprint=footprint, claims=there[model].claims)
    staying = dict(there)
    evicted: list[ModelId] = []
    while True:
        residents = tuple(staying.values())
        occupancy = Occupancy(residents=residents, waiters=(), now_s=0.0, memory=memory)
        verdict = policy.may_start(spec, occupancy)
        if verdict.allowed:
            return Step(
                model=model, footprint=footprint, claims=verdict.claims, evicted=tuple(evicted)
            )
        if not verdict.blockers:
            return Step(
                model=model,
                footprint=footprint,
                claims={},
                reason=verdict.reason,
                is_too_large=verdict.obstacle is Obstacle.TOO_LARGE,
            )
        evicted += verdict.blockers
        for gone in verdict.blockers:
            del staying[gone]
