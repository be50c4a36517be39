"""A reload: the plan that turns one configuration into another, and its report. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from ...errors.config import Problem
from .specs import OnChange, RouterSpec

if TYPE_CHECKING:
    from .config import Config
    from .names import ModelId
    from .specs import ModelSpec, SpawnSpec


@attrs.frozen(kw_only=True)
class ReloadPlan:
    """The minimal set of actions that turns one `Config` into another.

    No model is in two of the sets; an unchanged model is in none.

    Attributes:
        add: Models that only the new configuration has.
        remove: Models that only the old configuration has.
        restart: Models that need a new process.
        retune: Models with a new spec that keep their process.
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
    """Return the plan that turns *old* into *new*, compared model by model.

    A model with a file that was replaced needs a new process.
    """
    kept = old.models.keys() & new.models.keys()
    costs = {
        model: _costs(old.models[model], new.models[model])
        for model in kept
        if old.models[model] is not new.models[model]
    }
    restart = frozenset(model for model, cost in costs.items() if OnChange.RESTART in cost)
    restart |= {model for model in kept if _has_other_file(model, old, new)}
    return ReloadPlan(
        add=frozenset(new.models.keys() - kept),
        remove=frozenset(old.models.keys() - kept),
        restart=restart,
        retune=frozenset(model for model, cost in costs.items() if cost) - restart,
        base=old,
    )


def local_plan(plan: ReloadPlan, old: Config, new: Config) -> ReloadPlan:
    """Return the part of *plan* that turns ``old.local`` into ``new.local``.

    A model that a service serves from now on is removed there, and the other way round.
    """
    changed = plan.add | plan.remove | plan.restart | plan.retune
    before = {model for model in changed if _is_local(model, old)}
    after = {model for model in changed if _is_local(model, new)}
    kept = before & after
    return ReloadPlan(
        add=frozenset(after - before),
        remove=frozenset(before - after),
        restart=plan.restart & kept,
        retune=plan.retune & kept,
        base=old.local,
    )


def _is_local(model: ModelId, config: Config) -> bool:
    return model in config.models and config.models[model].url is None


def reuse_unchanged(old: Config, new: Config) -> Config:
    """Return *new* with the objects of *old* for every model that is equal in both.

    Files that cannot be seen now keep their versions in *old*, for the next comparison.

    `plan_reload` then skips them by identity. Comparing thousands of models takes longer than
    the event loop may be blocked; this function can run on another thread.
    """
    models = {
        model: old.models[model] if old.models.get(model) == spec else spec
        for model, spec in new.models.items()
    }
    versions = {
        model: {**old.file_versions.get(model, {}), **new.file_versions.get(model, {})}
        for model in models
    }
    return attrs.evolve(new, models=models, file_versions=versions)


def _has_other_file(model: ModelId, old: Config, new: Config) -> bool:
    before, after = old.file_versions.get(model), new.file_versions.get(model)
    if not before or not after or before == after:
        return False
    return any(before.get(path, version) != version for path, version in after.items())


def router_fields_to_restart_for(old: RouterSpec, new: RouterSpec) -> tuple[str, ...]:
    """Return the changed ``[router]`` fields that only a restart of the router applies."""
    return tuple(
        field.name
        for field in attrs.fields(RouterSpec)
        if field.metadata["on_change"] is OnChange.RESTART
        and getattr(old, field.name) != getattr(new, field.name)
    )


def _costs(old: ModelSpec | SpawnSpec, new: ModelSpec | SpawnSpec) -> frozenset[OnChange]:
    """Return the costs (`OnChange`) of the fields that differ between two specs of one type."""
    costs: set[OnChange] = set()
    for field in attrs.fields(type(old)):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        on_change = field.metadata["on_change"]
        costs |= _costs(before, after) if on_change is OnChange.INSIDE else {on_change}
    return frozenset(costs)


class ReloadOutcome(StrEnum):
    """The outcome of reading the file."""

    STARTED = "started"  # not read again since the start
    APPLIED = "applied"
    REJECTED = "rejected"


@attrs.frozen(kw_only=True)
class ReloadReport:
    """The result of the latest reload, or of the start.

    Attributes:
        outcome: Its outcome.
        at_s: Its time, in seconds since the epoch.
        problems: All errors in the file, if it was rejected.
        warnings: Probable mistakes that do not prevent the use of the file.
        added: New models.
        removed: Models that the file no longer has.
        restarted: Models that get a new process, once the old one has answered its requests,
            unless it is evicted for another model before.
        retuned: Models with new settings that keep their process, if they have one.
        needs_router_restart: Changed settings that only a restart of the router applies.
    """

    outcome: ReloadOutcome
    at_s: float
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    retuned: tuple[str, ...] = ()
    needs_router_restart: tuple[str, ...] = ()

    @property
    def changes_models(self) -> bool:
        """True if a model was added, removed or changed."""
        return bool(self.added or self.removed or self.restarted or self.retuned)
