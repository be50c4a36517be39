"""Merges ``router.toml`` with the models that a scan found, field by field. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from ..core.config import placeholders
from ..core.config.config import Config
from ..core.config.kinds import Table, as_table, is_llama_server
from ..core.config.parse import parse_config
from ..core.config.service import is_pattern, matching_names
from ..core.config.specs import DEFAULT_SPAWN
from ..errors.config import ConfigError, Problem

#: Stands for the files of a model that no scan found, see `MergedDocument.left_out`.
_PLACEHOLDER_FILE: Final = "not found"

#: Most names of models in one warning.
_MAX_NAMES: Final = 5


@attrs.frozen(kw_only=True)
class FoundModels:
    """The models of the machine-written file.

    Attributes:
        models: Table by id, with the keys of ``router.toml``.
        files: Identity of the file by id; two models with one file are the same model.
        startup_model: The model to load if ``router.toml`` names none.
        safetensors: Those that are folders of safetensors: they need a template.
        services: The models that services listed, by URL.
    """

    models: Mapping[str, Table] = attrs.field(factory=dict[str, Table])
    files: Mapping[str, object] = attrs.field(factory=dict[str, object])
    startup_model: str | None = None
    safetensors: frozenset[str] = frozenset()
    services: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict[str, tuple[str, ...]])


@attrs.frozen
class MergedDocument:
    """``router.toml`` with the found models in it.

    Attributes:
        document: The input of `parse_config`.
        found_only: The models that ``router.toml`` does not mention.
        warnings: For the user, each with its place in ``router.toml``.
        left_out: Tables of ``router.toml`` without a model at the moment, which are not in
            *document*. Mistakes in them are reported all the same.
    """

    document: dict[str, Any]
    found_only: frozenset[str]
    warnings: tuple[Problem, ...]
    left_out: Mapping[str, Table] = attrs.field(factory=dict[str, Table])

    def with_left_out(self) -> dict[str, Any]:
        """Return the document with the tables that were left out, as if a scan had found them."""
        completed = {
            name: {"path": _PLACEHOLDER_FILE, "mmproj": _PLACEHOLDER_FILE, **table}
            for name, table in self.left_out.items()
        }
        return {**self.document, "models": {**self.document.get("models", {}), **completed}}


def parse_merged(
    document: Mapping[str, Any],
    found: FoundModels,
    *,
    file_of: Mapping[str, object],
    running: bool,
) -> tuple[Config, tuple[Problem, ...]]:
    """Return the configuration of *document* merged with *found*, and warnings.

    Found models with an invalid table are left out, with a warning.

    Arguments are those of `merge`.

    Raises:
        ConfigError: with all problems of *document*, and the warnings.
    """
    left_out: list[Problem] = []
    while True:
        merged = merge(document, found, file_of=file_of, running=running)
        try:
            return _parse_all(merged), (*left_out, *merged.warnings)
        except ConfigError as exc:
            invalid = {
                str(problem.path[1]): problem
                for problem in exc.problems
                if len(problem.path) > 1 and problem.path[1] in merged.found_only
            }
            if not invalid:
                # What a scan would find is not known while the file has mistakes: the folders of
                # models_dirs may not be known either.
                absent = {("models", name) for name in merged.left_out}
                exc.warnings = (
                    *left_out,
                    *(warning for warning in merged.warnings if warning.path not in absent),
                )
                raise
        left_out += (Problem((), f"{p.location}: {p.message}") for p in invalid.values())
        models = {name: table for name, table in found.models.items() if name not in invalid}
        found = attrs.evolve(found, models=models)


def _parse_all(merged: MergedDocument) -> Config:
    """Return the configuration of a document; the tables that were left out are checked, too.

    Raises:
        ConfigError: with all problems.
    """
    problems: list[Problem] = []
    config: Config | None = None
    if merged.left_out:
        try:
            parse_config(merged.with_left_out())
        except ConfigError as exc:
            problems += exc.problems
    try:
        config = parse_config(merged.document)
    except ConfigError as exc:
        reported = {(problem.path, problem.message) for problem in problems}
        problems += (p for p in exc.problems if (p.path, p.message) not in reported)
    if config is None or problems:
        raise ConfigError(tuple(problems))
    return config


def merge(
    document: Mapping[str, Any],
    found: FoundModels,
    *,
    file_of: Mapping[str, object],
    running: bool,
) -> MergedDocument:
    """Return *document*, a parsed ``router.toml``, merged with the models of *found*.

    A field of *document* overrides the found one. A found model with a file that
    *document* uses under another name is not added. Settings for a model that no scan finds are
    left out, with a warning.

    Args:
        document: Not changed. Malformed parts are left for `parse_config`.
        found: The models of all scans and imports.
        file_of: Like ``found.files``, for the models of *document* that have a path.
        running: The router runs already: a missing startup model is a warning then, no error.
    """
    written = document.get("models", {})
    if not isinstance(written, Mapping):
        return MergedDocument(dict(document), frozenset(), ())
    merger = _Merger(document, _with_template(document, found), file_of)
    models = dict(merger.models(written))
    result: dict[str, Any] = {**document}
    if models or "models" in document:
        result["models"] = models
    router = result.get("router", {})
    if isinstance(router, Mapping):
        result["router"] = merger.router(router, merger.names(models), running=running)
    found_only = frozenset(models.keys() - written.keys())
    return MergedDocument(result, found_only, tuple(merger.warnings), merger.left_out)


def _with_template(document: Mapping[str, Any], found: FoundModels) -> FoundModels:
    """Return *found* with the template of ``[router]`` for folders of safetensors.

    Without one they are left out: llama.cpp does not serve them.
    """
    if not found.safetensors:
        return found
    template = as_table(document.get("router")).get("safetensors_template")
    models: dict[str, Table] = {}
    for model, table in found.models.items():
        if model not in found.safetensors:
            models[model] = table
        elif isinstance(template, str):
            models[model] = {**table, "template": template}
    return attrs.evolve(found, models=models)


class _Merger:
    """Merges the models and ``[router]`` of one document."""

    def __init__(
        self, document: Mapping[str, Any], found: FoundModels, file_of: Mapping[str, object]
    ) -> None:
        self._document = document
        self._found = found
        self._file_of = file_of
        self.warnings: list[Problem] = []
        self.left_out: dict[str, Table] = {}
        self._out_of_reach: list[str] = []

    def models(self, written: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield every model: those of the document in their order, then the other found ones."""
        claimed = self.names(written)
        used_files = set(self._file_of.values())
        for model, table in written.items():
            if not isinstance(table, Mapping) or "url" in table:
                yield model, self._with_listed(model, table, written)
            elif model in self._found.models and self._is_same(model):
                whole = self._with_found_spawn(model, table)
                if self._is_out_of_reach(whole):
                    self.left_out[model] = table
                    self._out_of_reach.append(model)
                else:
                    yield model, self._merge(model, whole, claimed)
            elif "path" not in table and "path" in self._placeholders(table):
                self._leave_out(model, table)
            else:
                yield model, table
        for model in self._found.models:
            if model in claimed or self._found.files.get(model) in used_files:
                continue  # the document uses the name, or the file, for another model
            whole = self._with_found_spawn(model, {})
            if self._is_out_of_reach(whole):
                self._out_of_reach.append(model)
            else:
                yield model, self._merge(model, whole, claimed)
        if self._out_of_reach:
            self.warnings.append(_unreachable(self._out_of_reach))

    def _with_listed(self, model: str, table: object, written: Mapping[str, Any]) -> object:
        """Return the table of a service with the names in its list that a pattern stands for."""
        url, patterns = as_table(table).get("url"), _strings(as_table(table).get("models"))
        if not isinstance(url, str) or not any(map(is_pattern, patterns)):
            return table
        listed = matching_names(patterns, self._found.services.get(url, ()))
        taken = {*written, *self._found.models}
        new = [n for n in listed if n not in patterns and f"{model}/{n}" not in taken]
        return {**as_table(table), "models": [*patterns, *new]}

    @staticmethod
    def names(models: Mapping[str, Any]) -> set[str]:
        """Return every id and alias, also with presets."""
        names = set(models)
        for model, table in models.items():
            if not isinstance(table, Mapping):
                continue
            if "url" in table and "models" in table:
                names.remove(model)
                names.update(f"{model}/{each}" for each in _strings(table["models"]))
                continue
            plain = (model, *_strings(table.get("aliases")))
            names.update(plain)
            if isinstance(presets := table.get("presets"), Mapping):
                names.update(f"{name}:{preset}" for name in plain for preset in presets)
        return names

    def router(self, router: Table, names: set[str], *, running: bool) -> Table:
        """Return ``[router]`` without names of models that do not exist at the moment.

        The startup model of a router that is not running is kept: it must exist.
        """
        result = dict(router)
        replaceable = ("home_model", "default_model")
        for key in (*replaceable, "startup_model") if running else replaceable:
            model = router.get(key)
            if isinstance(model, str) and model not in names:
                del result[key]
                message = f"no model has the name {model!r} at the moment: it is ignored"
                self.warnings.append(Problem(("router", key), message))
                if key == "default_model":
                    result.pop("default_for_unknown", None)
        if "startup_model" not in router and self._found.startup_model in names:
            result["startup_model"] = self._found.startup_model
        return result

    def _is_same(self, model: str) -> bool:
        """Return whether the document's table is for the found file of that name."""
        own = self._file_of.get(model)
        return own is None or own == self._found.files.get(model)

    def _with_found_spawn(self, model: str, table: Table) -> Table:
        """Return *table* with what is found of the model's command, unless it has its own."""
        found = self._found.models[model]
        merged = {key: found[key] for key in ("template",) if key in found} | {**table}
        own = table.get("spawn", {})
        if "spawn" in found and isinstance(own, Mapping) and "template" not in table:
            merged["spawn"] = {**found["spawn"], **own}
        return merged

    def _merge(self, model: str, table: Table, claimed: set[str]) -> Table:
        """Return the found model with *table*, which has what was found of its command."""
        merged = {**self._found.models[model], **table}
        if "aliases" not in table:
            merged["aliases"] = [a for a in _strings(merged.get("aliases")) if a not in claimed]
        program = self._words(table)[0] if self._words(table) else ""
        if "found_args" not in table and not is_llama_server(program):
            merged.pop("found_args", None)  # another program has other arguments
        return merged

    def _is_out_of_reach(self, table: Table) -> bool:
        """Return whether a found model's command is inherited and does not use its file."""
        spawns = self._spawns(table)
        default = self._document.get("default_spawn")
        with_command = next((spawn for spawn in spawns if "command" in spawn), None)
        if with_command is None or with_command is not default:
            return False  # the built-in command, or one that was written for this model
        env = {name: v for s in reversed(spawns) for name, v in as_table(s.get("env")).items()}
        return "path" not in self._placeholders(table, _strings(list(env.values())))

    def _leave_out(self, model: str, table: Table) -> None:
        self.left_out[model] = table
        near = difflib.get_close_matches(model, list(self._found.models), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        message = f"no scan finds a model of this name, and it has no 'path': left out{hint}"
        self.warnings.append(Problem(("models", model), message))

    def _placeholders(self, table: Table, more_words: Iterable[str] = ()) -> set[str]:
        used: set[str] = set()
        for word in (*self._words(table), *more_words):
            try:
                used |= placeholders.names_in(word)
            except ValueError:
                continue  # parse_config reports it
        return used

    def _words(self, table: Table) -> list[str]:
        """Return the command line of a model, as far as it is well formed."""
        command: object = DEFAULT_SPAWN.command
        args: object = ()
        for spawn in reversed(self._spawns(table)):
            if "command" in spawn:  # inherited args belong to the inherited command
                command, args = spawn["command"], ()
            args = spawn.get("args", args)
        return [*_strings(command), *_strings(args), *_strings(table.get("args"))]

    def _spawns(self, table: Table) -> list[Table]:
        """Return the spawn tables that a model gets its fields from, its own one first."""
        templates = as_table(self._document.get("templates"))
        name = table.get("template")
        candidates = (
            table.get("spawn"),
            templates.get(name) if isinstance(name, str) else None,
            self._document.get("default_spawn"),
        )
        return [spawn for spawn in candidates if isinstance(spawn, Mapping)]


def _unreachable(models: Collection[str]) -> Problem:
    """Return the warning about found *models* whose command does not use their file."""
    names = ", ".join(map(repr, sorted(models)[:_MAX_NAMES]))
    more = f" and {len(models) - _MAX_NAMES} more" if len(models) > _MAX_NAMES else ""
    message = (
        "it does not use '$path', so found models cannot be served by it and are left out: "
        f"{names}{more}; add '$path', or move the command to a template"
    )
    return Problem(("default_spawn", "command"), message)


def _strings(value: object) -> list[str]:
    if not isinstance(value, list | tuple):
        return []
    return [item for item in value if isinstance(item, str)]
