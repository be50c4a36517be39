"""The choice of the backend that serves the chat UI, and rules for its files. Pure.

llama-server contains llama.cpp's web UI: a page, and the files that the page loads. The router
has no copy; it serves the files of a running backend.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import attrs

from ...core.config.names import ModelId

#: Paths of the UI's files: everything in its folders, and some file types at the top. A list of
#: names would break with the next version, because the names contain hashes. No part begins with
#: a dot, so no path leaves its folder.
ASSET: Final = (
    r"(?:_app|recommended-mcp)(?:/[A-Za-z0-9_@+-][A-Za-z0-9_@+.-]*){1,8}"
    r"|[A-Za-z0-9_-][A-Za-z0-9_.-]{0,100}"
    r"\.(?:css|html|ico|js|json|mjs|png|svg|wasm|webmanifest|webp|woff2?)"
)

#: llama-server's field ``Server``. Source: llama.cpp, tools/server/server-http.cpp.
_SERVER: Final = b"llama.cpp"

#: Fields of a backend's response that are passed on to the browser: content type, caching, and
#: isolation of the page. All others concern the router only.
PASSED_ON_FIELDS: Final = frozenset(
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


#: Origins that are accepted in a policy; other text could end the list of origins.
_POLICY_ORIGIN: Final = re.compile(r"\*|https?://[A-Za-z0-9.*:\[\]_-]+")


#: The origins of this machine in a policy, which has no IPv6 addresses.
_LOCAL_SOURCES: Final = (
    *("http://localhost:*", "https://localhost:*"),
    *("http://127.0.0.1:*", "https://127.0.0.1:*"),
)


class RootContent(StrEnum):
    """The response to ``GET /`` that a client expects."""

    PAGE = "page"  # a browser tab: a page
    UI = "ui"  # the UI's service worker: the UI only, because it caches the response
    DATA = "data"  # a program: JSON


def root_content(accept: str, fetch_mode: str) -> RootContent:
    """Return the content that the client of ``GET /`` expects.

    Args:
        accept: The field ``Accept``.
        fetch_mode: The field ``Sec-Fetch-Mode``, which all browsers send and other programs do not.
            Source: https://www.w3.org/TR/fetch-metadata/.
    """
    kinds = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    if fetch_mode in ("", "navigate"):
        return RootContent.PAGE if "text/html" in kinds else RootContent.DATA
    # A service worker fetches the page into its cache and accepts any type.
    return RootContent.DATA if "application/json" in kinds else RootContent.UI


def is_chat_ui(status: int, server: bytes, content_type: bytes) -> bool:
    """Return whether a response to ``GET /`` is llama.cpp's UI; other servers have other pages.

    Args:
        status: Its status; with 304 the browser has the page in its cache.
        server: Its field ``Server``.
        content_type: Its field ``Content-Type``; empty if it has none.
    """
    is_page = content_type.lower().startswith(b"text/html") or (status == 304 and not content_type)
    return status in (200, 304) and server.strip() == _SERVER and is_page


def frame_policy(cors_origins: Iterable[str]) -> str:
    """Return a content security policy: only these origins may show the UI in a frame.

    It prevents clickjacking by all other pages.

    Args:
        cors_origins: The origins of pages that may use the router.
    """
    wanted = (
        source
        for origin in cors_origins
        for source in (_LOCAL_SOURCES if origin == "localhost" else (origin,))
    )
    listed = [source for source in wanted if _POLICY_ORIGIN.fullmatch(source)]
    return " ".join(("frame-ancestors", "'self'", *listed))


@attrs.frozen
class UiBackend:
    """A backend that may have a chat UI.

    Attributes:
        model: Its model.
        pid: Its process; the model's next process may be another program.
    """

    model: ModelId
    pid: int


class UiBackends:
    """Remembers the backend that served the UI, so that a page and its files fit together."""

    def __init__(self) -> None:
        self._chosen: UiBackend | None = None
        self._without: frozenset[UiBackend] = frozenset()

    def candidates(self, ready: Sequence[UiBackend]) -> list[UiBackend]:
        """Return the backends to request the UI from, in order: the one that served it last first.

        Args:
            ready: All ready backends, the latest first.
        """
        self._without &= frozenset(ready)
        found = [backend for backend in ready if backend not in self._without]
        if self._chosen in found:
            found.remove(self._chosen)
            found.insert(0, self._chosen)
        return found

    def note_ui(self, backend: UiBackend) -> None:
        """Record that *backend* has served the page."""
        self._chosen = backend

    def note_no_ui(self, backend: UiBackend) -> None:
        """Record that *backend* answered without the page; it gets no more requests for it."""
        self._without |= {backend}
