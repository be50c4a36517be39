"""``router.toml`` as a configuration that can be used, or everything that is wrong with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from ..core.config.file_needs import FileFault, needs_of
from ..core.config.names import ModelId
from ..core.config.overlay import Found
from ..core.config.parse import parse_config
from ..core.config.router_spec import RouterSpec
from ..core.config.whole import Config
from ..errors.config import ConfigError, Problem
from ..file_faults import first_fault
from ..files import Unseen, look
from ..stalls import despite_stalls
from .file import decoded, parse, read
from .merging import parse_over
from .paths import NamedFiles
from .removal import models_in_use
from .toml_lines import in_file_order
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
    path: Path,
    *,
    found: Found | None = None,
    running: bool = False,
    optional: bool = False,
    data: bytes | None = None,
) -> LoadedConfig:
    """Read *path* and check it against itself and the file system. Blocks on files.

    Relative file names are resolved against the folder that *path* is in, and
    ``~`` is expanded.

    Args:
        path: The file.
        found: Models that a scan found; *path* overlays them field by field. Nothing in
            them makes the configuration unusable.
        running: It is for a router that runs already, see `overlay`.
        optional: No file is the same as an empty one, and so is one that may or may not be in
            a folder that cannot be looked into; the latter is a warning.
        data: What the file is to hold; None for what it holds.

    Raises:
        ConfigError: with every problem at once, in the order of the file, each
            with its line where it has one.
    """
    try:
        path = path.absolute()
    except FileNotFoundError:
        message = f"cannot find {path}: the working directory no longer exists"
        raise ConfigError((Problem((), message),)) from None
    return despite_stalls(lambda: _load(path, found, running=running, optional=optional, data=data))


def _load(
    path: Path, found: Found | None, *, running: bool, optional: bool, data: bytes | None
) -> LoadedConfig:
    unseen: list[Problem] = []
    if data is None and optional and isinstance(looked := look(path), Unseen):
        data = b""
        if not looked.is_missing:
            message = f"{path} cannot be looked at, and is left out: {looked.reason}"
            unseen.append(Problem((), message))
    if data is None:
        data = read(path)
    digest = hashlib.sha256(data).digest()
    try:
        loaded = _checked(path, decoded(data), digest, found, running=running)
    except ConfigError as exc:
        exc.digest = digest
        raise
    return attrs.evolve(loaded, warnings=(*unseen, *loaded.warnings)) if unseen else loaded


def _checked(
    path: Path, text: str, digest: bytes, found: Found | None, *, running: bool
) -> LoadedConfig:
    document = parse(text)
    files = NamedFiles(path.parent)
    files.resolve(document)
    problems = files.problems
    doubts: list[Problem] = []
    try:
        if found is None:
            config = parse_config(document)
        else:
            config = parse_over(document, found, doubts, running=running)
    except ConfigError as exc:
        problems += [*files.unusable, *exc.problems]
        raise _refusal(text, problems, [*files.warnings, *doubts]) from None
    if problems:
        raise _refusal(text, [*problems, *files.unusable], [*files.warnings, *doubts])
    faults = faults_in(config)
    unavailable = [*files.unusable, *_unsaid(faults, files.unusable)]
    exposed = exposed_secrets(path, document)
    doubts += [*files.warnings, *warnings_about(config), *exposed]
    warnings = in_file_order(text, [*unavailable, *doubts])
    return LoadedConfig(
        config=attrs.evolve(config, faults=faults, in_use=models_in_use(document, config)),
        warnings=warnings,
        unavailable=tuple(problem for problem in warnings if problem in unavailable),
        path=path,
        as_written=config.router,
        digest=digest,
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


def _refusal(text: str, problems: list[Problem], doubts: list[Problem]) -> ConfigError:
    """Return the error of a file that has *problems*.

    What has a problem inside is not also doubted: the one may be the reason for the other.
    """
    other = [
        doubt
        for doubt in doubts
        if not doubt.path
        or all(problem.path[: len(doubt.path)] != doubt.path for problem in problems)
    ]
    return ConfigError(in_file_order(text, problems), in_file_order(text, other))
