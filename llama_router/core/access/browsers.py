"""Requests of browsers: the origins of their pages, and signs of a browser. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final, TypeAlias

from ...errors.access import MediaTypeError

Fields: TypeAlias = Iterable[tuple[bytes, bytes]]
"""Header fields: lower-cased name and value."""

#: The ports that browsers leave out of an origin.
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

#: The port at the end of an origin.
_PORT: Final = re.compile(r":[0-9]+\Z")

#: The value of ``cors_origins`` for all origins of this machine; the word is llama.cpp's.
_LOCALHOST: Final = "localhost"
_LOCAL_ORIGIN: Final = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]+)?"
)

#: Header fields that browsers send, and programs do not.
_BROWSER_FIELDS: Final = frozenset((b"origin", b"referer", b"sec-fetch-site", b"sec-fetch-mode"))

#: Media types of JSON from programs that name none: that of curl for everything that it sends
#: with ``-d``, and no type.
_UNNAMED_TYPES: Final = frozenset((b"application/x-www-form-urlencoded", b""))


def check_media_type(fields: Fields, body: bytes) -> None:
    """Refuse a body with another media type than JSON, unless a program left it out.

    Without a preflight, a page of another site can send any bytes, but not with the media type
    of JSON. `Gate.check` refuses such a page already; this is a second wall behind that. So the
    type may be missing only in a request without any sign of a browser, even of an old one.

    Args:
        fields: The header fields of the request.
        body: The body, which is not empty.

    Raises:
        MediaTypeError: if the media type is wrong.
    """
    seen = dict(fields)
    kind = seen.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind == b"application/json":
        return
    browser = is_browser(seen.get(b"user-agent", b""))
    is_unnamed = kind in _UNNAMED_TYPES and body.lstrip()[:1] == b"{"
    if browser or seen.keys() & _BROWSER_FIELDS or not is_unnamed:
        raise MediaTypeError("the body must be JSON; send 'Content-Type: application/json'")


def asks_for_page(method: bytes, fields: Fields) -> bool:
    """Return whether a browser asks for a page: it can ask its user for a password."""
    if method != b"GET":
        return False
    seen = dict(fields)
    mode = seen.get(b"sec-fetch-mode")
    if mode is not None:
        return mode == b"navigate"
    return b"text/html" in seen.get(b"accept", b"")


def is_browser(user_agent: bytes) -> bool:
    """Return whether *user_agent* is that of a browser; PowerShell's begins like one."""
    agent = user_agent.lower()
    return agent.startswith(b"mozilla/") and b"powershell" not in agent


def is_navigation(fields: Fields) -> bool:
    """Return whether a browser asks for a page, for a tab or a frame.

    Over plain HTTP to another machine only the second field says so.
    """
    return any(
        (name == b"sec-fetch-mode" and value == b"navigate") or name == b"upgrade-insecure-requests"
        for name, value in fields
    )


def without_default_port(origin: str) -> str:
    """Return *origin* in lower case, without the port that its scheme implies."""
    origin = origin.lower()
    scheme = origin.partition("://")[0]
    return origin.removesuffix(_DEFAULT_PORTS[scheme]) if scheme in _DEFAULT_PORTS else origin


def is_listed(origin: bytes, listed: Collection[str]) -> bool:
    """Return whether *origin* is among *listed*, which are values of ``cors_origins``."""
    if "*" in listed:
        return True
    asked = without_default_port(origin.decode("latin-1"))
    if _LOCALHOST in listed and _LOCAL_ORIGIN.fullmatch(asked):
        return True
    return asked in listed or _PORT.sub("", asked) + ":*" in listed


def is_same_origin(origin: bytes, host: bytes) -> bool:
    """Return whether *origin* has the host and port of *host*."""
    scheme, separator, authority = origin.decode("latin-1").lower().partition("://")
    if not separator or scheme not in _DEFAULT_PORTS:
        return False
    default = _DEFAULT_PORTS[scheme]
    ours = host.decode("latin-1").lower()
    return authority.removesuffix(default) == ours.removesuffix(default)
