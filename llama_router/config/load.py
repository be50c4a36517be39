"""Loads ``router.toml``: returns a usable configuration with warnings, or raises all errors."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..backends.launch_identity import file_versions
from ..core.config import placeholders
from ..core.config.config import Config
from ..core.config.file_needs import FileFault, needs_of
from ..core.config.names import ModelId
from ..core.config.parse import parse_config
from ..core.config.specs import DEFAULT_SPAWN, RouterSpec
from ..errors.config import ConfigError, Problem, Where
from ..files.faults import first_fault
from ..files.stalls import despite_stalls
from .command_warnings import command_place, command_warnings
from .file import ConfigFile, copied, read_file, tables
from .merge import FoundModels, parse_merged
from .paths import ConfigPaths, identity_of, missing_on_path
from .removal import models_in_use


@attrs.frozen(kw_only=True)
class LoadedConfig:
    """A usable configuration.

    Attributes:
        config: The configuration; every path in it is absolute.
        warnings: Problems that do not prevent its use, in the order of the file.
        unavailable: Those of the *warnings* that prevent the start of single models.
        path: The file, absolute.
        as_written: ``[router]`` of the file, before options of the command line override it.
        digest: SHA-256 of the file.
    """

    config: Config
    warnings: tuple[Problem, ...]
    unavailable: tuple[Problem, ...] = ()
    path: Path
    as_written: RouterSpec
    digest: bytes = b""


def load_config(
    path: Path, *, found: FoundModels | None = None, running: bool = False, optional: bool = False
) -> LoadedConfig:
    """Return the configuration in *path*. Blocks on files. See `load_file`.

    Raises:
        ConfigError: as `load_file`, or if *path* cannot be read.
    """
    return despite_stalls(
        lambda: load_file(
            read_file(path, optional=optional), found=found, running=running, optional=optional
        )
    )


def load_file(
    file: ConfigFile,
    *,
    found: FoundModels | None = None,
    running: bool = False,
    optional: bool = False,
) -> LoadedConfig:
    """Return the configuration of *file*, checked. Blocks on the files that it names.

    Relative file names are resolved against the folder that *file* is in, and
    ``~`` is expanded.

    Args:
        file: As it was read; it is not read again.
        found: Models that a scan found; *file* overrides them field by field. Mistakes in
            them are warnings.
        running: It is for a router that runs already, see `merge`.
        optional: A missing file counts as an empty one, and so does a file in a folder that
            cannot be read; the latter is a warning.

    Raises:
        ConfigError: with all problems, in the order of the file, each with its line if it has
            one.
    """
    if file.absence is not None and not optional:
        raise ConfigError((Problem((), f"cannot read {file.path}: {file.absence}"),))
    try:
        loaded = _checked(file, found, running=running)
    except ConfigError as exc:
        exc.digest = file.sha256
        raise
    if file.unseen is None:
        return loaded
    message = f"{file.path} cannot be looked at, and is left out: {file.unseen}"
    return attrs.evolve(loaded, warnings=(Problem((), message), *loaded.warnings))


def _checked(file: ConfigFile, found: FoundModels | None, *, running: bool) -> LoadedConfig:
    document = copied(file.document)
    paths = ConfigPaths(file.path.parent)
    paths.make_absolute(document)
    problems = paths.problems
    merge_warnings: tuple[Problem, ...] = ()
    try:
        if found is None:
            config = parse_config(document)
        else:
            config, merge_warnings = parse_merged(
                document, found, file_of=_files_of(document), running=running
            )
    except ConfigError as exc:
        merge_warnings = exc.warnings
        problems += [*paths.unusable, *exc.problems]
        raise _refusal(file, problems, [*paths.warnings, *merge_warnings]) from None
    if problems:
        raise _refusal(file, [*problems, *paths.unusable], [*paths.warnings, *merge_warnings])
    faults = file_faults(config)
    unavailable = [*paths.unusable, *_unreported(faults, paths.unusable)]
    warnings = file.in_order(
        [
            *unavailable,
            *merge_warnings,
            *paths.warnings,
            *_warnings_about(config),
            *_command_warnings(document, config),
            *_exposed_secrets(file),
        ]
    )
    return LoadedConfig(
        config=attrs.evolve(
            config,
            file_faults=faults,
            file_versions={m: file_versions(spec) for m, spec in config.local.models.items()},
            in_use=models_in_use(document, config),
        ),
        warnings=warnings,
        unavailable=tuple(problem for problem in warnings if problem in unavailable),
        path=file.path,
        as_written=config.router,
        digest=file.sha256,
    )


def file_faults(config: Config) -> dict[ModelId, FileFault]:
    """Return the models that cannot be started, each with the file that prevents it."""
    found = ((model, first_fault(needs_of(spec))) for model, spec in config.local.models.items())
    return {model: fault for model, fault in found if fault is not None}


def _unreported(faults: Mapping[ModelId, FileFault], reported: list[Problem]) -> Iterator[Problem]:
    """Yield those of *faults* that are not *reported* yet: files in arguments of a command."""
    messages = " ".join(problem.message for problem in reported)
    for model, fault in faults.items():
        path = fault.need.path
        if f"{path}: " not in messages:
            missing = path if fault.reason == "is not there" else None
            yield Problem(("models", model), f"the file {path} {fault.reason}", missing=missing)


def _warnings_about(config: Config) -> Iterator[Problem]:
    """Yield probable mistakes in *config*."""
    if not config.models:
        yield Problem((), "no models are configured")
    for model, spec in config.local.models.items():
        words = (*spec.spawn.command, *spec.spawn.args, *spec.spawn.env.values())
        if spec.mmproj is not None and not any(
            "mmproj" in placeholders.names_in(word) for word in words
        ):
            message = "has no effect: the command does not use '$mmproj'"
            yield Problem(("models", model, "mmproj"), message)
    defaults = (
        m for m, spec in config.models.items() if spec.spawn.command is DEFAULT_SPAWN.command
    )
    if (first := next(defaults, None)) and (warning := missing_on_path(DEFAULT_SPAWN.command[0])):
        yield Problem(("models", first), warning)


def _command_warnings(document: Mapping[str, Any], config: Config) -> Iterator[Problem]:
    """Yield probable mistakes in commands; one that many models inherit is reported once."""
    reported = set[tuple[Where, str]]()
    for spec in config.local.models.values():
        if spec.spawn.command is DEFAULT_SPAWN.command and not spec.spawn.args:
            continue  # the built-in command, as nearly always
        for message in command_warnings(spec):
            where = command_place(document, spec)
            if (where, message) not in reported:
                reported.add((where, message))
                yield Problem(where, message)


def _exposed_secrets(file: ConfigFile) -> Iterator[Problem]:
    """Yield a warning about the first secret in a file that every user of the machine can read."""
    if not file.mode & stat.S_IROTH:
        return
    document = file.document
    keys_of_secrets: list[Where] = [("router", "admin_token")]
    keys_of_secrets += [("api_keys", name, "key") for name, _ in tables(document, "api_keys")]
    keys_of_secrets += [("models", name, "key") for name, _ in tables(document, "models")]
    for section, *keys in keys_of_secrets:
        found: object = document.get(str(section))
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if found is None or (isinstance(found, str) and found.startswith("${env.")):
            continue
        remedy = "keep its 'sha256' instead" if keys[-1] == "key" else "leave it out"
        if section == "models":
            remedy = "keep it in a 'key_file' instead"
        message = (
            "every user of this machine may read it, because the file's mode is "
            f"{file.mode:04o}: {remedy}, or let only the router's user read the file"
        )
        yield Problem((section, *keys), message)
        return


def _files_of(document: dict[str, Any]) -> dict[str, object]:
    """Return the identity of the file of each model of *document* that has one."""
    identities = {
        name: identity_of(table.get("path")) for name, table in tables(document, "models")
    }
    return {name: identity for name, identity in identities.items() if identity is not None}


def _refusal(file: ConfigFile, problems: list[Problem], warnings: list[Problem]) -> ConfigError:
    """Return the error of a file that has *problems*.

    Warnings about a table with a problem in it are dropped: the problem may be their cause.
    """
    independent = [
        warning
        for warning in warnings
        if not warning.path
        or all(problem.path[: len(warning.path)] != warning.path for problem in problems)
    ]
    return ConfigError(file.in_order(problems), file.in_order(independent))
