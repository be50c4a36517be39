"""What a configuration change means for running backends. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from .specs import OnChange, RouterSpec

if TYPE_CHECKING:
    from .config import Config
    from .names import ModelId
    from .specs import ModelSpec, SpawnSpec


@attrs.frozen(kw_only=True)
class ReloadPlan:
    """The smallest set of actions that turns one `Config` into another.

    No model is in two of the sets, and an unchanged one is in none.

    Attributes:
        add: Models that only the new configuration has.
        remove: Models that only the old configuration has.
        restart: Models whose process must be replaced.
        retune: Models whose process stays and whose new spec applies from now on.
        base: The old configuration.
    """

    add: frozenset[ModelId] = frozenset()
    remove: frozenset[ModelId] = frozenset()
    restart: frozenset[ModelId] = frozenset()
    retune: frozenset[ModelId] = frozenset()
    base: Config | None = attrs.field(default=None, eq=False, repr=False)

    def __bool__(self) -> bool:
        """Return whether there is anything to do for any model."""
        return bool(self.add or self.remove or self.restart or self.retune)


def plan_reload(old: Config, new: Config) -> ReloadPlan:
    """Compare two configurations model by model."""
    kept = old.models.keys() & new.models.keys()
    costs = {
        model: _costs(old.models[model], new.models[model])
        for model in kept
        if old.models[model] is not new.models[model]
    }
    restart = frozenset(model for model, cost in costs.items() if OnChange.RESTART in cost)
    return ReloadPlan(
        add=frozenset(new.models.keys() - kept),
        remove=frozenset(old.models.keys() - kept),
        restart=restart,
        retune=frozenset(model for model, cost in costs.items() if cost) - restart,
        base=old,
    )


def share(old: Config, new: Config) -> Config:
    """Return *new* with the objects of *old* for every model that is the same in both.

    `plan_reload` then passes over them at once: with thousands of models, comparing takes
    longer than the event loop may stand still, but this can be done on another thread.
    """
    models = {
        model: old.models[model] if old.models.get(model) == spec else spec
        for model, spec in new.models.items()
    }
    return attrs.evolve(new, models=models)


def router_fields_to_restart_for(old: RouterSpec, new: RouterSpec) -> tuple[str, ...]:
    """Return the changed ``[router]`` fields that only a restart of the router applies."""
    return tuple(
        field.name
        for field in attrs.fields(RouterSpec)
        if field.metadata["on_change"] is OnChange.RESTART
        and getattr(old, field.name) != getattr(new, field.name)
    )


def _costs(old: ModelSpec | SpawnSpec, new: ModelSpec | SpawnSpec) -> frozenset[OnChange]:
    """Return what the differing fields of two specs of one type cost."""
    costs: set[OnChange] = set()
    for field in attrs.fields(type(old)):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        on_change = field.metadata["on_change"]
        costs |= _costs(before, after) if on_change is OnChange.INSIDE else {on_change}
    return frozenset(costs)
