"""Access to the control plane: each route says what it gives access to, or needs the token.

By route and never by path: ``//admin/x`` and a whole URI lead to ``/admin/x``, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from quart import Quart, g, request

from ..core.access import Area, Asker, Gate
from ..errors import MediaTypeError, RequestError

View = TypeVar("View", bound=Callable[..., object])

T = TypeVar("T")

_MARK: Final = "_llama_router_area"

#: Longest body of a request to the control plane, in bytes.
MAX_BODY_BYTES: Final = 1024 * 1024


def open_to(area: Area) -> Callable[[View], View]:
    """Mark a view: it needs no more than *area* does. Goes below the route's decorator."""

    def mark(view: View) -> View:
        setattr(view, _MARK, area)
        return view

    return mark


def area_of(app: Quart, endpoint: str | None) -> Area:
    """Return what the view of *endpoint* gives access to; no view has nothing to give."""
    if endpoint is None:
        return Area.OPEN
    area = getattr(app.view_functions[endpoint], _MARK, Area.ADMIN)
    assert isinstance(area, Area)
    return area


def asker() -> Asker:
    """Return whoever sent the current request."""
    found = g.asker
    assert isinstance(found, Asker)
    return found


def install(app: Quart, gate: Gate) -> None:
    """Check every request before its view sees it."""
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    @app.before_request
    async def check() -> None:
        fields = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in request.headers
        ]
        g.asker = gate.check(area_of(app, request.endpoint), request.method.encode(), fields)


async def json_body(shape: type[T]) -> T:
    """Return the body of the current request as *shape*; an empty one counts as ``{}``.

    Raises:
        MediaTypeError: if it does not say that it is JSON.
        RequestError: if it is not, or not of that shape.
    """
    data = await request.get_data(as_text=False)
    if data and request.mimetype != "application/json":
        raise MediaTypeError("the body must be JSON; send 'Content-Type: application/json'")
    try:
        return msgspec.json.decode(data or b"{}", type=shape)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise RequestError(f"the body cannot be used: {exc}") from exc
