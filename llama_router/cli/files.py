"""``check`` and ``init``: the configuration file as such."""

from __future__ import annotations

import os
import shlex
import sys
from importlib import resources
from pathlib import Path

import attrs

from ..config.catalog import Catalog, ScanReport
from ..config.load import LoadedConfig, load_config
from ..config.locations import default_config_path, state_dir_for
from ..core.config import placeholders
from ..core.config.merge import FoundModels
from ..core.config.specs import ModelSpec, RouterSpec
from ..errors.config import ConfigError, Problem
from ..files import Unseen, look, reason_of
from ..files.stalls import despite_stalls
from ..logs.lines import escape_controls


def _find_config(given: Path | None) -> tuple[Path, bool]:
    """Return the configuration file to use, and whether it is there (or must be)."""
    if given is not None:
        return given, True
    *candidates, last = default_config_path(os.environ)
    for candidate in candidates:
        found = look(candidate)
        if not isinstance(found, Unseen):
            return candidate, True
        if not found.is_missing:
            message = f"it cannot be looked at, and is left out: {found.reason}"
            say(candidate, Problem((), message), "warning")
    return last, not isinstance(look(last), Unseen)


def _no_config() -> ConfigError:
    candidates = default_config_path(os.environ)
    places = " nor ".join(map(str, candidates))
    message = (
        f"there is no configuration: neither {places} exists, and no model was found in the "
        "caches of llama.cpp and Hugging Face; 'llama-router init' writes a documented example, "
        "'llama-router import DIR' takes the models in a folder"
    )
    problems = [Problem((), message)]
    found = look(candidates[-1])
    if isinstance(found, Unseen) and not found.is_missing:
        problems.append(Problem((), f"{candidates[-1]} cannot be looked at: {found.reason}"))
    return ConfigError(tuple(problems))


@attrs.frozen(kw_only=True)
class Prepared:
    """A configuration with the models that were found.

    Attributes:
        loaded: Both of them.
        catalog: What found the models.
        scans: What it did.
    """

    loaded: LoadedConfig
    catalog: Catalog
    scans: tuple[ScanReport, ...]


def prepare_or_explain(
    given: Path | None,
    *,
    import_dir: Path | None = None,
    first: Path | None = None,
    may_be_missing: bool = False,
    keep: bool = True,
    strict: bool = False,
) -> Prepared | None:
    """Load the configuration and look for models; on failure say everything that is wrong.

    Args:
        given: Configuration file, if one is named.
        import_dir: Folder whose models are imported first.
        first: File of a model to load at start, from now on, if none is yet.
        may_be_missing: Without a file, models that are found will do.
        keep: Remember what is found.
        strict: Call it an error if a file keeps a model from being started.
    """
    path = given

    def prepare() -> Prepared:
        nonlocal path
        path, exists = _find_config(given)
        if not (exists or may_be_missing):
            raise _no_config()
        catalog, router = _open_catalog(path, optional=not exists)
        scans: list[ScanReport] = []
        if import_dir is not None:
            scans.append(catalog.import_folder(import_dir.absolute()))
        scans.append(catalog.scan(router, keep=keep))
        if first is not None:
            _set_startup_model(catalog, first, router, scans[-1])
        loaded = catalog.load(path)
        if not exists and not loaded.config.models:
            raise _no_config()
        return Prepared(loaded=loaded, catalog=catalog, scans=tuple(scans))

    try:
        prepared = despite_stalls(prepare)
    except ConfigError as exc:
        for problem in exc.problems:
            say(path, problem, "error")
        for warning in exc.warnings:
            say(path, warning, "warning")
        return None
    for warning in prepared.loaded.warnings:
        unusable = strict and warning in prepared.loaded.unavailable
        say(path, warning, "error" if unusable else "warning")
    return prepared


def _set_startup_model(
    catalog: Catalog, file: Path, router: RouterSpec, scanned: ScanReport
) -> None:
    """Let the model of *file* be the one to load at start, if there is none yet.

    Raises:
        ConfigError: if that is not possible.
    """
    try:
        found = catalog.set_startup_model(file)
    except OSError as exc:
        message = f"the state directory cannot be used: {reason_of(exc)}: {exc.filename}"
        raise ConfigError((Problem((), message),)) from exc
    if found is None:
        reasons = [warning.reason for warning in scanned.warnings if warning.path == str(file)]
        reason = reasons[0] if reasons else "llama.cpp cannot serve it alone"
        if not router.scan_caches:
            reason = "router.scan_caches is off"
        message = f"{file} was fetched, but is not a model of this router: {reason}"
        raise ConfigError((Problem((), message),))


def catalog_or_explain(given: Path | None) -> Catalog | None:
    """Return what remembers models for a router; on failure say what is wrong."""
    path, exists = _find_config(given)
    try:
        return _open_catalog(path, optional=not exists)[0]
    except ConfigError as exc:
        for problem in exc.problems:
            say(path, problem, "error")
        return None


def _open_catalog(path: Path, *, optional: bool) -> tuple[Catalog, RouterSpec]:
    """Return the catalog for the configuration file *path*, and the file's ``[router]``.

    Raises:
        ConfigError: if the file has a mistake.
    """
    router = load_config(path, found=FoundModels(), running=True, optional=optional).config.router
    state_dir = state_dir_for(router.state_dir, os.environ)
    return Catalog(state_dir, os.environ, optional=optional), router


def say(path: Path | None, problem: Problem, severity: str) -> None:
    """Print *problem* on standard error."""
    # The form that editors and CI systems recognise: file:line: severity: message
    line = "" if problem.line is None else f":{problem.line}"
    where = f"{path}{line}: " if path is not None else ""
    what = f"{problem.location}: {problem.message}" if problem.path else problem.message
    print(escape_controls(f"{where}{severity}: {what}"), file=sys.stderr)  # noqa: T201 -- the command's output


def check(file: Path | None, *, commands: bool = False) -> int:
    """Print what is wrong with *file*; return the exit status.

    It is 1 also if the router would start, but without some of the models.
    """
    prepared = prepare_or_explain(file, keep=False, strict=True)
    if prepared is None:
        return 1
    loaded = prepared.loaded
    for scanned in prepared.scans:
        for warning in scanned.warnings:
            print(escape_controls(f"{warning.path}: warning: {warning.reason}"), file=sys.stderr)  # noqa: T201 -- same
    if commands:
        for model, spec in loaded.config.models.items():
            print(escape_controls(f"{model}: {_command_line(spec)}"))  # noqa: T201 -- same
    models = len(loaded.config.models)
    if loaded.unavailable:
        lost = len(loaded.config.file_faults)
        print(f"{loaded.path}: {lost} of {models} models cannot be used now", file=sys.stderr)  # noqa: T201 -- same
        return 1
    print(f"{loaded.path}: ok, {models} model{'' if models == 1 else 's'}")  # noqa: T201 -- same
    return 0


def _command_line(spec: ModelSpec) -> str:
    """Return the command of a model as one could type it, but for port and host."""
    values = {"path": spec.path or "", "mmproj": spec.mmproj or "", "model": str(spec.id)}
    values |= {"port": "$port", "host": "$host"}
    words = (placeholders.expand(w, values) for w in (*spec.spawn.command, *spec.spawn.args))
    return " ".join(w if w in {"$port", "$host"} else shlex.quote(w) for w in words)


def example_config() -> bytes:
    """Return the documented example, as it is in the package or beside it."""
    packaged = resources.files("llama_router.cli").joinpath("router.toml")
    if packaged.is_file():
        return packaged.read_bytes()
    # An editable installation: the example is at the top of the repository.
    return Path(__file__).parents[2].joinpath("router.toml").read_bytes()


def init(file: Path) -> int:
    """Write the example to *file*, in a folder that is made if need be; return the exit status."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as new:
            new.write(example_config())
    except FileExistsError:
        print(f"{file} exists already and was not touched", file=sys.stderr)  # noqa: T201 -- same
        return 1
    except OSError as exc:
        print(f"cannot write {file}: {reason_of(exc)}", file=sys.stderr)  # noqa: T201 -- same
        return 1
    print(f"wrote {file}; edit it, then run: llama-router serve --config {file}")  # noqa: T201 -- same
    return 0
