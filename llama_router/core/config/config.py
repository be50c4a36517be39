"""`Config`: the value of a complete ``router.toml``, and the lookup of model names in it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

import attrs

from .file_needs import FileFault
from .names import ModelId, Names, ResolvedModel
from .service import Service
from .specs import ApiKey, DeviceSpec, ModelSpec, RouterSpec, SchedulerSpec

#: Longest name in which presets are searched; no name on any hub comes near it.
_MAX_NAME_CHARACTERS: Final = 1024


def _frozen_models(models: Mapping[ModelId, ModelSpec]) -> Mapping[ModelId, ModelSpec]:
    return MappingProxyType(dict(models))


@attrs.frozen(kw_only=True)
class Config:
    """A complete ``router.toml``, checked. *models* keeps the order of the file.

    Attributes:
        file_faults: Models that could not be started when it was read, each with the faulty
            file.
        file_versions: Versions of the files that models need, by model and path: another one
            after a file was replaced or written. Files that could not be seen are not in it.
        imports: The services whose lists of models are used, by the name of their table.
        in_use: Found models with files that it uses or names, so that they are not deleted.
    """

    router: RouterSpec = attrs.field(factory=RouterSpec)
    scheduler: SchedulerSpec = attrs.field(factory=SchedulerSpec)
    devices: Mapping[str, DeviceSpec] = attrs.field(factory=dict[str, DeviceSpec])
    api_keys: Mapping[str, ApiKey] = attrs.field(factory=dict[str, ApiKey])
    models: Mapping[ModelId, ModelSpec] = attrs.field(
        factory=dict[ModelId, ModelSpec], converter=_frozen_models
    )
    file_faults: Mapping[ModelId, FileFault] = attrs.field(
        factory=dict[ModelId, FileFault], eq=False, repr=False
    )
    file_versions: Mapping[ModelId, Mapping[str, str]] = attrs.field(
        factory=dict[ModelId, Mapping[str, str]], eq=False, repr=False
    )
    imports: Mapping[str, Service] = attrs.field(factory=dict[str, Service], eq=False, repr=False)
    in_use: frozenset[ModelId] = attrs.field(default=frozenset(), eq=False, repr=False)
    _names: Names = attrs.field(init=False, eq=False, repr=False)
    _local: Config | None = attrs.field(init=False, eq=False, repr=False)

    @_names.default
    def _index_names(self) -> Names:
        return Names(named for spec in self.models.values() for named in spec.resolved_names())

    @_local.default
    def _without_services(self) -> Config | None:
        local = {model: spec for model, spec in self.models.items() if spec.url is None}
        return None if len(local) == len(self.models) else attrs.evolve(self, models=local)

    @property
    def local(self) -> Config:
        """Return it without the models that services serve: those that may run here."""
        return self if self._local is None else self._local

    @property
    def touched(self) -> frozenset[str]:
        """Return the request fields that the overrides of some model read or change."""
        return self._names.touched

    def lookup(self, name: str) -> ResolvedModel | None:
        """Return the model and the preset of *name*: an id or alias, with or without a preset.

        In constant time. Names of the hub are case-insensitive; see `Names`.
        """
        return self._names.lookup_exact(name) or self._names.lookup(name)

    def resolve_request(self, name: str) -> ResolvedModel | None:
        """Return the model for a request with *name*: for an unknown one, perhaps the default."""
        resolved = self._names.lookup_exact(name) or self._names.lookup(name)
        if resolved is None and self.router.default_for_unknown:
            default = self.router.default_model
            return None if default is None else self._names.lookup(default)
        return resolved

    def resolve(self, name: str) -> ModelId | None:
        """Return the id of the model that `lookup` returns."""
        resolved = self.lookup(name)
        return None if resolved is None else resolved.model

    def model_for_preset(self, name: str, models: Collection[ModelId]) -> ModelId | None:
        """Return the one of *models* that has presets and a name that *name* begins with.

        The longest such name wins. None if there is none. For the error about an unknown preset.
        """
        # Each step copies the rest of the name, which may have come from an address.
        if len(name) > _MAX_NAME_CHARACTERS:
            return None
        while (colon := name.rfind(":")) >= 0:
            name = name[:colon]
            resolved = self.lookup(name)
            if resolved is None or resolved.preset is not None or resolved.model not in models:
                continue
            if self.models[resolved.model].presets:
                return resolved.model
        return None
