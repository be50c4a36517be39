"""What a method and a path ask for. Pure.

The data plane asks here before it reads a body; what is not its own goes to the
control plane.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import parse_qs, unquote

import attrs

#: What a monitoring system looks at. Watching never loads a model.
OBSERVED: Final = ("/health", "/props", "/slots")

#: Paths that the control plane answers itself, whatever backends may serve there.
OLLAMA_PATHS: Final = frozenset(
    f"/api/{name}"
    for name in (
        *("chat", "generate", "embed", "embeddings", "tags", "ps", "show", "version", "pull"),
        *("create", "copy", "delete", "push"),
    )
)
"""Ollama's own paths; another one below ``/api/`` may be a backend's."""

_CONTROL_EXACT: Final = frozenset({"/", "/v1/models", "/models"}) | OLLAMA_PATHS
_CONTROL_PREFIX: Final = ("/admin/", "/v1/models/", "/models/")

#: Decisions that are remembered: clients ask for the same few paths again and again.
_REMEMBERED: Final = 1024

#: Longest path that is remembered, in bytes, so that nobody can fill the memory with them.
_REMEMBERED_BYTES: Final = 256

_WITH_BODY: Final = frozenset((b"POST", b"PUT", b"PATCH"))
#: What ``autoload`` says if a model may be loaded; anything else means that it may not.
#: Source: llama.cpp, tools/server (router mode).
_YES: Final = ("true", "1")

_PROXIED: Final = _WITH_BODY | {b"GET", b"HEAD", b"DELETE"}


@attrs.frozen
class ByBody:
    """Proxied to the model that the body names.

    Attributes:
        autoload: Whether it is loaded if need be; else it must be running.
    """

    autoload: bool = True


@attrs.frozen
class ByQuery:
    """Proxied to the model of ``?model=``, which is loaded if need be."""

    model: str


@attrs.frozen
class Observe:
    """Proxied to a running model as it is; never loads one.

    Attributes:
        model: Which one; None for the last spawned one.
        path: The path that its backend sees.
    """

    model: str | None
    path: str


@attrs.frozen
class Control:
    """Answered by the control plane."""


Route: TypeAlias = ByBody | ByQuery | Observe | Control


def route(method: bytes, path: bytes, query: bytes) -> Route:
    """Decide who answers.

    Args:
        method: As received, e.g. ``b"POST"``.
        path: Path of the request target, still percent-encoded.
        query: Its query without the question mark.
    """
    if not query and len(path) <= _REMEMBERED_BYTES:
        return _remembered_route(method, path)
    return _route(method, path, query)


def _route(method: bytes, path: bytes, query: bytes) -> Route:
    plain = _decoded(path)
    if _is_control(plain) or method not in _PROXIED:
        return Control()
    values = parse_qs(query.decode("ascii", "replace"), errors="replace") if query else {}
    autoload = values.get("autoload", ["true"])[0] in _YES
    if method in _WITH_BODY:
        return ByBody(autoload)
    if model := values.get("model"):
        return ByQuery(model[0]) if autoload else Observe(model[0], plain)
    if plain == "/props" and "autoload" in values:
        return Control()
    if method != b"DELETE":
        for observed in OBSERVED:
            if plain.endswith(observed):
                return Observe(plain[1 : -len(observed)] or None, observed)
    return Control()


@lru_cache(maxsize=_REMEMBERED)
def _remembered_route(method: bytes, path: bytes) -> Route:
    return _route(method, path, b"")


def _decoded(path: bytes) -> str:
    return unquote(path.decode("ascii", "replace"), errors="replace")


def _is_control(path: str) -> bool:
    # "//admin/x" is looked up as "/admin/x" by the control plane: never let it pass as ours.
    path = "/" + path.lstrip("/")
    return path in _CONTROL_EXACT or path.startswith(_CONTROL_PREFIX)


def allowed(path: bytes, proxy_endpoints: tuple[str, ...]) -> bool:
    """Say whether *path* begins with one of *proxy_endpoints*; an empty list allows all.

    A path with a ``..`` in it is never allowed where a list is given: a backend that
    resolves it would serve what the list keeps out.

    Args:
        path: Path of the request target, still percent-encoded.
        proxy_endpoints: Prefixes.
    """
    if not proxy_endpoints:
        return True
    if len(path) <= _REMEMBERED_BYTES:
        return _remembered_allowed(path, proxy_endpoints)
    return _allowed(path, proxy_endpoints)


@lru_cache(maxsize=_REMEMBERED)
def _remembered_allowed(path: bytes, proxy_endpoints: tuple[str, ...]) -> bool:
    return _allowed(path, proxy_endpoints)


def _allowed(path: bytes, proxy_endpoints: tuple[str, ...]) -> bool:
    plain = _decoded(path)
    return plain.startswith(proxy_endpoints) and ".." not in plain.split("/")
