"""A whole ``router.toml`` as a value, and what each name means in it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import attrs

from .file_needs import FileFault
from .names import ModelId, Names, ResolvedModel
from .specs import ApiKey, ModelSpec, RouterSpec


def _frozen_models(models: Mapping[ModelId, ModelSpec]) -> Mapping[ModelId, ModelSpec]:
    return MappingProxyType(dict(models))


@attrs.frozen(kw_only=True)
class Config:
    """A whole ``router.toml``, checked. *models* keeps the order of the file.

    Attributes:
        faults: Models that cannot be started, because of a file, when it was read.
        in_use: Found models whose files it uses or names, so that they are not deleted.
    """

    router: RouterSpec = attrs.field(factory=RouterSpec)
    api_keys: Mapping[str, ApiKey] = attrs.field(factory=dict[str, ApiKey])
    models: Mapping[ModelId, ModelSpec] = attrs.field(
        factory=dict[ModelId, ModelSpec], converter=_frozen_models
    )
    faults: Mapping[ModelId, FileFault] = attrs.field(
        factory=dict[ModelId, FileFault], eq=False, repr=False
    )
    in_use: frozenset[ModelId] = attrs.field(default=frozenset(), eq=False, repr=False)
    _names: Names = attrs.field(init=False, eq=False, repr=False)

    @_names.default
    def _index_names(self) -> Names:
        return Names(named for spec in self.models.values() for named in spec.resolved_names())

    @property
    def touched(self) -> frozenset[str]:
        """Names of the fields of requests on which the overrides of some model depend."""
        return self._names.touched

    def find(self, name: str) -> ResolvedModel | None:
        """Return what *name* stands for: an id, an alias, or either with a preset.

        In constant time. Names of the hub are found in any case; see `Names`.
        """
        return self._names.lookup(name) or self._names.find(name)

    def resolve_request(self, name: str) -> ResolvedModel | None:
        """Return what *name* stands for in a request; the default model replaces unknown ones."""
        resolved = self._names.lookup(name) or self._names.find(name)
        if resolved is None and self.router.default_for_unknown:
            default = self.router.default_model
            return None if default is None else self._names.find(default)
        return resolved

    def resolve(self, name: str) -> ModelId | None:
        """Return the model that `find` finds."""
        resolved = self._names.lookup(name) or self._names.find(name)
        return None if resolved is None else resolved.model

    def of_preset(self, name: str, models: Collection[ModelId]) -> ModelId | None:
        """Return which of the *models* has presets *name* could be one of; None if none has.

        If there are several, it is the one that has most of the name in common.
        """
        while (colon := name.rfind(":")) >= 0:
            name = name[:colon]
            resolved = self.find(name)
            if resolved is None or resolved.preset is not None or resolved.model not in models:
                continue
            if self.models[resolved.model].presets:
                return resolved.model
        return None
