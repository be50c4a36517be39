"""The JSON Schema of ``router.toml``, from the kinds of its keys, for editors. Pure.

It accepts every valid file. Rules that name more than one key (a model's template exists, two
aliases differ) are not in it: `parse` has them.

Source of the format: https://json-schema.org/draft/2020-12
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

import attrs

from . import tables
from .kinds import Limit, Notation
from .specs import DEFAULT_SPAWN, RouterSpec, SchedulerSpec

Schema = dict[str, Any]

Texts = Mapping[tuple[str, str], str]
"""What a key means, by section and key."""

_SCALARS: Final = {bool: "boolean", int: "integer", float: "number", str: "string"}

#: Values that stand for a default which the schema can show as it is.
_SHOWN_DEFAULTS: Final = (bool, int, float, str)


def json_schema(texts: Texts) -> Schema:
    """Return the schema of the whole file.

    Args:
        texts: What each key means; a key without a text has no description.
    """
    spawn = _table(tables.SPAWN, "default_spawn", texts, DEFAULT_SPAWN)
    model = _table(tables.MODEL, "models", texts)
    model["properties"]["spawn"] |= {"$ref": "#/$defs/spawn"}
    template = _table(tables.SPAWN | tables.MODEL_IN_TEMPLATE, "templates", texts)
    for key, about in (model["properties"] | spawn["properties"]).items():
        if key in template["properties"] and "description" in about:
            template["properties"][key]["description"] = about["description"]
    api_key = _table(tables.API_KEY, "api_keys", texts)
    api_key["oneOf"] = [{"required": ["key"]}, {"required": ["sha256"]}]
    sections = {
        "router": _table(tables.ROUTER, "router", texts, RouterSpec()),
        "scheduler": _table(tables.SCHEDULER, "scheduler", texts, SchedulerSpec()),
        "devices": _named(_table(tables.DEVICE, "devices", texts)),
        "api_keys": _named(api_key),
        "default_spawn": {"$ref": "#/$defs/spawn"},
        "templates": _named(template),
        "models": _named(model),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "router.toml, the configuration of llama-router",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: sections[name] for name in tables.SECTIONS},
        "$defs": {"spawn": spawn},
    }


def _table(
    kinds: tables.Kinds,
    section: str,
    texts: Texts,
    defaults: attrs.AttrsInstance | None = None,
) -> Schema:
    properties: Schema = {}
    for key, kind in kinds.items():
        about = schema_of(kind)
        if text := texts.get((section, key)):
            about["description"] = text
        default = getattr(defaults, key, None)
        if isinstance(default, _SHOWN_DEFAULTS):
            about["default"] = default
        properties[key] = about
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _named(table: Schema) -> Schema:
    """Return the schema of a section of tables with names."""
    return {"type": "object", "additionalProperties": table}


def schema_of(kind: Any) -> Schema:  # noqa: ANN401 -- any type
    """Return the schema of one kind.

    Raises:
        TypeError: for a type that is not among the kinds.
    """
    if kind is Any or kind in _SCALARS:
        return {"type": _SCALARS[kind]} if kind in _SCALARS else {}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return {"enum": [str(value) for value in kind]}
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _limited(*parts)
    if origin in (Union, UnionType):
        alternatives = [schema_of(part) for part in parts if part is not NoneType]
        return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
    if origin is tuple and parts[1:] == (...,):
        return {"type": "array", "items": schema_of(parts[0])}
    if origin is Mapping:
        keys, values = map(schema_of, parts)
        names = {name: value for name, value in keys.items() if name != "type"}
        named: Schema = {"propertyNames": names} if names else {}
        return {"type": "object", "additionalProperties": values or True, **named}
    raise TypeError(f"{kind!r} has no schema")


def _limited(base: Any, *limits: Limit | Notation) -> Schema:  # noqa: ANN401 -- any type
    """Return the schema of *base* with *limits*; a second limit of one name goes into allOf."""
    schema = schema_of(base)
    for limit in (each for each in limits if isinstance(each, Limit)):
        if schema.keys() & limit.schema.keys():
            schema.setdefault("allOf", []).append(dict(limit.schema))
        else:
            schema |= limit.schema
    texts = [dict(each.schema) for each in limits if isinstance(each, Notation)]
    return {"anyOf": [schema, *texts]} if texts else schema
