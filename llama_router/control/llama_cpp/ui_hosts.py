"""Whose chat UI is served, and to whom. Pure.

A backend that runs llama.cpp's server brings llama.cpp's own web UI with it: a page, and the
files that the page asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import attrs

from ...core.config.names import ModelId

#: Files of the UI: those in its folders, and those of some kinds at the top. Hashes are in the
#: names, and other versions have other names: a list would be wrong tomorrow.
#: No part begins with a dot, so none leads out of a folder.
ASSET: Final = (
    r"(?:_app|recommended-mcp)(?:/[A-Za-z0-9_@+-][A-Za-z0-9_@+.-]*){1,8}"
    r"|[A-Za-z0-9_-][A-Za-z0-9_.-]{0,100}"
    r"\.(?:css|html|ico|js|json|mjs|png|svg|wasm|webmanifest|webp|woff2?)"
)

#: What the server of llama.cpp calls itself. Source: llama.cpp, tools/server/server-http.cpp.
_SERVER: Final = b"llama.cpp"

#: Fields of an answer that reach the browser: what the file is, how long it is good, and
#: what the page is isolated from. All others are between the router and its backend.
PASSED_ON: Final = frozenset(
    (
        b"content-type",
        b"content-encoding",
        b"etag",
        b"last-modified",
        b"cache-control",
        b"content-security-policy",
        b"cross-origin-embedder-policy",
        b"cross-origin-opener-policy",
        b"cross-origin-resource-policy",
        b"service-worker-allowed",
    )
)


#: What may stand in a policy as an origin: nothing in it may end the list.
_FRAMING: Final = re.compile(r"\*|https?://[A-Za-z0-9.*:\[\]_-]+")


class Wants(StrEnum):
    """What somebody who asks for ``/`` wants to have."""

    PAGE = "page"  # a person's browser: the UI, or else the start page
    UI = "ui"  # the UI's own service worker: the UI, and never anything in its place
    DATA = "data"  # a program


def wants(accept: str, fetch_mode: str) -> Wants:
    """Say who asks for ``/``.

    Args:
        accept: The field ``Accept``.
        fetch_mode: The field ``Sec-Fetch-Mode``, which all browsers send and programs do not.
            Source: https://www.w3.org/TR/fetch-metadata/.
    """
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if fetch_mode in ("", "navigate"):
        return Wants.PAGE if "text/html" in kinds else Wants.DATA
    # A service worker fetches the page to keep it, and says that it takes anything.
    return Wants.DATA if "application/json" in kinds else Wants.UI


def is_chat_ui(status: int, server: bytes, content_type: bytes) -> bool:
    """Say whether the answer to ``GET /`` is llama.cpp's UI; others have pages of other kinds.

    Args:
        status: Of the answer; 304 says that the browser has it already.
        server: Its field ``Server``.
        content_type: Its field ``Content-Type``; empty if there is none.
    """
    is_page = content_type.lower().startswith(b"text/html") or (status == 304 and not content_type)
    return status in (200, 304) and server.strip() == _SERVER and is_page


def frame_policy(cors_origins: Iterable[str]) -> str:
    """Return the content security policy that says whose pages may show the UI in a frame.

    Others could make a person click on what they do not see.

    Args:
        cors_origins: Whose pages may use the router.
    """
    listed = [origin for origin in cors_origins if _FRAMING.fullmatch(origin)]
    return " ".join(("frame-ancestors", "'self'", *listed))


@attrs.frozen
class Host:
    """A backend that may have the UI.

    Attributes:
        model: Its model.
        pid: Its process: another one may be another program.
    """

    model: ModelId
    pid: int


class Hosts:
    """Remembers whose UI is served, so that a page and its files come from one backend."""

    def __init__(self) -> None:
        self._chosen: Host | None = None
        self._without: frozenset[Host] = frozenset()

    def candidates(self, ready: Sequence[Host]) -> list[Host]:
        """Return those to ask, in that order: first the one that was chosen before.

        Args:
            ready: Those that are ready, the one started last first.
        """
        self._without &= frozenset(ready)
        found = [host for host in ready if host not in self._without]
        if self._chosen in found:
            found.remove(self._chosen)
            found.insert(0, self._chosen)
        return found

    def has_ui(self, host: Host) -> None:
        """Note that *host* has served the page."""
        self._chosen = host

    def has_none(self, host: Host) -> None:
        """Note that *host* answered, but has no such page: it is not asked again."""
        self._without |= {host}
