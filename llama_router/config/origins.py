"""Origins of the settings in force: lines of the file, templates, scans, defaults. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

import attrs

from ..core.config.tables import MODEL_IN_TEMPLATE
from ..errors.config import Where

#: Settings of a model that it has from ``[router]`` unless it has its own.
_FROM_ROUTER: Final = frozenset(("max_queued", "ttl_s", "notify_model_swap", "autoload"))

#: Settings that options of ``serve`` may replace.
_OPTIONS: Final = frozenset(("host", "port"))

#: Fields of a model that are no settings.
_NO_SETTINGS: Final = frozenset(("id", "state", "spawn"))


class Source(StrEnum):
    """Where the value of a setting comes from."""

    FILE = "file"  # the model's own table, or the table that is asked about
    TEMPLATE = "template"
    DEFAULT_SPAWN = "default_spawn"
    ROUTER = "router"  # [router], for a model
    FOUND = "found"  # by a scan
    LEARNED = "learned"  # from earlier loads
    COMMAND_LINE = "command_line"  # options of `serve`
    DEFAULT = "default"


@attrs.frozen(kw_only=True)
class Origin:
    """A setting in force.

    Attributes:
        key: Its key, as in the file; dots lead into tables.
        value: Its value, without secrets.
        source: Where that comes from.
        name: The template, if it is from one.
        line: The line in the file, if it is from there.
    """

    key: str
    value: Any
    source: Source
    name: str | None = None
    line: int | None = None


@attrs.frozen
class _Place:
    path: Where
    source: Source
    name: str | None = None


class OriginFinder:
    """Finds the origins of settings.

    Args:
        document: The parsed file.
        lines: The line of each of its keys.
    """

    def __init__(self, document: Mapping[str, Any], lines: Mapping[Where, int]) -> None:
        self._document = document
        self._lines = lines

    def of_table(
        self, table: str, values: Mapping[str, Any], defaults: Mapping[str, Any]
    ) -> Iterator[Origin]:
        """Yield the origins of a table at the top of the file.

        Args:
            table: Its name.
            values: Its settings in force.
            defaults: Those of an empty table.
        """
        for key, value in values.items():
            written = self._written((table, key))
            source = Source.DEFAULT if written is _NOTHING else Source.FILE
            expected = defaults.get(key) if written is _NOTHING else written
            if (key in _OPTIONS or written is _NOTHING) and value != expected:
                source = Source.COMMAND_LINE
            line = self._lines.get((table, key)) if source is Source.FILE else None
            yield Origin(key=key, value=value, source=source, line=line)

    def of_model(
        self, model: str, values: Mapping[str, Any], found: Mapping[str, Any]
    ) -> Iterator[Origin]:
        """Yield the origins of a model's settings.

        Args:
            model: Its id.
            values: Its settings in force.
            found: What a scan found of it.
        """
        template = values.get("template")
        for key, value in values.items():
            if key in _NO_SETTINGS:
                continue
            places = [_Place(("models", model, key), Source.FILE)]
            if key in MODEL_IN_TEMPLATE and template is not None:
                places.append(_Place(("templates", template, key), Source.TEMPLATE, template))
            if key in _FROM_ROUTER:
                places.append(_Place(("router", key), Source.ROUTER))
            yield self._origin(key, value, places, found=key in found)
        for key, value in values["spawn"].items():
            if key == "env":
                for name, text in value.items():
                    places = self._spawn_places(model, template, ("env", name))
                    yield self._origin(f"spawn.env.{name}", text, places)
                continue
            places = self._spawn_places(model, template, (key,))
            if key == "args":
                places.insert(0, _Place(("models", model, "args"), Source.FILE))
            if key == "command" and self._has_program(places):
                places = [_Place(("router", "llama_server"), Source.ROUTER)]
            found_here = key == "args" and bool(found.get("found_args"))
            yield self._origin(f"spawn.{key}", value, places, found=found_here)

    def _has_program(self, places: Iterable[_Place]) -> bool:
        """Return whether ``[router] llama_server`` names the program of the default command."""
        if self._written(("router", "llama_server")) is _NOTHING:
            return False
        return all(self._written(place.path) is _NOTHING for place in places)

    @staticmethod
    def _spawn_places(model: str, template: str | None, keys: Where) -> list[_Place]:
        places = [_Place(("models", model, "spawn", *keys), Source.FILE)]
        if template is not None:
            places.append(_Place(("templates", template, *keys), Source.TEMPLATE, template))
        return [*places, _Place(("default_spawn", *keys), Source.DEFAULT_SPAWN)]

    def _origin(
        self, key: str, value: object, places: Iterable[_Place], *, found: bool = False
    ) -> Origin:
        for place in places:
            if place.source is not Source.FILE and found:
                break  # what was found stands in the model's table
            if self._written(place.path) is not _NOTHING:
                return Origin(
                    key=key,
                    value=value,
                    source=place.source,
                    name=place.name,
                    line=self._lines.get(place.path),
                )
        return Origin(key=key, value=value, source=Source.FOUND if found else Source.DEFAULT)

    def _written(self, path: Where) -> object:
        found: Any = self._document
        for key in path:
            if not isinstance(found, Mapping) or key not in found:
                return _NOTHING
            found = found[key]
        return found


_NOTHING: Final = object()
