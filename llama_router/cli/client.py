"""A client of the running router's admin API, for the commands that operate it."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import attrs
import httpx

from ..admin_token import AdminTokenFileError, read_token
from ..config.file import read_file
from ..config.locations import default_config_path, state_dir_for
from ..errors.base import RouterError
from ..errors.config import ConfigError
from ..files import Unseen, look
from ..logs.lines import escape_controls
from ..runtime_file import FILE, RuntimeFile, read, runtime_path

#: The environment variable with the token, for a router on another machine.
TOKEN_VARIABLE: Final = "LLAMA_ROUTER_ADMIN_TOKEN"  # noqa: S105 -- a name, not a secret

#: Where the unit of a system service has its runtime directory.
_SYSTEM_RUNTIME: Final = Path("/run/llama-router")

#: How the URL of a router begins that listens on a UNIX socket; its path follows.
_UNIX: Final = "unix:"

#: Seconds allowed for a connection; answers may take as long as a load does.
_CONNECT_S: Final = 5.0


class NoRouterError(RouterError):
    """No running router was found, or it does not answer."""

    code = "router_not_found"


class CommandError(RouterError):
    """The command line does not say what to do."""

    code = "command_wrong"


class RefusedByRouterError(RouterError):
    """The router answered with an error."""

    code = "router_refused"


@attrs.frozen(kw_only=True)
class Where:
    """How a command was told to find the router.

    Attributes:
        url: Its base URL; None to look for its runtime file.
        token_file: A file with the admin token; None for the usual places.
        config: The configuration that the router was started with; None for the default.
    """

    url: str | None = None
    token_file: Path | None = None
    config: Path | None = None


@attrs.frozen
class Token:
    """An admin token, and where it is from, for people."""

    value: str = attrs.field(repr=False)
    source: str


class AdminClient:
    """Talks to one router. Blocking; for commands.

    Args:
        url: Where it listens.
        token: The admin token.
        renew: Returns the token as it is by now: a reload may have changed it just when it
            was read.
    """

    def __init__(self, url: str, token: Token, *, renew: Callable[[], Token] | None = None) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._renew = renew
        is_path = self.url.startswith(_UNIX)
        path = self.url.removeprefix(_UNIX)
        # An abstract name is written with "@", and begins with a zero byte for the kernel.
        uds = f"\0{path[1:]}" if path.startswith("@") else path
        self._http = httpx.Client(
            base_url="http://localhost" if is_path else self.url,
            transport=httpx.HTTPTransport(uds=uds) if is_path else None,
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str) -> Any:  # noqa: ANN401 -- JSON
        """Return the answer to a GET of *path*, decoded.

        Raises:
            RefusedByRouterError: if it is an error, with the router's own sentence.
            NoRouterError: if there is no answer.
        """
        return self._ask("GET", path, None)

    def post(self, path: str, document: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401 -- JSON
        """Return the answer to a POST of *document*, decoded; see `get` for errors."""
        return self._ask("POST", path, document or {})

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[str]]:
        """Return the lines of the answer to a GET of *path*, as they come; see `get`."""
        with self._translated():
            response = self._send("GET", path, None, stream=True)
            try:
                if response.is_error:
                    response.read()
                    raise self._refusal(response)
                yield response.iter_lines()
            finally:
                response.close()

    def _ask(self, method: str, path: str, document: object) -> Any:  # noqa: ANN401 -- JSON
        with self._translated():
            response = self._send(method, path, document if method != "GET" else None)
        if response.is_error and response.status_code != 422:
            raise self._refusal(response)
        return response.json()

    def _send(
        self, method: str, path: str, document: object, *, stream: bool = False
    ) -> httpx.Response:
        """Send a request; once more if the token was changed just before."""
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

    def _refusal(self, response: httpx.Response) -> RefusedByRouterError:
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"status {response.status_code}"
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            message += (
                f"; the one that was sent is from {self._token.source}. A token that was changed "
                "in a configuration with a mistake does not count yet: the former one does"
            )
        return RefusedByRouterError(message)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise NoRouterError(f"the router at {self.url} does not answer: {exc}") from exc


@contextmanager
def connected(where: Where) -> Iterator[AdminClient]:
    """Find the router and return a client of it.

    Raises:
        NoRouterError: if none is running where it was looked for.
        RouterError: if its token cannot be read.
    """
    if where.url is not None:
        client = AdminClient(where.url, _token(where, None))
    else:
        found = find(where, os.environ)
        client = AdminClient(
            found.urls[0],
            _token(where, found),
            renew=lambda: _token(where, find(where, os.environ)),
        )
    try:
        yield client
    finally:
        client.close()


def find(where: Where, environ: Mapping[str, str]) -> RuntimeFile:
    """Return what the running router says about itself.

    Raises:
        NoRouterError: if none is running.
    """
    places = list(_places(where, environ))
    for place in places:
        if (found := read(place)) is not None:
            return found
    looked = ", ".join(map(_with_fault, places))
    raise NoRouterError(
        f"no running router was found (looked for {looked}); start one with "
        "'llama-router serve', or say --url and --token-file"
    )


def _with_fault(path: Path) -> str:
    """Return *path*, and why it cannot be looked at if that is so."""
    found = look(path)
    if not isinstance(found, Unseen) or found.is_missing:
        return str(path)
    return f"{path}, which cannot be looked at: {found.reason}"


def _places(where: Where, environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield where the runtime file may be, most specific first, each once."""
    seen: set[Path] = set()
    candidates = [runtime_path(folder, environ) for folder in state_dirs(where, environ)]
    if where.config is None:
        candidates.append(_SYSTEM_RUNTIME / FILE)
    for candidate in candidates:
        if candidate not in seen:
            seen.add(candidate)
            yield candidate


def state_dirs(where: Where, environ: Mapping[str, str]) -> list[Path]:
    """Return the state directories that a router on this machine may have, likeliest first."""
    configs = [where.config] if where.config else default_config_path(environ)
    folders = [state_dir_for(_setting(config, "state_dir"), environ) for config in configs]
    if where.config is None:
        folders.append(state_dir_for(None, environ))
    return folders


def _token(where: Where, found: RuntimeFile | None) -> Token:
    if where.token_file is not None:
        return Token(read_token(where.token_file, any_kind=True), str(where.token_file))
    if token := os.environ.get(TOKEN_VARIABLE):
        return Token(token, f"${TOKEN_VARIABLE}")
    if found is None:
        raise NoRouterError(f"--url needs --token-file, or the token in ${TOKEN_VARIABLE}")
    try:
        return Token(read_token(Path(found.token_file)), found.token_file)
    except AdminTokenFileError:
        # Whoever may not read it may perhaps read the configuration that it is from.
        if token := _setting(Path(found.config), "admin_token"):
            return Token(token, found.config)
        raise


def model_id(where: Where, environ: Mapping[str, str], name: str) -> str:
    """Return the model that *name* is an alias of in the configuration, else *name*."""
    for config in [where.config] if where.config else default_config_path(environ):
        models = _document(config).get("models")
        for model, table in models.items() if isinstance(models, dict) else ():
            aliases = table.get("aliases") if isinstance(table, dict) else None
            if isinstance(aliases, list) and name in aliases:
                return str(model)
    return name


def _setting(config: Path, name: str) -> str | None:
    """Return a string of ``[router]`` in *config*; None if there is none to be read."""
    table = _document(config).get("router")
    value = table.get(name) if isinstance(table, dict) else None
    if not isinstance(value, str):
        return None
    if name == "state_dir":
        with suppress(RuntimeError, OSError):  # "~name" of no user, no working directory
            return str(config.absolute().parent / Path(value).expanduser())
        return None
    return value


def _document(config: Path) -> Mapping[str, Any]:
    """Return what is in *config*; nothing if it cannot be read."""
    try:
        file = read_file(config)
        text = file.text
    except (ConfigError, ValueError):
        return {}
    try:
        return file.document
    except ConfigError:
        return {"router": _salvaged(text)}


def _salvaged(text: str) -> dict[str, Any]:
    """Return what single lines of ``[router]`` say in a *text* that is not valid TOML.

    The router goes on with the last good configuration. Whoever has made a mistake asks it
    what is wrong, and must still find it.
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


def say(text: str) -> None:
    """Print a line of the command's output; nothing in it can steer the terminal."""
    print(escape_controls(text), flush=True)  # noqa: T201 -- the command's output


def say_json(document: object) -> None:
    """Print *document* as JSON."""
    print(json.dumps(document, indent=2), flush=True)  # noqa: T201 -- same


def complain(error: RouterError) -> int:
    """Print why a command failed; return its exit status."""
    print(escape_controls(f"error: {error}"), file=sys.stderr)  # noqa: T201 -- same
    return 2 if isinstance(error, CommandError) else 1
