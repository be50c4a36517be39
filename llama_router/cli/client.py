"""Finds the running router, and sends requests to its admin API."""

from __future__ import annotations

import functools
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, ParamSpec

import attrs

from ..admin_token import AdminTokenFileError, read_token
from ..config.file import read_file
from ..config.locations import NO_HOME, default_config_path, state_dir_for
from ..errors.base import RouterError
from ..errors.config import ConfigError
from ..files import Unseen, absolute, look
from ..runtime_file import FILE, RuntimeFile, read, runtime_path
from .http_client import httpx
from .options import Connection
from .printing import print_message

P = ParamSpec("P")

#: The environment variable for the admin token, e.g. of a router on another machine.
TOKEN_VARIABLE: Final = "LLAMA_ROUTER_ADMIN_TOKEN"  # noqa: S105 -- a name, not a secret

#: The runtime directory of the system service.
_SYSTEM_RUNTIME: Final = Path("/run/llama-router")

#: The scheme of the URL of a router that listens on a UNIX socket; its path follows.
_UNIX_SCHEME: Final = "unix:"

#: Time limit for a connection, in seconds. Responses have none: a load may take minutes.
_CONNECT_S: Final = 5.0

#: Addresses that a router may listen on but is not asked by, and those to ask it by.
_LOCAL: Final = {"http://0.0.0.0": "http://127.0.0.1", "http://[::]": "http://[::1]"}


class NoRouterError(RouterError):
    """No running router was found, or it does not answer."""

    code = "router_not_found"


class CommandError(RouterError):
    """The arguments of the command are incomplete, or do not fit together."""

    code = "command_wrong"


class RefusedByRouterError(RouterError):
    """The router answered with an error."""

    code = "router_refused"


@attrs.frozen
class Token:
    """An admin token, and the file or variable that it was read from."""

    value: str = attrs.field(repr=False)
    source: str


class AdminClient:
    """A blocking HTTP client of one router's admin API.

    Args:
        url: The router's base URL.
        token: The admin token.
        renew: Reads the token again. A reload may have changed it after *token* was read.
    """

    def __init__(self, url: str, token: Token, *, renew: Callable[[], Token] | None = None) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._renew = renew
        is_unix = self.url.startswith(_UNIX_SCHEME)
        path = self.url.removeprefix(_UNIX_SCHEME)
        # An abstract socket name is written with "@"; for the kernel it begins with a zero byte.
        uds = f"\0{path[1:]}" if path.startswith("@") else path
        self._http = httpx.Client(
            base_url="http://localhost" if is_unix else _local_url(self.url),
            transport=httpx.HTTPTransport(uds=uds) if is_unix else None,
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str) -> Any:  # noqa: ANN401 -- JSON
        """Return the decoded response to a GET of *path*.

        Raises:
            RefusedByRouterError: if the response is an error; has the router's message.
            NoRouterError: if there is no response.
        """
        return self._request("GET", path, None)

    def post(self, path: str, document: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401 -- JSON
        """Return the decoded response to a POST of *document*; raises the errors of `get`."""
        return self._request("POST", path, document or {})

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[str]]:
        """Return the lines of the response to a GET of *path*, as they arrive; see `get`."""
        with self._translated_errors():
            response = self._send("GET", path, None, stream=True)
            try:
                if response.is_error:
                    response.read()
                    raise self._error_of(response)
                yield response.iter_lines()
            finally:
                response.close()

    def _request(self, method: str, path: str, document: object) -> Any:  # noqa: ANN401 -- JSON
        with self._translated_errors():
            response = self._send(method, path, document if method != "GET" else None)
        if response.is_error and response.status_code != 422:
            raise self._error_of(response)
        return response.json()

    def _send(
        self, method: str, path: str, document: object, *, stream: bool = False
    ) -> httpx.Response:
        """Send a request; if the token has changed meanwhile, send it again with the new one."""
        while True:
            headers = {"authorization": f"Bearer {self._token.value}"}
            request = self._http.build_request(method, path, json=document, headers=headers)
            response = self._http.send(request, stream=stream)
            if response.status_code != HTTPStatus.UNAUTHORIZED or self._renew is None:
                return response
            renewed, self._renew = self._renew(), None
            if renewed == self._token:
                return response
            response.close()
            self._token = renewed

    def _error_of(self, response: httpx.Response) -> RefusedByRouterError:
        """Return the error that *response* reports."""
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"status {response.status_code}"
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            message += (
                f"; the one that was sent is from {self._token.source}. If the token was changed "
                "in a configuration that has errors, the former token is still in force"
            )
        return RefusedByRouterError(message)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise NoRouterError(f"the router at {self.url} does not answer: {exc}") from exc


def _local_url(url: str) -> str:
    """Return *url* with an address of this machine in place of every address."""
    for listening, local in _LOCAL.items():
        rest = url.removeprefix(listening)
        if rest != url and rest[:1] in ("", ":", "/"):
            return local + rest
    return url


@contextmanager
def connected(connection: Connection) -> Iterator[AdminClient]:
    """Find the router, and return a client that is closed after the block.

    Raises:
        NoRouterError: if no router is running, or it is not found.
        RouterError: if its token cannot be read.
    """
    if connection.url is not None:
        client = AdminClient(connection.url, _token(connection, None))
    else:
        found = find_router(connection, os.environ)
        client = AdminClient(
            found.urls[0],
            _token(connection, found),
            renew=lambda: _token(connection, find_router(connection, os.environ)),
        )
    try:
        yield client
    finally:
        client.close()


def find_router(connection: Connection, environ: Mapping[str, str]) -> RuntimeFile:
    """Return the runtime file of the running router.

    Raises:
        NoRouterError: if there is none.
    """
    candidates = list(_runtime_paths(connection, environ))
    for candidate in candidates:
        if (found := read(candidate)) is not None:
            return found
    searched = ", ".join(map(_with_fault, candidates)) or f"nothing, because {NO_HOME}"
    raise NoRouterError(
        f"no running router was found (looked for {searched}); start one with "
        "'llama-router serve', or give --url and --token-file"
    )


def _with_fault(path: Path) -> str:
    """Return *path*, with the reason if it cannot be accessed."""
    found = look(path)
    if not isinstance(found, Unseen) or found.is_missing:
        return str(path)
    return f"{path}, which cannot be accessed: {found.reason}"


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


def _token(connection: Connection, found: RuntimeFile | None) -> Token:
    if connection.token_file is not None:
        return Token(read_token(connection.token_file, any_kind=True), str(connection.token_file))
    if token := os.environ.get(TOKEN_VARIABLE):
        return Token(token, f"${TOKEN_VARIABLE}")
    if found is None:
        raise NoRouterError(f"--url needs --token-file, or the token in ${TOKEN_VARIABLE}")
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


def reporting_failures(command: Callable[P, int]) -> Callable[P, int]:
    """Return *command*, so that it prints a `RouterError` and returns its exit status."""

    @functools.wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except RouterError as exc:
            print_message(f"error: {exc}")
            return 2 if isinstance(exc, CommandError) else 1

    return reporting
