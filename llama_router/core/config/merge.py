"""``router.toml`` over the models that a scan found: field by field. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from ...errors.config import ConfigError, Problem
from . import placeholders
from .config import Config
from .kinds import Table
from .parse import parse_config
from .specs import DEFAULT_SPAWN

#: The program that understands what a scan says a model needs.
LLAMA_SERVER: Final = "llama-server"

#: For the files of models that are not there.
_STAND_IN: Final = "not found"


@attrs.frozen(kw_only=True)
class Found:
    """The models in the machine-written file.

    Attributes:
        models: The table of each, as it would be in ``router.toml``.
        files: What identifies the file of each; two models with one file are the same.
        startup_model: The one to load where ``router.toml`` names none.
    """

    models: Mapping[str, Table] = attrs.field(factory=dict[str, Table])
    files: Mapping[str, object] = attrs.field(factory=dict[str, object])
    startup_model: str | None = None


@attrs.frozen
class Overlaid:
    """A document with everything in it, and what was decided on the way.

    Attributes:
        document: For `parse_config`.
        found_only: The models of which ``router.toml`` says nothing.
        doubts: For the user, each with its place in ``router.toml``.
        left_out: Tables of ``router.toml`` that are not in the document, because there are no
            such models (now). Mistakes in them are mistakes all the same.
    """

    document: dict[str, Any]
    found_only: frozenset[str]
    doubts: tuple[Problem, ...]
    left_out: Mapping[str, Table] = attrs.field(factory=dict[str, Table])

    def with_left_out(self) -> dict[str, Any]:
        """Return the document with the tables that were left out, as if a scan had found them."""
        stand_ins = {
            name: {"path": _STAND_IN, "mmproj": _STAND_IN, **table}
            for name, table in self.left_out.items()
        }
        return {**self.document, "models": {**self.document.get("models", {}), **stand_ins}}


def parse_over(
    document: Mapping[str, Any],
    found: Found,
    *,
    file_of: Mapping[str, object],
    running: bool,
) -> tuple[Config, tuple[Problem, ...]]:
    """Parse *document* over the models of *found*; those of them that do not fit are left out.

    Arguments are those of `overlay`.

    Returns:
        The configuration, and what is to be said about it.

    Raises:
        ConfigError: with what is wrong in *document*, and the rest as warnings.
    """
    left_out: list[Problem] = []
    while True:
        overlaid = overlay(document, found, file_of=file_of, running=running)
        try:
            return _parse_whole(overlaid), (*left_out, *overlaid.doubts)
        except ConfigError as exc:
            unfit = {
                str(problem.path[1]): problem
                for problem in exc.problems
                if len(problem.path) > 1 and problem.path[1] in overlaid.found_only
            }
            if not unfit:
                exc.warnings = (*left_out, *overlaid.doubts)
                raise
        left_out += (Problem((), f"{p.location}: {p.message}") for p in unfit.values())
        models = {name: table for name, table in found.models.items() if name not in unfit}
        found = attrs.evolve(found, models=models)


def _parse_whole(overlaid: Overlaid) -> Config:
    """Parse a document; say what is wrong in the models that were left out of it, too.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems: list[Problem] = []
    config: Config | None = None
    if overlaid.left_out:
        try:
            parse_config(overlaid.with_left_out())
        except ConfigError as exc:
            problems += exc.problems
    try:
        config = parse_config(overlaid.document)
    except ConfigError as exc:
        said = {(problem.path, problem.message) for problem in problems}
        problems += (p for p in exc.problems if (p.path, p.message) not in said)
    if config is None or problems:
        raise ConfigError(tuple(problems))
    return config


def overlay(
    document: Mapping[str, Any],
    found: Found,
    *,
    file_of: Mapping[str, object],
    running: bool,
) -> Overlaid:
    """Lay *document*, a parsed ``router.toml``, over the models of *found*.

    A field that the user wrote counts; every other one is as found. Models that the user
    has under another name are not there twice. Settings for a model that is not there (any
    more) are left out, with a warning.

    Args:
        document: Not changed. What is malformed in it is left for `parse_config`.
        found: What the scans found.
        file_of: As ``found.files``, for the models of *document* that have a path.
        running: The router runs already, so that a startup model that is gone does not
            matter.
    """
    written = document.get("models", {})
    if not isinstance(written, Mapping):
        return Overlaid(dict(document), frozenset(), ())
    merger = _Merger(document, found, file_of)
    models = dict(merger.models(written))
    merged: dict[str, Any] = {**document}
    if models or "models" in document:
        merged["models"] = models
    router = merged.get("router", {})
    if isinstance(router, Mapping):
        merged["router"] = merger.router(router, merger.names(models), running=running)
    found_only = frozenset(models.keys() - written.keys())
    return Overlaid(merged, found_only, tuple(merger.doubts), merger.left_out)


class _Merger:
    def __init__(
        self, document: Mapping[str, Any], found: Found, file_of: Mapping[str, object]
    ) -> None:
        self._document = document
        self._found = found
        self._file_of = file_of
        self.doubts: list[Problem] = []
        self.left_out: dict[str, Table] = {}

    def models(self, written: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield every model: the user's in their order, then those that were only found."""
        claimed = self.names(written)
        theirs = set(self._file_of.values())
        for model, table in written.items():
            if not isinstance(table, Mapping):
                yield model, table
            elif model in self._found.models and self._is_same(model):
                yield model, self._merge(model, table, claimed)
            elif "path" not in table and "path" in self._placeholders(table):
                self._leave_out(model, table)
            else:
                yield model, table
        for model in self._found.models:
            if model in claimed or self._found.files.get(model) in theirs:
                continue  # the user has given the name, or the file, another meaning
            yield model, self._merge(model, {}, claimed)

    @staticmethod
    def names(models: Mapping[str, Any]) -> set[str]:
        """Return every id and alias, also with presets."""
        names = set(models)
        for model, table in models.items():
            if not isinstance(table, Mapping):
                continue
            plain = (model, *_strings(table.get("aliases")))
            names.update(plain)
            if isinstance(presets := table.get("presets"), Mapping):
                names.update(f"{name}:{preset}" for name in plain for preset in presets)
        return names

    def router(self, router: Table, names: set[str], *, running: bool) -> Table:
        """Return ``[router]`` without models that are not there, as far as that may be.

        A router that starts must load its startup model, and says so if it cannot.
        """
        result = dict(router)
        replaceable = ("home_model", "default_model")
        for key in (*replaceable, "startup_model") if running else replaceable:
            model = router.get(key)
            if isinstance(model, str) and model not in names:
                del result[key]
                message = f"no model has the name {model!r} at the moment: it is ignored"
                self.doubts.append(Problem(("router", key), message))
                if key == "default_model":
                    result.pop("default_for_unknown", None)
        if "startup_model" not in router and self._found.startup_model in names:
            result["startup_model"] = self._found.startup_model
        return result

    def _is_same(self, model: str) -> bool:
        """Say whether the user's table means the found file, not another one of that name."""
        own = self._file_of.get(model)
        return own is None or own == self._found.files.get(model)

    def _merge(self, model: str, table: Table, claimed: set[str]) -> Table:
        merged = {**self._found.models[model], **table}
        if "aliases" not in table:
            merged["aliases"] = [a for a in _strings(merged.get("aliases")) if a not in claimed]
        program = self._words(table)[0] if self._words(table) else ""
        if "found_args" not in table and program.rpartition("/")[2] != LLAMA_SERVER:
            merged.pop("found_args", None)  # another program has other arguments
        return merged

    def _leave_out(self, model: str, table: Table) -> None:
        self.left_out[model] = table
        near = difflib.get_close_matches(model, list(self._found.models), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        message = f"no scan finds a model of this name, and it has no 'path': left out{hint}"
        self.doubts.append(Problem(("models", model), message))

    def _placeholders(self, table: Table) -> set[str]:
        used: set[str] = set()
        for word in self._words(table):
            try:
                used |= placeholders.names_in(word)
            except ValueError:
                continue  # parse_config says it
        return used

    def _words(self, table: Table) -> list[str]:
        """Return the command line of a model, as far as it is well formed."""
        templates = self._document.get("templates")
        name = table.get("template") if isinstance(table.get("template"), str) else None
        places = (
            table.get("spawn"),
            templates.get(name) if isinstance(templates, Mapping) and name is not None else None,
            self._document.get("default_spawn"),
        )
        spawns = [place for place in places if isinstance(place, Mapping)]
        command = next((s["command"] for s in spawns if "command" in s), DEFAULT_SPAWN.command)
        args = next((s["args"] for s in spawns if "args" in s), ())
        return [*_strings(command), *_strings(args), *_strings(table.get("args"))]


def _strings(value: object) -> list[str]:
    if not isinstance(value, list | tuple):
        return []
    return [item for item in value if isinstance(item, str)]
