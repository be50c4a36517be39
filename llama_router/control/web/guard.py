"""Access to the control plane: each route says what it gives access to, or needs the token.

By route and never by path: ``//admin/x`` and a whole URI lead to ``/admin/x``, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, TypeVar, cast

import msgspec
from quart import Quart, Response, g, request
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody

from ...core.access.gate import Caller, Gate, Scope, check_says_json
from ...core.requests.routes import is_ollama
from ...errors.access import ModelNotAllowedError
from ...errors.requests import RequestError
from .connection import BreakableBody, Counted

View = TypeVar("View", bound=Callable[..., object])

T = TypeVar("T")

_MARK: Final = "_llama_router_area"

#: Longest body of a request to the control plane, in bytes.
MAX_BODY_BYTES: Final = 1024 * 1024


def open_to(area: Scope) -> Callable[[View], View]:
    """Mark a view: it needs no more than *area* does. Goes below the route's decorator."""

    def mark(view: View) -> View:
        setattr(view, _MARK, area)
        return view

    return mark


def area_of(app: Quart, endpoint: str | None) -> Scope:
    """Return what the view of *endpoint* gives access to; no view has nothing to give."""
    if endpoint is None:
        return Scope.OPEN
    area = getattr(app.view_functions[endpoint], _MARK, Scope.ADMIN)
    assert isinstance(area, Scope)
    return area


def asker() -> Caller:
    """Return whoever sent the current request."""
    found = g.asker
    assert isinstance(found, Caller)
    return found


def install(app: Quart, gate: Gate, max_body_bytes: Callable[[], int]) -> None:
    """Check every request before its view sees it, and say to browsers who may read what.

    Args:
        app: What is to be guarded.
        gate: Who decides.
        max_body_bytes: Returns how long a request for a model may be.
    """
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    class BoundedRequest(TrioRequest):
        body_class: type[TrioBody] = BreakableBody

        def __init__(self, method: str, scheme: str, path: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- Quart passes them
            if is_ollama(path):
                kwargs["max_content_length"] = max_body_bytes()
            super().__init__(method, scheme, path, *args, **kwargs)

    app.request_class = BoundedRequest

    @app.before_request
    async def check_access() -> Response | None:
        fields = _fields()
        if request.method == "OPTIONS":
            answer = gate.preflight_fields(fields)
            if answer is not None:
                return Response(b"", HTTPStatus.NO_CONTENT, headers=_as_text(answer))
        g.asker = gate.check(area_of(app, request.endpoint), request.method.encode(), fields)
        return None

    @app.after_request
    async def tell_browsers(response: Response) -> Response:
        if "access-control-allow-origin" not in response.headers:
            response.headers.extend(_as_text(gate.cors_fields(_fields())))
        response.headers["x-content-type-options"] = "nosniff"
        return response


def check(gate: Gate, area: Scope) -> None:
    """Check the current request once more, for a view whose area depends on the settings.

    Raises:
        AccessError: if it may not.
    """
    gate.check(area, request.method.encode(), _fields())


def check_unlimited() -> None:
    """Refuse whoever may use some models only: what is here is everybody's.

    Raises:
        ModelNotAllowedError: if that is so.
    """
    if asker().models is not None:
        raise ModelNotAllowedError(
            f"the API key {asker().name!r} is for some models only, and may not fetch or delete any"
        )


def _fields() -> list[tuple[bytes, bytes]]:
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in request.headers
        # Hypercorn gives a request of HTTP/1.0, which may have none, an empty one.
        if value or name.lower() != "host" or request.http_version != "1.0"
    ]


def _as_text(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}


async def raw_body() -> bytes:
    """Return the body of the current request as it came.

    Raises:
        BodiesFullError: if there was no room for it beside those of other requests.
    """
    data = await request.get_data(as_text=False)
    Counted.check(cast("dict[str, Any]", request.scope))
    assert isinstance(data, bytes)
    return data


async def json_body(shape: type[T]) -> T:
    """Return the body of the current request as *shape*; an empty one counts as ``{}``.

    Raises:
        MediaTypeError: if it does not say that it is JSON; see `check_says_json`.
        RequestError: if it is not, or not of that shape.
    """
    data = await raw_body()
    if data:
        check_says_json(_fields(), data)
    try:
        return msgspec.json.decode(data or b"{}", type=shape)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise RequestError(f"the body cannot be used: {exc}") from exc


def answer(shape: object, status: int = HTTPStatus.OK) -> Response:
    """Return *shape* as JSON."""
    return Response(msgspec.json.encode(shape), status, content_type="application/json")
