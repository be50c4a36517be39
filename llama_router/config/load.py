"""``router.toml`` as a configuration that can be used, or everything that is wrong with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import attrs

from ..core.config.overlay import Found
from ..core.config.parse import parse_config
from ..core.config.router_spec import RouterSpec
from ..core.config.whole import Config
from ..errors.config import ConfigError, Problem
from .file import decoded, parse, read
from .merging import parse_over
from .paths import NamedFiles
from .toml_lines import in_file_order
from .warnings import exposed_secrets, warnings_about


@attrs.frozen(kw_only=True)
class LoadedConfig:
    """A configuration that can be used.

    Attributes:
        config: Every file in it is an absolute path.
        warnings: What does not prevent its use, in the order of the file.
        path: Where it was read from, absolute.
        as_written: ``[router]`` as the file has it, whatever the command line overrides.
        digest: SHA-256 of the file.
    """

    config: Config
    warnings: tuple[Problem, ...]
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
        optional: No file is the same as an empty one.
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
    if data is None:
        data = b"" if optional and not path.exists() else read(path)
    digest = hashlib.sha256(data).digest()
    try:
        return _checked(path, decoded(data), digest, found, running=running)
    except ConfigError as exc:
        exc.digest = digest
        raise


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
        raise _refusal(text, [*problems, *exc.problems], [*files.warnings, *doubts]) from None
    if problems:
        raise _refusal(text, problems, [*files.warnings, *doubts])
    exposed = exposed_secrets(path, document)
    warnings = in_file_order(text, [*files.warnings, *doubts, *warnings_about(config), *exposed])
    return LoadedConfig(
        config=config, warnings=warnings, path=path, as_written=config.router, digest=digest
    )


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
