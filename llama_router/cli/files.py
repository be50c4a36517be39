"""``check`` and ``init``: the configuration file as such."""

from __future__ import annotations

import os
import sys
from importlib import resources
from pathlib import Path

from ..config_file import LoadedConfig, default_config_path, load_config
from ..core.lines import escape_controls
from ..errors import ConfigError, Problem


def find_config(given: Path | None) -> Path:
    """Return the configuration file to use: *given*, or the first default that exists.

    Raises:
        ConfigError: if none is given and none exists.
    """
    if given is not None:
        return given
    candidates = default_config_path(os.environ)
    for candidate in candidates:
        if candidate.exists():
            return candidate
    places = " nor ".join(str(c) for c in candidates)
    message = (
        f"there is no configuration: neither {places} exists; "
        "'llama-router init' writes a documented example"
    )
    raise ConfigError((Problem((), message),))


def load_or_explain(given: Path | None) -> LoadedConfig | None:
    """Load the configuration; on failure say everything that is wrong, on standard error."""
    path = given
    try:
        path = find_config(given)
        loaded = load_config(path)
    except ConfigError as exc:
        for problem in exc.problems:
            say(path, problem, "error")
        return None
    for warning in loaded.warnings:
        say(path, warning, "warning")
    return loaded


def say(path: Path | None, problem: Problem, severity: str) -> None:
    """Print *problem* on standard error."""
    # The form that editors and CI systems recognise: file:line: severity: message
    line = "" if problem.line is None else f":{problem.line}"
    where = f"{path}{line}: " if path is not None else ""
    what = f"{problem.location}: {problem.message}" if problem.path else problem.message
    print(escape_controls(f"{where}{severity}: {what}"), file=sys.stderr)  # noqa: T201 -- the command's output


def check(file: Path | None) -> int:
    """Print what is wrong with *file*; return the exit status."""
    loaded = load_or_explain(file)
    if loaded is None:
        return 1
    models = len(loaded.config.models)
    print(f"{loaded.path}: ok, {models} model{'' if models == 1 else 's'}")  # noqa: T201 -- same
    return 0


def example_config() -> bytes:
    """Return the documented example, as it is in the package or beside it."""
    packaged = resources.files("llama_router.cli").joinpath("router.toml")
    if packaged.is_file():
        return packaged.read_bytes()
    # An editable installation: the example is at the top of the repository.
    return Path(__file__).parents[2].joinpath("router.toml").read_bytes()


def init(file: Path) -> int:
    """Write the example to *file*; return the exit status."""
    try:
        with file.open("xb") as new:
            new.write(example_config())
    except FileExistsError:
        print(f"{file} exists already and was not touched", file=sys.stderr)  # noqa: T201 -- same
        return 1
    except OSError as exc:
        print(f"cannot write {file}: {exc.strerror}", file=sys.stderr)  # noqa: T201 -- same
        return 1
    print(f"wrote {file}; edit it, then run: llama-router serve --config {file}")  # noqa: T201 -- same
    return 0
