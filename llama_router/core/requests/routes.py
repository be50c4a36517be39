"""What a method and a path ask for. Pure.

The data plane asks here before it reads a body; what is not its own goes to the
control plane.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import parse_qs, unquote

import attrs

from ..apis.endpoints import methods_of

#: What a monitoring system looks at. Watching never loads a model.
OBSERVED: Final = ("/health", "/props", "/slots", "/lora-adapters")

#: Paths that the control plane answers itself, whatever backends may serve there.
OLLAMA_PATHS: Final = frozenset(
    f"/api/{name}"
    for name in (
        *("chat", "generate", "embed", "embeddings", "tags", "ps", "show", "version", "pull"),
        *("create", "copy", "delete", "push"),
    )
)
"""Ollama's own paths; another one below ``/api/`` may be a backend's."""

#: Parts of models that ``/api/create`` would be made of.
_OLLAMA_PREFIX: Final = "/api/blobs/"

_CONTROL_EXACT: Final = OLLAMA_PATHS | {
    *("/", "/v1/models", "/models"),
    *("/v1/stream", "/v1/streams/lookup"),  # to whoever keeps the conversation
}
_CONTROL_PREFIX: Final = ("/admin/", "/v1/models/", "/models/", _OLLAMA_PREFIX)

#: Decisions that are remembered: clients ask for the same few paths again and again.
_REMEMBERED: Final = 1024

#: Longest path that is remembered, in bytes, so that nobody can fill the memory with them.
_REMEMBERED_BYTES: Final = 256

#: What llama.cpp's UI asks the server itself, with a body that names no model: the default
#: model must not be loaded for it.
_TOOLS: Final = "/tools"

_WITH_BODY: Final = frozenset((b"POST", b"PUT", b"PATCH"))
#: What ``autoload`` says if a model may be loaded; anything else means that it may not.
#: Source: llama.cpp, tools/server (router mode).
_YES: Final = ("true", "1")

_PROXIED: Final = _WITH_BODY | {b"GET", b"HEAD", b"DELETE"}

#: What follows it begins with the name of a model, whose backend sees the rest of the path.
UPSTREAM: Final = b"/upstream/"

#: Most parts of a path, and bytes of it, that are tried as the name of a model.
_NAME_PARTS: Final = 32
_NAME_BYTES: Final = 4096


@attrs.frozen
class ByBody:
    """Proxied to the model that the body names.

    Attributes:
        autoload: Whether it is loaded if need be; else it must be running.
        model: Of ``?model=``: who is meant where the body names none.
    """

    autoload: bool = True
    model: str | None = None


@attrs.frozen
class ByQuery:
    """Proxied to the model of ``?model=``, which is loaded if need be."""

    model: str


@attrs.frozen
class ByPath:
    """Proxied to the model that the path names below `UPSTREAM`, loaded if need be.

    Attributes:
        tail: What follows, still percent-encoded; see `named_in`.
    """

    tail: bytes


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
    """Answered by the control plane.

    Attributes:
        only_preflight: Who answers instead, unless this is a browser that asks whether a
            page may send a request (CORS preflight); None if nobody does.
    """

    only_preflight: ByPath | None = None


#: What a query has in it that `_route` looks at, perhaps percent-encoded.
_MATTERS: Final = re.compile(rb"model|autoload|%")

Route: TypeAlias = ByBody | ByQuery | ByPath | Observe | Control


def route(method: bytes, path: bytes, query: bytes) -> Route:
    """Decide who answers.

    Args:
        method: As received, e.g. ``b"POST"``.
        path: Path of the request target, still percent-encoded.
        query: Its query without the question mark.
    """
    # Few queries matter here: Anthropic's SDK sends ?beta=true, for instance.
    if len(path) <= _REMEMBERED_BYTES and not (query and _MATTERS.search(query)):
        return _remembered_route(method, path)
    return _route(method, path, query)


def _route(method: bytes, path: bytes, query: bytes) -> Route:
    if path.startswith(UPSTREAM) and path != UPSTREAM:
        by_path = ByPath(path[len(UPSTREAM) :])
        return Control(by_path) if method == b"OPTIONS" else by_path
    plain = decoded(path)
    if _is_control(plain) or method not in _PROXIED:
        return Control()
    values = parse_qs(query.decode("ascii", "replace"), errors="replace") if query else {}
    autoload = values.get("autoload", ["true"])[0] in _YES
    model = values.get("model", [None])[0]
    if model is None and (plain == _TOOLS or _is_wrong(method, plain)):
        return Control()
    if method in _WITH_BODY:
        return ByBody(autoload, model)
    if model is not None:
        return ByQuery(model) if autoload else Observe(model, plain)
    of_router = plain == "/props" and "autoload" in values
    return Control() if of_router or method == b"DELETE" else _observed(plain)


def _observed(path: str) -> Route:
    if path == "/v1/health":  # llama-server's other name for it
        return Observe(None, path)
    for observed in OBSERVED:
        if path.endswith(observed):
            return Observe(path[1 : -len(observed)] or None, observed)
    return Control()


def _is_wrong(method: bytes, path: str) -> bool:
    known = methods_of(path)
    return known is not None and method.decode("ascii", "replace") not in known


@lru_cache(maxsize=_REMEMBERED)
def _remembered_route(method: bytes, path: bytes) -> Route:
    return _route(method, path, b"")


@attrs.frozen
class Named:
    """A model in a path.

    Attributes:
        model: Its name, decoded; perhaps nobody's.
        path: What follows it, still percent-encoded: empty, or it begins with ``/``.
    """

    model: str
    path: bytes


def named_in(tail: bytes, find: Callable[[str], object]) -> Named:
    """Return the model that *tail* begins with: the longest name that is known.

    A slash in a name may stand as it is or as ``%2F``. If no beginning is known, what
    stands before the first slash is the name.

    Args:
        tail: What follows `UPSTREAM`, still percent-encoded.
        find: Returns what has a name; None if nothing has it.
    """
    ends: list[int] = []
    end = -1
    while len(ends) < _NAME_PARTS and 0 <= (end := tail.find(b"/", end + 1)) <= _NAME_BYTES:
        ends.append(end)
    if end < 0 and len(tail) <= _NAME_BYTES:
        ends.append(len(tail))
    for end in reversed(ends):
        name = decoded(tail[:end])
        if find(name) is not None:
            return Named(name, tail[end:])
    end = ends[0] if ends else _NAME_BYTES
    return Named(decoded(tail[:end]), tail[end:])


def decoded(path: bytes) -> str:
    """Return *path* without percent-encoding; what is no text becomes U+FFFD."""
    return unquote(path.decode("ascii", "replace"), errors="replace")


def _is_control(path: str) -> bool:
    # "//admin/x" is looked up as "/admin/x" by the control plane: never let it pass as ours.
    path = "/" + path.lstrip("/")
    return path in _CONTROL_EXACT or path.startswith(_CONTROL_PREFIX)


def is_ollama(path: str) -> bool:
    """Say whether *path* belongs to Ollama's API, so that its errors have Ollama's form."""
    return path in OLLAMA_PATHS or path.startswith(_OLLAMA_PREFIX)


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
    plain = decoded(path)
    return plain.startswith(proxy_endpoints) and ".." not in plain.split("/")
