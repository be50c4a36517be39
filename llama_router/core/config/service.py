"""A service that this router did not start: its URL, and how to ask it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import attrs

#: ``http://HOST[:PORT][/PATH]``; HOST may be an IPv6 address in brackets.
_HTTP: Final = re.compile(
    r"http://(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?(?P<path>/[!-~]*)?",
    re.IGNORECASE,
)
_UNIX: Final = re.compile(r"unix:(?P<path>/[^\x00-\x20\x7f]+)")

#: A variable of the router's environment in place of a key.
_VARIABLE: Final = re.compile(r"\$\{env\.([A-Za-z_][A-Za-z0-9_]*)\}")

_HTTP_PORT: Final = 80
_MAX_PORT: Final = 65_535

#: The end that base URLs have for clients of OpenAI's API. The paths of requests have it, too.
_API_PATH: Final = "/v1"

#: The names of a key in requests; a service with a key of its own gets none from clients.
KEY_FIELDS: Final = frozenset((b"authorization", b"x-api-key", b"api-key"))


@attrs.frozen
class ServiceAddress:
    """The parts of a URL.

    Attributes:
        host: Name or address, without brackets; the path of a Unix socket begins with ``/``.
        port: The port; 0 for a Unix socket.
        prefix: Path in front of that of each request; empty for none.
        authority: Host and port, as in the URL.
    """

    host: str
    port: int
    prefix: str
    authority: str

    @property
    def is_path(self) -> bool:
        """Whether it is the path of a Unix socket."""
        return self.host.startswith("/")


@attrs.frozen(kw_only=True)
class Service:
    """A service, and how its health is asked for.

    Attributes:
        url: Its URL, as it was written.
        key: The key that it gets, or the name of a variable with it; None for no key.
        key_file: A file with the key; None for none.
        health_endpoint: Path that it answers with a success while it serves; None for the first
            of `HEALTH_ENDPOINTS` that it knows.
        health_period_s: Seconds between two questions.
    """

    url: str
    key: str | None = attrs.field(default=None, repr=False)
    key_file: str | None = None
    health_endpoint: str | None = None
    health_period_s: float = 5.0

    @property
    def address(self) -> ServiceAddress:
        """Return the parts of its URL."""
        return address_of(self.url)

    @property
    def key_variable(self) -> str | None:
        """Return the name of the variable that has its key; None if no variable has it."""
        found = None if self.key is None else _VARIABLE.fullmatch(self.key)
        return None if found is None else found[1]


#: Where a service is asked for its health if nothing is set: every server that speaks one of the
#: APIs has the second path, and those that load models tell with the first when they serve.
HEALTH_ENDPOINTS: Final = ("/health", "/v1/models")


def address_of(url: str) -> ServiceAddress:
    """Return the parts of *url*, which has no fault.

    A path ``/v1`` at its end is left out: requests have it, too.
    """
    if (unix := _UNIX.fullmatch(url)) is not None:
        return ServiceAddress(unix["path"], 0, "", "localhost")
    found = _HTTP.fullmatch(url)
    assert found is not None, "the URL was checked"
    port = int(found["port"] or _HTTP_PORT)
    prefix = (found["path"] or "").rstrip("/")
    host = found["host"]
    authority = host if port == _HTTP_PORT else f"{host}:{port}"
    return ServiceAddress(host.strip("[]"), port, prefix.removesuffix(_API_PATH), authority)


def url_fault(url: str) -> str | None:
    """Return the fault of the URL of a service; None if it is valid."""
    if url.lower().startswith("https:"):
        return (
            "https is not supported for services: the router speaks plain HTTP to them; "
            "give the address of a TLS proxy on this machine, such as 'http://127.0.0.1:8443'"
        )
    if _UNIX.fullmatch(url) is not None:
        return None
    found = _HTTP.fullmatch(url)
    if found is None or "?" in (found["path"] or "") or "#" in (found["path"] or ""):
        return "must be 'http://HOST:PORT', perhaps with a path, or 'unix:/PATH' of a socket"
    if not 0 < int(found["port"] or _HTTP_PORT) <= _MAX_PORT:
        return f"the port must be from 1 to {_MAX_PORT}"
    return None


def key_fault(key: str) -> str | None:
    """Return the fault of a key for a service; None if it is valid. The key is never quoted."""
    if "${" in key and _VARIABLE.fullmatch(key) is None:
        return "must be the key itself, or '${env.NAME}' for a variable of the router's environment"
    if not key or not all("!" <= character <= "~" for character in key):
        return "must hold only visible ASCII characters, without spaces"
    return None


def is_pattern(name: str) -> bool:
    """Return whether *name* stands for all models of a service that match it: it has a ``*``."""
    return "*" in name


def matching_names(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return those of *names* that a pattern matches, or that are among *patterns*.

    Nothing but ``*`` is special in a pattern.
    """
    words = (".*".join(map(re.escape, pattern.split("*"))) for pattern in patterns)
    matches = re.compile("|".join(words), re.DOTALL).fullmatch
    return [name for name in names if matches(name)]
