"""Loads the configuration and the found models for a command, and prints every problem."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import attrs

from ..config.catalog import Catalog, ScanReport
from ..config.load import LoadedConfig, load_config
from ..config.locations import default_config_path, state_dir_for
from ..config.merge import FoundModels
from ..core.config.specs import RouterSpec
from ..errors.config import ConfigError, Problem
from ..files import Unseen, absolute, look, reason_of
from ..files.stalls import despite_stalls
from .printing import print_problem


def _find_config(given: Path | None) -> tuple[Path, bool, list[Problem]]:
    """Return the configuration file to use, whether it counts as existing, and warnings.

    A file that was *given* counts as existing: reading it reports the fault. The warnings are
    about files that come before it and cannot be accessed.
    """
    if given is not None:
        return given, True, []
    *candidates, last = default_config_path(os.environ)
    ignored: list[Problem] = []
    for candidate in candidates:
        found = look(candidate)
        if not isinstance(found, Unseen):
            return candidate, True, ignored
        if not found.is_missing:
            message = f"{candidate} cannot be accessed, and is ignored: {found.reason}"
            ignored.append(Problem((), message))
    return last, not isinstance(look(last), Unseen), ignored


def _no_config() -> ConfigError:
    """Return the error for a router that has neither a configuration nor a model."""
    candidates = default_config_path(os.environ)
    places = " nor ".join(map(str, candidates))
    missing = f"neither {places} exists" if len(candidates) > 1 else f"{places} does not exist"
    message = (
        f"there is no configuration: {missing}, and no model was found in the "
        "caches of llama.cpp and Hugging Face; 'llama-router init' writes a documented example, "
        "'llama-router import DIR' takes the models in a folder"
    )
    problems = [Problem((), message)]
    found = look(candidates[-1])
    if isinstance(found, Unseen) and not found.is_missing:
        problems.append(Problem((), f"{candidates[-1]} cannot be accessed: {found.reason}"))
    return ConfigError(tuple(problems))


@attrs.frozen(kw_only=True)
class PreparedConfig:
    """A loaded configuration, with the models that were found on disk.

    Attributes:
        loaded: The configuration, found models included.
        catalog: The catalog that found the models, for later scans.
        scans: The results of its scans so far.
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
    hold: Callable[[Path], None] | None = None,
) -> PreparedConfig | None:
    """Load the configuration and scan for models; on failure print every problem, return None.

    Args:
        given: Configuration file of the command line; None for the default ones.
        import_dir: Folder with models to import first.
        first: Model file that becomes the startup model, if there is none yet.
        may_be_missing: Accept that there is no configuration file, if models are found.
        keep: Write the found models to the catalog's file.
        strict: Print an error, not a warning, for a model that its files make unusable.
        hold: For a router that starts: called with its state directory before anything is
            written there, perhaps twice; may raise `ConfigError`. Such a router logs the warnings
            of a usable configuration, so they are not printed.
    """
    path = given

    def prepare() -> PreparedConfig:
        nonlocal path
        path, exists, ignored = _find_config(given)
        if not (exists or may_be_missing):
            raise _no_config()
        catalog, router = _open_catalog(path, optional=not exists)
        if hold is not None:
            hold(state_dir_for(router.state_dir, os.environ))
        scans: list[ScanReport] = []
        if import_dir is not None:
            scans.append(catalog.import_folder(absolute(import_dir)))
        scans.append(catalog.scan(router, keep=keep))
        if first is not None:
            _set_startup_model(catalog, first, router, scans[-1])
        loaded = catalog.load(path)
        loaded = attrs.evolve(loaded, warnings=(*ignored, *loaded.warnings))
        if not exists and not loaded.config.models:
            raise _no_config()
        return PreparedConfig(loaded=loaded, catalog=catalog, scans=tuple(scans))

    try:
        prepared = despite_stalls(prepare)
    except ConfigError as exc:
        _print_refusal(exc, path)
        return None
    if hold is None:
        _print_warnings(prepared.loaded, path, strict=strict)
    return prepared


def survey_or_explain(given: Path | None) -> PreparedConfig | None:
    """Return the configuration with what a scan finds, both of which may be empty.

    Nothing is recorded, and no warnings of the configuration are printed. On failure print every
    problem, return None.
    """
    path = given

    def prepare() -> PreparedConfig:
        nonlocal path
        path, exists, _ = _find_config(given)
        catalog, router = _open_catalog(path, optional=not exists)
        scanned = catalog.scan(router, keep=False)
        return PreparedConfig(loaded=catalog.load(path), catalog=catalog, scans=(scanned,))

    try:
        return despite_stalls(prepare)
    except ConfigError as exc:
        _print_refusal(exc, path)
        return None


def _print_refusal(error: ConfigError, path: Path | None) -> None:
    for problem in error.problems:
        print_problem(path, problem, "error")
    for warning in error.warnings:
        print_problem(path, warning, "warning")


def _print_warnings(loaded: LoadedConfig, path: Path | None, *, strict: bool) -> None:
    for warning in loaded.warnings:
        unusable = strict and warning in loaded.unavailable
        print_problem(path, warning, "error" if unusable else "warning")


def _set_startup_model(
    catalog: Catalog, file: Path, router: RouterSpec, scanned: ScanReport
) -> None:
    """Make the model of *file* the startup model, if there is none yet.

    Raises:
        ConfigError: if the model is unknown, or cannot be recorded.
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
        message = f"{file} was downloaded, but is not a model of this router: {reason}"
        raise ConfigError((Problem((), message),))


def catalog_or_explain(given: Path | None) -> Catalog | None:
    """Return the catalog of found models; on failure print every problem, return None."""
    path, exists, ignored = _find_config(given)
    for warning in ignored:
        print_problem(None, warning, "warning")
    try:
        return _open_catalog(path, optional=not exists)[0]
    except ConfigError as exc:
        for problem in exc.problems:
            print_problem(path, problem, "error")
        return None


def _open_catalog(path: Path, *, optional: bool) -> tuple[Catalog, RouterSpec]:
    """Return the catalog for the configuration file *path*, and the file's ``[router]``.

    Raises:
        ConfigError: if the file is invalid.
    """
    router = load_config(path, found=FoundModels(), running=True, optional=optional).config.router
    state_dir = state_dir_for(router.state_dir, os.environ)
    return Catalog(state_dir, os.environ, optional=optional), router
