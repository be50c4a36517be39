"""HTTP clients of a running router: of its admin API, and what others share."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final, ParamSpec

from ..errors.base import RouterError
from ..http_library import httpx
from .failures import CommandError, NoRouterError, RefusedByRouterError, without_output
from .printing import print_error
from .router_search import Connection, Token, admin_token, find_router
from .suggestions import names_of, suggestion

P = ParamSpec("P")

#: The scheme of the URL of a router that listens on a UNIX socket; its path follows.
_UNIX_SCHEME: Final = "unix:"

#: The state of the router and its models, without the configuration.
STATUS: Final = "/admin/status?configuration=0"

#: Time limit for a connection, in seconds. Responses have none: a load may take minutes.
_CONNECT_S: Final = 5.0

_TIMEOUT: Final = httpx.Timeout(None, connect=_CONNECT_S)

#: As many connections as there are requests; all are kept.
_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=None)

#: Addresses that a router may listen on but is not asked by, and those to ask it by.
_LOCAL: Final = {"http://0.0.0.0": "http://127.0.0.1", "http://[::]": "http://[::1]"}


def open_http(url: str) -> httpx.Client:
    """Return a client for the router at *url*; ``unix:PATH`` is a UNIX socket."""
    uds = _socket_of(url)
    return httpx.Client(
        base_url="http://localhost" if uds else _local_url(url),
        transport=httpx.HTTPTransport(uds=uds) if uds else None,
        timeout=_TIMEOUT,
        trust_env=False,
    )


def open_http_for_trio(url: str, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """Return a client for the router at *url*, with *headers* in each request; see `open_http`."""
    uds = _socket_of(url)
    return httpx.AsyncClient(
        base_url="http://localhost" if uds else _local_url(url),
        transport=httpx.AsyncHTTPTransport(uds=uds, limits=_LIMITS) if uds else None,
        limits=_LIMITS,
        timeout=_TIMEOUT,
        trust_env=False,
        headers=headers,
    )


def _socket_of(url: str) -> str | None:
    """Return the UNIX socket that *url* names, or None."""
    if not url.startswith(_UNIX_SCHEME):
        return None
    path = url.removeprefix(_UNIX_SCHEME)
    # An abstract socket name is written with "@"; for the kernel it begins with a zero byte.
    return f"\0{path[1:]}" if path.startswith("@") else path


def _local_url(url: str) -> str:
    """Return *url* with an address of this machine in place of every address."""
    for listening, local in _LOCAL.items():
        rest = url.removeprefix(listening)
        if rest != url and rest[:1] in ("", ":", "/"):
            return local + rest
    return url


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
        self._http = open_http(self.url)

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

    def asynchronous(self) -> httpx.AsyncClient:
        """Return a client of the same router for Trio, with the token in each request."""
        return open_http_for_trio(self.url, {"authorization": f"Bearer {self._token.value}"})

    async def post_from(
        self, http: httpx.AsyncClient, path: str, document: Mapping[str, object]
    ) -> Any:  # noqa: ANN401 -- JSON
        """Return the answer to a POST by *http* (see `asynchronous`); raises as `get`."""
        with self._translated_errors():
            response = await http.post(path, json=document)
        if response.is_error:
            raise self._error_of(response)
        return response.json()

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

    def suggest(self, error: RefusedByRouterError, name: str) -> None:
        """Add to *error* which model may be meant by *name*, if none has that name."""
        if error.kind == "model_not_found" and not error.cure:
            error.cure = suggestion(name, names_of(self.get(STATUS)["models"]))

    def _error_of(self, response: httpx.Response) -> RefusedByRouterError:
        """Return the error that *response* reports."""
        error = refusal_of(response)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            error.cure = (
                f"the one that was sent is from {self._token.source}; if the token was changed in "
                "a configuration that has errors, the former token is still in force"
            )
        return error

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        with translated_errors(self.url):
            yield


def refusal_of(response: httpx.Response) -> RefusedByRouterError:
    """Return the error that *response*, which was read, reports."""
    try:
        error = response.json()["error"]
        message, kind = str(error["message"]), str(error.get("code"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return RefusedByRouterError(
            f"the router answered with status {response.status_code}",
            details=response.text.splitlines()[:1],
        )
    sentence, output = without_output(message)
    return RefusedByRouterError(sentence, details=output, kind=kind)


@contextmanager
def translated_errors(url: str) -> Iterator[None]:
    """Raise `NoRouterError` for errors of the connection to the router at *url*."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise NoRouterError(
            f"the router at {url} does not answer",
            cure="'llama-router status' says whether it runs, 'llama-router serve' starts it",
            details=[str(exc)],
        ) from exc


@contextmanager
def connected(connection: Connection) -> Iterator[AdminClient]:
    """Find the router, and return a client that is closed after the block.

    Raises:
        NoRouterError: if no router is running, or it is not found.
        RouterError: if its token cannot be read.
    """
    if connection.url is not None:
        client = AdminClient(connection.url, admin_token(connection, None))
    else:
        found = find_router(connection, os.environ)
        client = AdminClient(
            found.urls[0],
            admin_token(connection, found),
            renew=lambda: admin_token(connection, find_router(connection, os.environ)),
        )
    try:
        yield client
    finally:
        client.close()


def reporting_failures(command: Callable[P, int]) -> Callable[P, int]:
    """Return *command*, so that it prints a `RouterError` and returns its exit status."""

    @functools.wraps(command)
    def reporting(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except RouterError as exc:
            print_error(exc)
            return 2 if isinstance(exc, CommandError) else 1

    return reporting


async def events_of(http: httpx.AsyncClient) -> AsyncGenerator[tuple[str, Any]]:
    """Yield kind and data of the events of a router, as they come (see `AdminClient.asynchronous`).

    Raises:
        httpx.HTTPError: if the connection fails.
        ValueError: if an event's data is not JSON.
    """
    kind = ""
    async with http.stream("GET", "/admin/events") as response:
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)
