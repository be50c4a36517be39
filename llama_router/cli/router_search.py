"""Finds the running router and its admin token, by files; no request is sent."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import attrs

from ..admin_token import FILE as TOKEN_FILE
from ..admin_token import AdminTokenFileError, read_token
from ..config.file import read_file
from ..config.locations import NO_HOME, default_config_path, state_dir_for
from ..errors.config import ConfigError
from ..files import Unseen, absolute, look
from ..runtime_file import FILE, RuntimeFile, read, runtime_path
from .failures import NoRouterError
from .own_routers import own_routers

#: The environment variable for the admin token, e.g. of a router on another machine.
TOKEN_VARIABLE: Final = "LLAMA_ROUTER_ADMIN_TOKEN"  # noqa: S105 -- a name, not a secret

#: The runtime directory of the system service.
_SYSTEM_RUNTIME: Final = Path("/run/llama-router")


class Connection(Protocol):
    """How to find a router; `options.Connection` has the options of it."""

    @property
    def url(self) -> str | None:
        """The router's base URL, if it is given."""

    @property
    def token_file(self) -> Path | None:
        """The file with its admin token, if it is given."""

    @property
    def config(self) -> Path | None:
        """The configuration that it was started with, if it is given."""


@attrs.frozen
class Token:
    """An admin token, and the file or variable that it was read from."""

    value: str = attrs.field(repr=False)
    source: str


def find_router(connection: Connection, environ: Mapping[str, str]) -> RuntimeFile:
    """Return the runtime file of the running router.

    Raises:
        NoRouterError: if there is none, or several could be meant.
    """
    candidates = list(_runtime_paths(connection, environ))
    for candidate in candidates:
        if (found := read(candidate)) is not None:
            return found
    if (elsewhere := _find_elsewhere(connection, candidates, environ)) is not None:
        return elsewhere
    faults = [fault for candidate in candidates if (fault := _fault_of(candidate))]
    searched = ", ".join(map(str, candidates)) or f"nothing, because {NO_HOME}"
    raise NoRouterError(
        "; ".join(("no router was found", *faults)) if faults else "no router is running",
        cure="start one with 'llama-router serve', or name one elsewhere with --url",
        details=[f"looked for {searched}"],
    )


def _find_elsewhere(
    connection: Connection, candidates: list[Path], environ: Mapping[str, str]
) -> RuntimeFile | None:
    """Return the runtime file of the only router that this user runs; None if there is none.

    Raises:
        NoRouterError: if there are several, or it has no runtime file.
    """
    running = own_routers(environ)
    if connection.config is not None:
        running = [router for router in running if router.runtime_path in candidates]
    found = [file for router in running if (file := read(router.runtime_path)) is not None]
    if len(found) == 1:
        return found[0]
    if found:
        raise NoRouterError(
            "several routers are running",
            cure="name one with --config",
            details=[f"pid {file.pid}: --config {file.config}" for file in found],
        )
    if running:
        router = running[0]
        raise NoRouterError(
            f"a router is running, pid {router.pid}, but its file {router.runtime_path} is not "
            "there",
            cure="look for free space on that disk, and restart it; until then, name it with "
            f"--url and --token-file {router.state_dir / TOKEN_FILE}",
        )
    return None


def _fault_of(path: Path) -> str:
    """Return why *path* cannot be accessed, in words; empty if it can, or is not there."""
    found = look(path)
    if not isinstance(found, Unseen) or found.is_missing:
        return ""
    return f"{path} cannot be accessed: {found.reason}"


def _runtime_paths(connection: Connection, environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the possible paths of the runtime file, most specific first, each once."""
    seen: set[Path] = set()
    candidates = [runtime_path(folder, environ) for folder in state_dirs(connection, environ)]
    if connection.config is None:
        candidates.append(_SYSTEM_RUNTIME / FILE)
    for candidate in candidates:
        if candidate not in seen:
            seen.add(candidate)
            yield candidate


def state_dirs(connection: Connection, environ: Mapping[str, str]) -> list[Path]:
    """Return the possible state directories of a router on this machine, likeliest first."""
    configs = [connection.config] if connection.config else default_config_path(environ)
    settings = [_setting(config, "state_dir") for config in configs]
    if connection.config is None:
        settings.append(None)
    folders: list[Path] = []
    for setting in settings:
        with suppress(ConfigError):  # without a home folder there is no default one
            folders.append(state_dir_for(setting, environ))
    return list(dict.fromkeys(folders))


def admin_token(connection: Connection, found: RuntimeFile | None) -> Token:
    """Return the admin token of the router that *connection* names, or that was *found*.

    Raises:
        NoRouterError: if --url names the router, and the token is not given.
        AdminTokenFileError: if its file cannot be read.
    """
    if connection.token_file is not None:
        return Token(read_token(connection.token_file, any_kind=True), str(connection.token_file))
    if token := os.environ.get(TOKEN_VARIABLE):
        return Token(token, f"${TOKEN_VARIABLE}")
    if found is None:
        raise NoRouterError(
            "--url needs the admin token of that router",
            cure=f"give --token-file, or put the token into ${TOKEN_VARIABLE}",
        )
    try:
        return Token(read_token(Path(found.token_file)), found.token_file)
    except AdminTokenFileError:
        # The user may be allowed to read the configuration that sets the token.
        if token := _setting(Path(found.config), "admin_token"):
            return Token(token, found.config)
        raise


def model_id(connection: Connection, environ: Mapping[str, str], name: str) -> str:
    """Return the model with the alias *name* in the configuration; *name* if there is none."""
    for config in [connection.config] if connection.config else default_config_path(environ):
        models = _document(config).get("models")
        for model, table in models.items() if isinstance(models, dict) else ():
            aliases = table.get("aliases") if isinstance(table, dict) else None
            if isinstance(aliases, list) and name in aliases:
                return str(model)
    return name


def models_of(connection: Connection, environ: Mapping[str, str]) -> list[object]:
    """Return the tables of models in the configurations that may be used."""
    configs = [connection.config] if connection.config else default_config_path(environ)
    return [_document(config).get("models") for config in configs]


def models_in(config: Path) -> frozenset[str]:
    """Return the names of the models' tables in *config*; none if it cannot be read."""
    models = _document(config).get("models")
    return frozenset(models) if isinstance(models, dict) else frozenset()


def _setting(config: Path, name: str) -> str | None:
    """Return a string setting of ``[router]`` in *config*; None if it cannot be read."""
    table = _document(config).get("router")
    value = table.get(name) if isinstance(table, dict) else None
    if not isinstance(value, str):
        return None
    if name == "state_dir":
        with suppress(RuntimeError, OSError):  # "~name" of an unknown user, no working directory
            return str(absolute(config).parent / Path(value).expanduser())
        return None
    return value


def _document(config: Path) -> Mapping[str, Any]:
    """Return the document in *config*; an empty one if the file cannot be read."""
    try:
        file = read_file(config)
        text = file.text
    except (ConfigError, ValueError):
        return {}
    try:
        return file.document
    except ConfigError:
        return {"router": _router_settings(text)}


def _router_settings(text: str) -> dict[str, Any]:
    """Return the settings on single valid lines of ``[router]``, in *text* that is not valid TOML.

    The router keeps the last valid configuration in force. After an edit with an error, the
    commands must still find it, e.g. to show the error.
    """
    settings: dict[str, Any] = {}
    table = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            table = line.partition("#")[0].strip()
        elif table == "[router]":
            with suppress(ValueError, RecursionError):
                settings |= tomllib.loads(line)
    return settings
