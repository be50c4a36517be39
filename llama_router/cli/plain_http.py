"""Single requests to a router, with the standard library: httpx takes 0.1 s to import.

Also what all clients of a router have in common: its URL, and the errors that it answers.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import attrs

from .failures import NoRouterError, RefusedByRouterError, without_output

#: The scheme of the URL of a router that listens on a UNIX socket; its path follows.
_UNIX_SCHEME: Final = "unix:"

#: Time limit for a connection, in seconds. Responses have none: a load may take minutes.
CONNECT_S: Final = 5.0

#: Addresses that a router may listen on but is not asked by, and those to ask it by.
_LOCAL: Final = {"http://0.0.0.0": "http://127.0.0.1", "http://[::]": "http://[::1]"}

#: What `send` raises, and a reply that is no JSON.
FAILURES: Final = (OSError, HTTPException, ValueError)

_LEAST_ERROR: Final = 400


class Reply(Protocol):
    """A response that was read."""

    @property
    def status_code(self) -> int:
        """Its status."""

    @property
    def text(self) -> str:
        """Its body."""

    def json(self) -> Any:  # noqa: ANN401 -- JSON
        """Return its decoded body; raises ValueError if it is not JSON."""


@attrs.frozen
class PlainReply:
    """A response to `send`."""

    status_code: int
    body: bytes

    @property
    def is_error(self) -> bool:
        """Whether its status is that of an error."""
        return self.status_code >= _LEAST_ERROR

    @property
    def text(self) -> str:
        """Its body."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:  # noqa: ANN401 -- JSON
        """Return its decoded body; raises ValueError if it is not JSON."""
        return json.loads(self.body)


def send(
    url: str, method: str, path: str, document: object, headers: Mapping[str, str]
) -> PlainReply:
    """Send one request to the router at *url*, on a connection of its own; return the response.

    Args:
        url: Its base URL; ``unix:PATH`` is a UNIX socket.
        method: The method.
        path: The path below the base URL, with the query.
        document: The body, as JSON; None for none.
        headers: Further fields.

    Raises:
        OSError: if the connection fails.
        HTTPException: if the response is not HTTP, or is cut off.
        ValueError: if *url* is none.
    """
    body = None if document is None else json.dumps(document).encode()
    fields = {"accept": "*/*", **headers}
    if body is not None:
        fields["content-type"] = "application/json"
    connection, prefix = _open(url)
    with closing(connection):
        connection.request(method, prefix + path, body, fields)
        response = connection.getresponse()
        return PlainReply(response.status, response.read())


def _open(url: str) -> tuple[HTTPConnection, str]:
    """Return a connection to the router at *url*, and the path of that."""
    if (path := socket_of(url)) is not None:
        connection = HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(CONNECT_S)
            connection.sock.connect(path)
        except BaseException:
            connection.close()
            raise
        connection.sock.settimeout(None)
        return connection, ""
    parts = urlsplit(local_url(url))
    if parts.scheme == "https":
        from http.client import HTTPSConnection  # noqa: PLC0415 -- ssl, for a router elsewhere

        kind: type[HTTPConnection] = HTTPSConnection
    elif parts.scheme == "http":
        kind = HTTPConnection
    else:
        raise ValueError("its URL does not begin with http:, https: or unix:")
    if not parts.hostname:
        raise ValueError("its URL has no host")
    connection = kind(parts.hostname, parts.port, timeout=CONNECT_S)
    connection.connect()
    connection.sock.settimeout(None)
    return connection, parts.path.rstrip("/")


def socket_of(url: str) -> str | None:
    """Return the UNIX socket that *url* names, or None."""
    if not url.startswith(_UNIX_SCHEME):
        return None
    path = url.removeprefix(_UNIX_SCHEME)
    # An abstract socket name is written with "@"; for the kernel it begins with a zero byte.
    return f"\0{path[1:]}" if path.startswith("@") else path


def local_url(url: str) -> str:
    """Return *url* with an address of this machine in place of every address."""
    for listening, local in _LOCAL.items():
        rest = url.removeprefix(listening)
        if rest != url and rest[:1] in ("", ":", "/"):
            return local + rest
    return url


def refusal_of(response: Reply) -> RefusedByRouterError:
    """Return the error that *response* reports."""
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
def translated_errors(url: str, kinds: tuple[type[Exception], ...] = FAILURES) -> Iterator[None]:
    """Raise `NoRouterError` for errors of these *kinds*, which a request to *url* may raise."""
    try:
        yield
    except kinds as exc:
        raise NoRouterError(
            f"the router at {url} does not answer",
            cure="'llama-router status' says whether it runs, 'llama-router serve' starts it",
            details=[str(exc)],
        ) from exc
