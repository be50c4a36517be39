"""``router.toml`` as a configuration that can be used, or everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from ..core.config.config import Config
from ..core.config.file_needs import FileFault, needs_of
from ..core.config.merge import Found, parse_over
from ..core.config.names import ModelId
from ..core.config.parse import parse_config
from ..core.config.specs import RouterSpec
from ..errors.config import ConfigError, Problem
from ..file_faults import first_fault
from ..stalls import despite_stalls
from .file import ConfigFile, copied, read_file, tables
from .paths import NamedFiles, identity_of
from .removal import models_in_use
from .warnings import exposed_secrets, warnings_about


@attrs.frozen(kw_only=True)
class LoadedConfig:
    """A configuration that can be used.

    Attributes:
        config: Every file in it is an absolute path.
        warnings: What does not prevent its use, in the order of the file.
        unavailable: Those of the *warnings* that keep single models from being started.
        path: Where it was read from, absolute.
        as_written: ``[router]`` as the file has it, whatever the command line overrides.
        digest: SHA-256 of the file.
    """

    config: Config
    warnings: tuple[Problem, ...]
    unavailable: tuple[Problem, ...] = ()
    path: Path
    as_written: RouterSpec
    digest: bytes = b""


def load_config(
    path: Path, *, found: Found | None = None, running: bool = False, optional: bool = False
) -> LoadedConfig:
    """Read *path* and check it. Blocks on files. See `load_file`.

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
    found: Found | None = None,
    running: bool = False,
    optional: bool = False,
) -> LoadedConfig:
    """Check *file* against itself and the file system. Blocks on the files that it names.

    Relative file names are resolved against the folder that *file* is in, and
    ``~`` is expanded.

    Args:
        file: As it was read; it is not read again.
        found: Models that a scan found; *file* overlays them field by field. Nothing in
            them makes the configuration unusable.
        running: It is for a router that runs already, see `overlay`.
        optional: No file is the same as an empty one, and so is one that may or may not be in
            a folder that cannot be looked into; the latter is a warning.

    Raises:
        ConfigError: with every problem at once, in the order of the file, each
            with its line where it has one.
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


def _checked(file: ConfigFile, found: Found | None, *, running: bool) -> LoadedConfig:
    document = copied(file.document)
    files = NamedFiles(file.path.parent)
    files.resolve(document)
    problems = files.problems
    doubts: tuple[Problem, ...] = ()
    try:
        if found is None:
            config = parse_config(document)
        else:
            config, doubts = parse_over(
                document, found, file_of=_files_of(document), running=running
            )
    except ConfigError as exc:
        doubts = exc.warnings
        problems += [*files.unusable, *exc.problems]
        raise _refusal(file, problems, [*files.warnings, *doubts]) from None
    if problems:
        raise _refusal(file, [*problems, *files.unusable], [*files.warnings, *doubts])
    faults = faults_in(config)
    unavailable = [*files.unusable, *_unsaid(faults, files.unusable)]
    warnings = file.in_order(
        [
            *unavailable,
            *doubts,
            *files.warnings,
            *warnings_about(config),
            *exposed_secrets(file),
        ]
    )
    return LoadedConfig(
        config=attrs.evolve(config, faults=faults, in_use=models_in_use(document, config)),
        warnings=warnings,
        unavailable=tuple(problem for problem in warnings if problem in unavailable),
        path=file.path,
        as_written=config.router,
        digest=file.sha256,
    )


def faults_in(config: Config) -> dict[ModelId, FileFault]:
    """Return the models that cannot be started now, and the file that is to blame."""
    found = ((model, first_fault(needs_of(spec))) for model, spec in config.models.items())
    return {model: fault for model, fault in found if fault is not None}


def _unsaid(faults: Mapping[ModelId, FileFault], said: list[Problem]) -> Iterator[Problem]:
    """Yield the *faults* of files that stand where no key is of its own: in arguments."""
    messages = " ".join(problem.message for problem in said)
    for model, fault in faults.items():
        path = fault.need.path
        if f"{path}: " not in messages:
            missing = path if fault.reason == "is not there" else None
            yield Problem(("models", model), f"the file {path} {fault.reason}", missing=missing)


def _files_of(document: dict[str, Any]) -> dict[str, object]:
    """Return what identifies the file of each model of *document* that has one."""
    identities = {
        name: identity_of(table.get("path")) for name, table in tables(document, "models")
    }
    return {name: identity for name, identity in identities.items() if identity is not None}


def _refusal(file: ConfigFile, problems: list[Problem], doubts: list[Problem]) -> ConfigError:
    """Return the error of a file that has *problems*.

    What has a problem inside is not also doubted: the one may be the reason for the other.
    """
    other = [
        doubt
        for doubt in doubts
        if not doubt.path
        or all(problem.path[: len(doubt.path)] != doubt.path for problem in problems)
    ]
    return ConfigError(file.in_order(problems), file.in_order(other))
