"""Clients of a router for streams and for several requests at once, with httpx."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Final

from ..http_library import httpx
from . import plain_http
from .plain_http import CONNECT_S, local_url, socket_of

_TIMEOUT: Final = httpx.Timeout(None, connect=CONNECT_S)

#: As many connections as there are requests; all are kept.
_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=None)


def open_http(url: str) -> httpx.Client:
    """Return a client for the router at *url*; ``unix:PATH`` is a UNIX socket."""
    uds = socket_of(url)
    return httpx.Client(
        base_url="http://localhost" if uds else local_url(url),
        transport=httpx.HTTPTransport(uds=uds) if uds else None,
        timeout=_TIMEOUT,
        trust_env=False,
    )


def open_http_for_trio(url: str, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """Return a client for the router at *url*, with *headers* in each request; see `open_http`."""
    uds = socket_of(url)
    return httpx.AsyncClient(
        base_url="http://localhost" if uds else local_url(url),
        transport=httpx.AsyncHTTPTransport(uds=uds, limits=_LIMITS) if uds else None,
        limits=_LIMITS,
        timeout=_TIMEOUT,
        trust_env=False,
        headers=headers,
    )


def translated_errors(url: str) -> AbstractContextManager[None]:
    """Raise `NoRouterError` in the block for errors of a client of the router at *url*."""
    return plain_http.translated_errors(url, (httpx.HTTPError, httpx.InvalidURL))
