"""The check that a model may be deleted: no configuration may use its files.

Every way to delete a model makes this check.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..core.config.config import Config
from ..core.config.file_needs import needs_of
from ..core.config.names import ModelId
from ..core.config.specs import ModelSpec, ModelState
from ..errors.config import ConfigError, Problem
from ..errors.downloads import ModelInUseError
from ..files import absolute
from ..hub import cache_deletion
from ..hub.cache import CachedModel, RepoCache
from ..models.found_file import FoundFileContent
from .file import ConfigFile, copied, read_file, tables
from .paths import ConfigPaths, identity_of
from .usages import MODEL_KEYS, ConfigUsage, PathReference, describe, find_usages, path_references


@attrs.frozen(kw_only=True)
class Deletion:
    """A planned deletion.

    Attributes:
        name: Name of the model in messages.
        names: Deleted ids and aliases.
        files: Every deleted path.
        folder: The folder of the repository; nothing outside of it is deleted.
    """

    name: str
    names: frozenset[str]
    files: tuple[Path, ...]
    folder: Path

    @classmethod
    def of(
        cls, cache: RepoCache, model: CachedModel | None, names: Collection[str] = ()
    ) -> Deletion:
        """Return the deletion of *model*, or of unfinished downloads if that is None."""
        own = () if model is None else (model.id,)
        return cls(
            name=cache.repo if model is None else model.id,
            names=frozenset((*names, *own)),
            files=tuple(cache_deletion.deleted_paths(cache, model)),
            folder=cache.folder,
        )

    def identities(self) -> set[object]:
        """Return the identities of all files, and of the repository's folders with one of them."""
        found: set[object] = set()
        folders: set[Path] = set()
        for file in self.files:
            found.add(identity_of(str(file)))
            folders.update(p for p in file.parents if p.is_relative_to(self.folder))
        found.update(identity_of(str(folder)) for folder in folders)
        return found - {None}


def check_unused(
    deletion: Deletion,
    config_path: Path | None,
    *,
    content: FoundFileContent | None = None,
    in_force: Config | None = None,
) -> None:
    """Refuse *deletion* if a configuration uses its files or names. Blocks on files.

    Args:
        deletion: The planned deletion.
        config_path: ``router.toml``; a missing file uses nothing.
        content: The models that were found and imported.
        in_force: The configuration of the running router, which may differ from the file.

    Raises:
        ModelInUseError: if one does, or if the file cannot be read.
    """
    deleted = deletion.identities()
    names = set(deletion.names)
    models = {} if content is None else content.models
    usages: list[ConfigUsage] = []
    for model, table in models.items():
        if identity_of(table["path"]) in deleted:
            names |= {model, *table.get("aliases", ())}
    document, file = _document(deletion, config_path)
    usages += find_usages(
        document, _identified(path_references(document)), names=names, deleted=deleted
    )
    usages += _found_elsewhere(document, models, deleted, deletion.folder)
    if not usages and in_force is not None:
        usages += _usages_in_force(in_force, names, deleted)
    if usages:
        raise _refusal(deletion.name, config_path, file, usages)


def refuse_configured(spec: ModelSpec, config_path: Path) -> None:
    """Refuse to delete a model that the user configured or imported. Blocks on files.

    Raises:
        ModelInUseError: always, unless a scan found it.
    """
    if spec.state is ModelState.AUTO:
        return
    file = None
    usage = ConfigUsage((), "llama-router import took it in for good")
    try:
        file = read_file(config_path)
        if any(name == spec.id for name, _ in tables(file.document, "models")):
            usage = ConfigUsage(("models", str(spec.id)), "defines it")
    except ConfigError:
        pass  # the file is missing or invalid: the model counts as imported
    raise _refusal(str(spec.id), config_path, file, [usage])


def models_in_use(document: dict[str, Any], config: Config) -> frozenset[ModelId]:
    """Return the found models of *config* that its *document* uses.

    The same as `check_unused` finds, except for what only a scan of the caches can find.
    """
    written = document.get("models")
    used = set(written) if isinstance(written, Mapping) else set()
    router = document.get("router")
    keys = (router.get(key) for key in MODEL_KEYS) if isinstance(router, Mapping) else ()
    used |= {config.resolve(name) for name in keys if isinstance(name, str)}
    found = [s for s in config.models.values() if s.state is ModelState.AUTO and s.id not in used]
    if found:
        known = {identity for _, identity in _identified(path_references(document))} - {None}
        used |= {spec.id for spec in found if not known.isdisjoint(_identities_of(spec))}
    auto = (m for m, spec in config.models.items() if spec.state is ModelState.AUTO)
    return frozenset(model for model in auto if model in used)


def _identities_of(spec: ModelSpec) -> Iterator[object]:
    for file in (spec.path, spec.mmproj):
        if file is None:
            continue
        for reference in path_references({"models": {"": {"path": file}}}):
            yield identity_of(reference.path)
        if "/snapshots/" in file:
            for folder in Path(file).parents:
                yield identity_of(str(folder))
                if folder.name.startswith("models--"):
                    break


def _document(deletion: Deletion, path: Path | None) -> tuple[dict[str, Any], ConfigFile | None]:
    """Return the document of the file *path* with absolute paths, and the file."""
    if path is None or not os.path.lexists(path):
        return {}, None
    try:
        file = read_file(path)
        document = copied(_present(file).document)
    except ConfigError as exc:
        raise ModelInUseError(
            f"{deletion.name!r} is not deleted, because it cannot be told whether {path} uses it: "
            f"{exc}. Fix that first."
        ) from exc
    ConfigPaths(absolute(path).parent).make_absolute(document)
    return document, file


def _present(file: ConfigFile) -> ConfigFile:
    """Return *file*.

    Raises:
        ConfigError: if it is missing, perhaps temporarily: behind a dangling link.
    """
    if file.absence is not None:
        raise ConfigError((Problem((), f"cannot read {file.path}: {file.absence}"),))
    return file


def _identified(references: Iterable[PathReference]) -> Iterator[tuple[PathReference, object]]:
    """Yield each reference with the identity of its file, or None."""
    for reference in references:
        path = reference.path
        if path.startswith("~"):
            path = os.path.expanduser(path)  # noqa: PTH111 -- it never raises
        yield reference, identity_of(os.path.join(reference.folder or "", path))  # noqa: PTH118 -- quick


def _found_elsewhere(
    document: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]],
    deleted: Collection[object],
    folder: Path,
) -> Iterator[ConfigUsage]:
    """Yield imported models with a deleted file, and folders of the user with links to one."""
    router = document.get("router")
    dirs = router.get("models_dirs") if isinstance(router, Mapping) else None
    for model, table in models.items():
        paths = [table[key] for key in ("path", "mmproj") if key in table]
        affected = [path for path in paths if identity_of(path) in deleted]
        if table["state"] == ModelState.MANUAL:
            if affected:
                yield ConfigUsage(
                    (), f"the model {model!r}, which llama-router import took in, is there"
                )
            continue
        for path in affected:
            if not Path(path).is_relative_to(folder):
                for index, written in enumerate(dirs if isinstance(dirs, list) else ()):
                    if isinstance(written, str) and Path(path).is_relative_to(written):
                        where = ("router", "models_dirs", index)
                        yield ConfigUsage(where, f"has the model {model!r}, a link to {path}")


def _usages_in_force(
    config: Config, names: Collection[str], deleted: Collection[object]
) -> Iterator[ConfigUsage]:
    """Yield the usages of a running router that has not applied the file yet."""
    for spec in config.models.values():
        if spec.id in names or spec.state is ModelState.AUTO:
            continue
        for need in needs_of(spec):
            if identity_of(need.path) in deleted:
                yield ConfigUsage(
                    (), f"the router still uses {need.path} for the model {str(spec.id)!r}"
                )


def _refusal(
    name: str, path: Path | None, file: ConfigFile | None, usages: list[ConfigUsage]
) -> ModelInUseError:
    problems = {usage.where: Problem(usage.where, "") for usage in usages if usage.where}
    if file is not None:
        file.in_order(problems.values())
    usages = [
        attrs.evolve(usage, line=problems[usage.where].line) if usage.where in problems else usage
        for usage in usages
    ]
    location = {where: problem.location for where, problem in problems.items()}
    remedy = (
        "Take that out of the file first, and let the router apply it."
        if problems
        else "Take the model out of use first; the file of an imported one is deleted by hand."
    )
    described = describe(str(path), usages, location)
    return ModelInUseError(f"{name!r} is not deleted, because it is in use: {described}. {remedy}")
