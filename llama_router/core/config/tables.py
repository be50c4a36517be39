"""The tables of ``router.toml``: the keys that each may have, with their kinds. Pure."""

from __future__ import annotations

from typing import Any, Final, get_type_hints

import attrs

from .kinds import KeySecret, Table, Text, Word
from .names import ModelId
from .specs import ApiKey, DeviceSpec, ModelSpec, Priority, RouterSpec, SchedulerSpec, SpawnSpec

Kinds = dict[str, Any]
"""The kind of each key; see `kinds`."""


def _kinds_of(spec: type[attrs.AttrsInstance], **others: Any) -> Kinds:  # noqa: ANN401 -- any type
    """Return the fields of *spec* as keys, and *others* in addition or instead."""
    kinds = get_type_hints(spec, include_extras=True) | others
    return {key: kind for key, kind in kinds.items() if kind is not ModelId}


ROUTER: Final = _kinds_of(RouterSpec)
SCHEDULER: Final = _kinds_of(SchedulerSpec)
DEVICE: Final = _kinds_of(DeviceSpec)
API_KEY: Final = _kinds_of(ApiKey, key=KeySecret)
SPAWN: Final = _kinds_of(SpawnSpec)
#: What a template may have of a model, beside its spawn settings.
MODEL_IN_TEMPLATE: Final[Kinds] = {"autoload": bool, "priority": Priority}
#: A model, or with ``models`` all models of one service; its ``spawn`` is a table with the keys
#: of `SPAWN`.
MODEL: Final = _kinds_of(
    ModelSpec,
    spawn=Table,
    args=tuple[Word, ...],
    found_args=tuple[Word, ...],
    models=tuple[Text, ...],
)

#: The tables at the top, in the order of the example.
SECTIONS: Final = (
    "router",
    "scheduler",
    "devices",
    "api_keys",
    "default_spawn",
    "templates",
    "models",
)
