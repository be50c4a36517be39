"""HTTP clients of a running router: of its admin API, and what others share."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, ParamSpec

from ..errors.base import RouterError
from .failures import CommandError, RefusedByRouterError
from .plain_http import Reply, refusal_of, send, translated_errors
from .printing import print_error
from .router_search import Connection, Token, admin_token, find_router
from .suggestions import names_of, suggestion

if TYPE_CHECKING:
    from ..http_library import httpx

P = ParamSpec("P")

#: The state of the router and its models, without the configuration.
STATUS: Final = "/admin/status?configuration=0"


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
        from .http_clients import open_http_for_trio  # noqa: PLC0415 -- see `plain_http`

        return open_http_for_trio(self.url, self._headers())

    async def post_from(
        self, http: httpx.AsyncClient, path: str, document: Mapping[str, object]
    ) -> Any:  # noqa: ANN401 -- JSON
        """Return the answer to a POST by *http* (see `asynchronous`); raises as `get`."""
        from .http_clients import translated_errors  # noqa: PLC0415 -- see `plain_http`

        with translated_errors(self.url):
            response = await http.post(path, json=document)
        if response.is_error:
            raise self._error_of(response)
        return response.json()

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[str]]:
        """Return the lines of the response to a GET of *path*, as they arrive; see `get`."""
        from .http_clients import open_http, translated_errors  # noqa: PLC0415 -- same

        with translated_errors(self.url), open_http(self.url) as http:
            while True:
                with http.stream("GET", path, headers=self._headers()) as response:
                    if response.status_code == HTTPStatus.UNAUTHORIZED and self._has_renewed():
                        continue
                    if response.is_error:
                        response.read()
                        raise self._error_of(response)
                    yield response.iter_lines()
                    return

    def _request(self, method: str, path: str, document: object) -> Any:  # noqa: ANN401 -- JSON
        with translated_errors(self.url):
            response = send(self.url, method, path, document, self._headers())
            if response.status_code == HTTPStatus.UNAUTHORIZED and self._has_renewed():
                response = send(self.url, method, path, document, self._headers())
        if response.is_error and response.status_code != HTTPStatus.UNPROCESSABLE_ENTITY:
            raise self._error_of(response)
        with translated_errors(self.url):
            return response.json()

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._token.value}"}

    def _has_renewed(self) -> bool:
        """Read the token again, once; return whether it has changed meanwhile."""
        if self._renew is None:
            return False
        renewed, self._renew = self._renew(), None
        if renewed == self._token:
            return False
        self._token = renewed
        return True

    def suggest(self, error: RefusedByRouterError, name: str) -> None:
        """Add to *error* which model may be meant by *name*, if none has that name."""
        if error.kind == "model_not_found" and not error.cure:
            error.cure = suggestion(name, names_of(self.get(STATUS)["models"]))

    def _error_of(self, response: Reply) -> RefusedByRouterError:
        """Return the error that *response* reports."""
        error = refusal_of(response)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            error.cure = (
                f"the one that was sent is from {self._token.source}; if the token was changed in "
                "a configuration that has errors, the former token is still in force"
            )
        return error


@contextmanager
def connected(connection: Connection) -> Iterator[AdminClient]:
    """Find the router, and return a client for the block.

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
    yield client


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
