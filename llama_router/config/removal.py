"""Whether the files of a model may be deleted: not while the configuration uses them.

The one place that decides it, for every way to delete a model.
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
from ..hub.cache import CachedModel, RepoCache
from ..models.found_file import FoundFileContent
from .file import ConfigFile, copied, read_file, tables
from .paths import NamedFiles, identity_of
from .uses import MODEL_KEYS, Mention, Use, mentions, sentence, uses_of


@attrs.frozen(kw_only=True)
class Deletion:
    """What is to be deleted.

    Attributes:
        name: For people.
        names: Ids and aliases that go with it.
        files: Every path that will be gone.
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
        """Return the deletion of *model*, or of what is unfinished if that is None."""
        own = () if model is None else (model.id,)
        return cls(
            name=cache.repo if model is None else model.id,
            names=frozenset((*names, *own)),
            files=tuple(cache.doomed(model)),
            folder=cache.folder,
        )

    def identities(self) -> set[object]:
        """Return what identifies each file, and each folder of the repository with one in it."""
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
    """Make sure that no configuration uses what is to be deleted. Blocks on files.

    Args:
        deletion: What is to be deleted.
        config_path: ``router.toml``; one that is not there uses nothing.
        content: The models that were found and imported.
        in_force: The configuration that a router runs with, whatever the file says by now.

    Raises:
        ModelInUseError: if one does, or if the file cannot be read.
    """
    lost = deletion.identities()
    names = set(deletion.names)
    models = {} if content is None else content.models
    uses: list[Use] = []
    for model, table in models.items():
        if identity_of(table["path"]) in lost:
            names |= {model, *table.get("aliases", ())}
    document, file = _document(deletion, config_path)
    uses += uses_of(document, _seen(mentions(document)), names=names, lost=lost)
    uses += _found_elsewhere(document, models, lost, deletion.folder)
    if not uses and in_force is not None:
        uses += _in_force(in_force, names, lost)
    if uses:
        raise _refusal(deletion.name, config_path, file, uses)


def refuse_written(spec: ModelSpec, config_path: Path) -> None:
    """Refuse to delete a model that a person put into the configuration. Blocks on files.

    Raises:
        ModelInUseError: always, unless a scan found it.
    """
    if spec.state is ModelState.AUTO:
        return
    file = None
    use = Use((), "llama-router import took it in for good")
    try:
        file = read_file(config_path)
        if any(name == spec.id for name, _ in tables(file.document, "models")):
            use = Use(("models", str(spec.id)), "defines it")
    except ConfigError:
        pass  # then it is not there any more, or imported
    raise _refusal(str(spec.id), config_path, file, [use])


def models_in_use(document: dict[str, Any], config: Config) -> frozenset[ModelId]:
    """Return the found models of *config* that *document*, which it was made of, uses.

    As `check_unused` would find, as far as that can be told without looking into the caches.
    """
    written = document.get("models")
    used = set(written) if isinstance(written, Mapping) else set()
    router = document.get("router")
    keys = (router.get(key) for key in MODEL_KEYS) if isinstance(router, Mapping) else ()
    used |= {config.resolve(name) for name in keys if isinstance(name, str)}
    found = [s for s in config.models.values() if s.state is ModelState.AUTO and s.id not in used]
    if found:
        known = {identity for _, identity in _seen(mentions(document))} - {None}
        used |= {spec.id for spec in found if not known.isdisjoint(_identities_of(spec))}
    auto = (m for m, spec in config.models.items() if spec.state is ModelState.AUTO)
    return frozenset(model for model in auto if model in used)


def _identities_of(spec: ModelSpec) -> Iterator[object]:
    for file in (spec.path, spec.mmproj):
        if file is None:
            continue
        for mention in mentions({"models": {"": {"path": file}}}):
            yield identity_of(mention.path)
        if "/snapshots/" in file:
            for folder in Path(file).parents:
                yield identity_of(str(folder))
                if folder.name.startswith("models--"):
                    break


def _document(deletion: Deletion, path: Path | None) -> tuple[dict[str, Any], ConfigFile | None]:
    """Return the document of the file *path* with absolute names, and the file."""
    if path is None or not os.path.lexists(path):
        return {}, None
    try:
        file = read_file(path)
        document = copied(_present(file).document)
    except ConfigError as exc:
        raise ModelInUseError(
            f"{deletion.name!r} is not deleted, because it cannot be told whether {path} uses it: "
            f"{exc}. Mend that first."
        ) from exc
    NamedFiles(path.absolute().parent).resolve(document)
    return document, file


def _present(file: ConfigFile) -> ConfigFile:
    """Return *file*.

    Raises:
        ConfigError: if it is absent, perhaps only for now: a link that leads nowhere.
    """
    if file.absence is not None:
        raise ConfigError((Problem((), f"cannot read {file.path}: {file.absence}"),))
    return file


def _seen(named: Iterable[Mention]) -> Iterator[tuple[Mention, object]]:
    """Yield each mention with what identifies its file."""
    for mention in named:
        path = mention.path
        if path.startswith("~"):
            path = os.path.expanduser(path)  # noqa: PTH111 -- it never raises
        yield mention, identity_of(os.path.join(mention.folder or "", path))  # noqa: PTH118 -- quick


def _found_elsewhere(
    document: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]],
    lost: Collection[object],
    folder: Path,
) -> Iterator[Use]:
    """Yield models that were imported, or found in a folder with links to what is deleted."""
    router = document.get("router")
    dirs = router.get("models_dirs") if isinstance(router, Mapping) else None
    for model, table in models.items():
        paths = [table[key] for key in ("path", "mmproj") if key in table]
        mine = [path for path in paths if identity_of(path) in lost]
        if table["state"] == ModelState.MANUAL:
            if mine:
                yield Use((), f"the model {model!r}, which llama-router import took in, is there")
            continue
        for path in mine:
            if not Path(path).is_relative_to(folder):
                for index, written in enumerate(dirs if isinstance(dirs, list) else ()):
                    if isinstance(written, str) and Path(path).is_relative_to(written):
                        where = ("router", "models_dirs", index)
                        yield Use(where, f"has the model {model!r}, a link to {path}")


def _in_force(config: Config, names: Collection[str], lost: Collection[object]) -> Iterator[Use]:
    """Yield what a router uses that has not taken over the file yet."""
    for spec in config.models.values():
        if spec.id in names or spec.state is ModelState.AUTO:
            continue
        for need in needs_of(spec):
            if identity_of(need.path) in lost:
                yield Use((), f"the router still uses {need.path} for the model {str(spec.id)!r}")


def _refusal(
    name: str, path: Path | None, file: ConfigFile | None, uses: list[Use]
) -> ModelInUseError:
    problems = {use.where: Problem(use.where, "") for use in uses if use.where}
    if file is not None:
        file.in_order(problems.values())
    uses = [
        attrs.evolve(use, line=problems[use.where].line) if use.where in problems else use
        for use in uses
    ]
    location = {where: problem.location for where, problem in problems.items()}
    cure = (
        "Take that out of the file first, and let the router apply it."
        if problems
        else "Take the model out of use first; the file of an imported one is deleted by hand."
    )
    said = sentence(str(path), uses, location)
    return ModelInUseError(f"{name!r} is not deleted, because it is in use: {said}. {cure}")
