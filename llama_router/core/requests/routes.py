"""Routing: chooses a backend or the control plane, by method, path and query. Pure.

The data plane asks before it reads a body. It hands requests that are not its own to the
control plane.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import parse_qs, unquote

import attrs

from ..apis.registry import APIS, UPSTREAM_PREFIX

#: Paths that monitoring systems read. Read-only requests never load a model.
OBSERVED: Final = ("/health", "/props", "/slots", "/lora-adapters", "/metrics")

#: The path of metrics: those of the router, unless a model is named.
METRICS: Final = "/metrics"

#: Paths that the control plane answers, even if backends serve them, too; those of APIs that
#: the router itself serves come in addition.
_CONTROL_EXACT: Final = {
    *("/", "/v1/models", "/models", "/ui", "/mcp"),
    *("/running", "/unload", "/api/models/unload", "/api/metrics", "/api/events", "/logs"),
    *("/v1/stream", "/v1/streams/lookup"),  # passed to the backend that keeps the conversation
}
#: Paths of the router's own health, for supervisors and load balancers.
LIVENESS: Final = "/livez"
READINESS: Final = "/readyz"

#: The path of health, and llama-server's other name for it.
HEALTH: Final = ("/health", "/v1/health")

_CONTROL_PREFIX: Final = (
    *("/admin/", "/ui/", "/v1/models/", "/models/"),
    *("/api/models/unload/", "/logs/"),  # llama-swap's
)

#: Decisions in the cache: clients send the same few paths again and again.
_CACHE_SIZE: Final = 1024

#: Longest method and path in the cache, in bytes, so that no client can fill the memory with them.
_CACHED_BYTES: Final = 256

#: Path on which llama.cpp's UI asks the server itself, with a body that names no model: the
#: default model must not be loaded for it.
_TOOLS: Final = "/tools"

_WITH_BODY: Final = frozenset((b"POST", b"PUT", b"PATCH"))

#: Values of ``autoload`` that allow a load; any other value forbids it.
#: Source: llama.cpp, tools/server (router mode).
_TRUE: Final = ("true", "1")

_PROXIED: Final = _WITH_BODY | {b"GET", b"HEAD", b"DELETE"}

#: Below this, a path begins with the name of a model, and its backend gets the rest.
UPSTREAM: Final = UPSTREAM_PREFIX.encode()

#: Most segments of a path, and bytes of it, that are tried as the name of a model.
_NAME_SEGMENTS: Final = 32
_NAME_BYTES: Final = 4096


@attrs.frozen
class ByBody:
    """Proxied to the model that the body names; else to the default model.

    Attributes:
        autoload: Whether the model may be loaded; None if the request does not say.
        model: Value of ``?model=``, which counts where the body names no model.
    """

    autoload: bool | None = None
    model: str | None = None


@attrs.frozen
class ByQuery:
    """Proxied to the model of ``?model=``.

    Attributes:
        model: The name of the model.
        autoload: As in `ByBody`; a request that says no is an `Observe`.
    """

    model: str
    autoload: bool | None = None


@attrs.frozen
class ByPath:
    """Proxied to the model that the path names below `UPSTREAM`.

    Attributes:
        tail: The path below it, still percent-encoded; see `split_model`.
        autoload: As in `ByBody`.
    """

    tail: bytes
    autoload: bool | None = None


@attrs.frozen
class Observe:
    """Proxied to a running model; never loads one.

    Attributes:
        model: The model; None for the one that was started last.
        path: Path for its backend, still percent-encoded: decoded, it could end the request line.
    """

    model: str | None
    path: str


@attrs.frozen
class RouterHealth:
    """Answered by the router at once: whether it runs, or whether it is ready for requests.

    Attributes:
        readiness: The question is whether it is ready.
    """

    readiness: bool


@attrs.frozen
class Control:
    """Answered by the control plane.

    Attributes:
        only_preflight: Route of the request unless it is a CORS preflight; None if the
            control plane answers in any case.
    """

    only_preflight: ByPath | None = None


#: Parts of a query that `_route` reads; any of it may be percent-encoded.
_RELEVANT_QUERY: Final = re.compile(rb"model|autoload|%")

#: Routes of the data plane.
DataRoute: TypeAlias = ByBody | ByQuery | ByPath | Observe | RouterHealth

Route: TypeAlias = DataRoute | Control


def route(method: bytes, path: bytes, query: bytes) -> Route:
    """Return the route of a request.

    Args:
        method: As received, e.g. ``b"POST"``.
        path: Path of the request target, still percent-encoded.
        query: Its query without the question mark.
    """
    # Few queries are relevant here: Anthropic's SDK sends ?beta=true, for instance.
    if len(method) + len(path) <= _CACHED_BYTES and not (query and _RELEVANT_QUERY.search(query)):
        return _cached_route(method, path)
    return _route(method, path, query)


def _route(method: bytes, path: bytes, query: bytes) -> Route:
    if path.startswith(UPSTREAM) and path != UPSTREAM:
        by_path = ByPath(path[len(UPSTREAM) :], autoload_of(_values_of(query)))
        return Control(by_path) if method == b"OPTIONS" else by_path
    plain = decoded(path)
    if _is_control(plain) or method not in _PROXIED:
        return Control()
    values = _values_of(query)
    autoload = autoload_of(values)
    model = values.get("model", [None])[0]
    if model is None and (plain == _TOOLS or _is_wrong_method(method, plain)):
        return Control()
    if method in _WITH_BODY:
        return ByBody(autoload, model)
    if model is not None:
        look = Observe(model, path.decode("ascii", "replace"))
        return look if autoload is False else ByQuery(model, autoload)
    of_router = plain == "/props" and "autoload" in values
    return Control() if of_router or method == b"DELETE" else _read(plain, autoload=autoload)


def _values_of(query: bytes) -> dict[str, list[str]]:
    return parse_qs(query.decode("ascii", "replace"), errors="replace") if query else {}


def autoload_of(values: Mapping[str, Sequence[str]]) -> bool | None:
    """Return what the query of a request says about loading; None if it says nothing."""
    said = values.get("autoload")
    return None if said is None else said[0] in _TRUE


def may_load(*, requested: bool | None, configured: bool, may_change: bool) -> bool:
    """Return whether a model may be loaded for a request.

    Args:
        requested: What the request says about it, see `autoload_of`.
        configured: The setting of the model.
        may_change: The client may load models by request, so it may do so in this way.
    """
    if requested is None or (requested and not may_change):
        return configured
    return requested


def _read(path: str, *, autoload: bool | None) -> Route:
    """Return the route of a read that names no model, unless its path does."""
    if path in (LIVENESS, READINESS):
        return RouterHealth(readiness=path == READINESS)
    if path in HEALTH:
        return Observe(None, path)
    if path == METRICS:
        return Control()
    for observed in OBSERVED:
        if path.endswith(observed):
            return Observe(path[1 : -len(observed)] or None, observed)
    return Control() if APIS.api_with_path(path) is None else ByBody(autoload)


def _is_wrong_method(method: bytes, path: str) -> bool:
    methods = APIS.methods_of(path)
    return methods is not None and method.decode("ascii", "replace") not in methods


@lru_cache(maxsize=_CACHE_SIZE)
def _cached_route(method: bytes, path: bytes) -> Route:
    return _route(method, path, b"")


@attrs.frozen
class ModelPath:
    """A path that begins with the name of a model.

    Attributes:
        model: The name, decoded; perhaps that of no model.
        path: The rest, still percent-encoded: empty, or it begins with ``/``.
    """

    model: str
    path: bytes


def split_model(tail: bytes, find: Callable[[str], object]) -> ModelPath:
    """Return *tail*, split behind the longest beginning that names a model.

    A slash in a name may be written as it is or as ``%2F``. If no beginning names a model,
    *tail* is split at its first slash.

    Args:
        tail: The path below `UPSTREAM`, still percent-encoded.
        find: Returns the model of a name; None if there is none.
    """
    ends: list[int] = []
    end = -1
    while len(ends) < _NAME_SEGMENTS and 0 <= (end := tail.find(b"/", end + 1)) <= _NAME_BYTES:
        ends.append(end)
    if end < 0 and len(tail) <= _NAME_BYTES:
        ends.append(len(tail))
    for end in reversed(ends):
        name = decoded(tail[:end])
        if find(name) is not None:
            return ModelPath(name, tail[end:])
    end = ends[0] if ends else _NAME_BYTES
    return ModelPath(decoded(tail[:end]), tail[end:])


def decoded(path: bytes) -> str:
    """Return *path* without percent-encoding; bytes that are not UTF-8 become U+FFFD."""
    return unquote(path.decode("ascii", "replace"), errors="replace")


def _is_control(path: str) -> bool:
    # The control plane looks "//admin/x" up as "/admin/x": such a path is never proxied.
    path = "/" + path.lstrip("/")
    if path in _CONTROL_EXACT or path.startswith(_CONTROL_PREFIX):
        return True
    return APIS.is_served_by_router(path)


def allowed(path: bytes, proxy_endpoints: tuple[str, ...]) -> bool:
    """Return whether *path* begins with one of *proxy_endpoints*; an empty list allows all.

    A path with a segment ``..`` is never allowed by a list that is not empty: a backend that
    resolves it would serve what the list excludes.

    Args:
        path: Path of the request target, still percent-encoded.
        proxy_endpoints: Prefixes.
    """
    if not proxy_endpoints:
        return True
    if len(path) <= _CACHED_BYTES:
        return _cached_allowed(path, proxy_endpoints)
    return _allowed(path, proxy_endpoints)


@lru_cache(maxsize=_CACHE_SIZE)
def _cached_allowed(path: bytes, proxy_endpoints: tuple[str, ...]) -> bool:
    return _allowed(path, proxy_endpoints)


def _allowed(path: bytes, proxy_endpoints: tuple[str, ...]) -> bool:
    plain = decoded(path)
    return plain.startswith(proxy_endpoints) and ".." not in plain.split("/")
