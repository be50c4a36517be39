"""Access to the control plane: a view needs the admin token unless `open_to` marks it.

The mark belongs to the view and not to the path, because several spellings of a path
(``//admin/x``, an absolute URI) lead to one view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, Final, TypeVar, cast

import msgspec
from quart import Blueprint, Quart, Response, g, request
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody

from ...core.access.browsers import check_media_type
from ...core.access.caller import Caller
from ...core.access.gate import Gate, Scope
from ...core.apis.registry import APIS
from ...errors.access import AccessError, AdminTokenError
from ...errors.requests import RequestError
from ...files.json_text import encode_shown
from ...process.peer_user import user_of_peer
from ...threads import in_thread
from .connection import BudgetedBody, FailableBody

View = TypeVar("View", bound=Callable[..., object])

T = TypeVar("T")

_MARK: Final = "_llama_router_scope"

#: The attribute of a view that may be switched off: what refuses a request then.
_SWITCH: Final = "_llama_router_switch"

#: Longest body of a request to the control plane, in bytes.
MAX_BODY_BYTES: Final = 1024 * 1024


class DashboardElsewhereError(RequestError):
    """The dashboard was asked for at the origin of pages of backends."""

    code = "dashboard_elsewhere"
    status = HTTPStatus.NOT_FOUND


def open_to(
    scope: Scope, *, refuse_if_off: Callable[[], None] | None = None
) -> Callable[[View], View]:
    """Mark a view as needing access to *scope* only. Stands below the route's decorator.

    *refuse_if_off* raises if the view is switched off, before the sender is asked for a secret.
    """

    def mark(view: View) -> View:
        setattr(view, _MARK, scope)
        setattr(view, _SWITCH, refuse_if_off)
        return view

    return mark


def scope_of(app: Quart, endpoint: str | None) -> Scope:
    """Return the scope that the view of *endpoint* needs; without a view none is needed."""
    if endpoint is None:
        return Scope.OPEN
    scope = getattr(app.view_functions[endpoint], _MARK, Scope.ADMIN)
    assert isinstance(scope, Scope)
    return scope


def _refuse_if_off(app: Quart, endpoint: str | None) -> None:
    """Refuse a request for a view that is switched off."""
    if endpoint is not None:
        refuse: Callable[[], None] | None = getattr(app.view_functions[endpoint], _SWITCH, None)
        if refuse is not None:
            refuse()


def caller() -> Caller:
    """Return the caller of the current request."""
    found = g.caller
    assert isinstance(found, Caller)
    return found


def install(app: Quart, gate: Gate, max_body_bytes: Callable[[], int]) -> None:
    """Check every request before its view runs, and add the fields of CORS to every response.

    Args:
        app: The application to guard.
        gate: Decides on access.
        max_body_bytes: Returns the largest body of a request to a model, in bytes.
    """
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    class BoundedRequest(TrioRequest):
        body_class: type[TrioBody] = FailableBody

        def __init__(self, method: str, scheme: str, path: str, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- Quart passes them
            if APIS.is_served_by_router(path):
                kwargs["max_content_length"] = max_body_bytes()
            super().__init__(method, scheme, path, *args, **kwargs)

    app.request_class = BoundedRequest

    @app.before_request
    async def check_access() -> Response | None:
        fields = header_fields()
        if request.method == "OPTIONS":
            answer = gate.preflight_fields(fields)
            if answer is not None:
                return Response(b"", HTTPStatus.NO_CONTENT, headers=_as_text(answer))
        _refuse_if_off(app, request.endpoint)
        scope = scope_of(app, request.endpoint)
        g.caller = gate.check(scope, request.method.encode(), fields)
        if "cookie" in request.headers:
            await _check_user(gate, scope, fields)
        return None

    @app.after_request
    async def add_browser_fields(response: Response) -> Response:
        if "access-control-allow-origin" not in response.headers:
            response.headers.extend(_as_text(gate.cors_fields(header_fields())))
        response.headers["x-content-type-options"] = "nosniff"
        return response


def keep_from_pages(routes: Blueprint, gate: Gate) -> None:
    """Answer *routes* with 404 at the origin of pages of backends, where nobody signs in."""

    @routes.before_request
    async def check_place() -> None:
        if gate.is_for_pages(header_fields()):
            raise DashboardElsewhereError(
                "this address is for pages of backends (see router.pages_origin): open the "
                "dashboard at another address of the router"
            )


async def _check_user(gate: Gate, scope: Scope, fields: list[tuple[bytes, bytes]]) -> None:
    """Refuse a session of another user of this machine.

    Browsers send a cookie to every port of a host: a server of another user on this machine may
    have got it.

    Raises:
        AdminTokenError: if the session that admits the request belongs to another user.
    """
    session = gate.deciding_session(scope, fields)
    if session is None or session.uid is None or await user_of_client() == session.uid:
        return
    raise AdminTokenError("the session belongs to another user of this machine: sign in")


async def user_of_client() -> int | None:
    """Return the user of this machine that sent the current request; None if it is not known."""
    scope = cast("dict[str, Any]", request.scope)
    here, there = scope.get("server"), scope.get("client")
    if not here or not there or None in (here[1], there[1]):  # a UNIX socket
        return None
    # Thousands of connections take longer than other requests should wait.
    return await in_thread(user_of_peer, tuple(here[:2]), tuple(there[:2]), abandon_on_cancel=True)


def check(gate: Gate, scope: Scope) -> None:
    """Check the current request again, for a view with a scope that depends on it.

    Raises:
        AccessError: if it may not.
    """
    gate.check(scope, request.method.encode(), header_fields())


def still_allowed(gate: Gate) -> Callable[[], bool]:
    """Return a function that says whether the current request would be let in now, too.

    For answers without an end: the secret that admitted it, or the session, may have ended.
    """
    method, fields = request.method.encode(), header_fields()

    def allowed() -> bool:
        try:
            gate.check(Scope.ADMIN, method, fields)
        except AccessError:
            return False
        return True

    return allowed


def check_load(gate: Gate) -> None:
    """Refuse a read that changes something, if a hidden page may have sent it.

    Raises:
        OriginNotAllowedError: see `Gate.check_load`.
    """
    gate.check_load(request.method.encode(), header_fields())


def may_change(gate: Gate) -> bool:
    """Return whether the sender of the current request may load and unload models."""
    return gate.may_change(request.method.encode(), header_fields())


def check_unrestricted() -> None:
    """Refuse a caller that may use some models only; files on the disk belong to all callers.

    Raises:
        ModelNotAllowedError: if the caller's API key is for some models only.
    """
    caller().check_unrestricted()


def header_fields() -> list[tuple[bytes, bytes]]:
    """Return the header fields of the current request, names in lower case."""
    return [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in request.headers
        # A request of HTTP/1.0 may have no Host; Hypercorn then adds an empty one.
        if value or name.lower() != "host" or request.http_version != "1.0"
    ]


def _as_text(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}


async def raw_body() -> bytes:
    """Return the body of the current request.

    Raises:
        BodiesFullError: if the budget of all bodies had no room for it.
    """
    data = await request.get_data(as_text=False)
    BudgetedBody.check(cast("dict[str, Any]", request.scope))
    assert isinstance(data, bytes)
    return data


async def json_body(schema: type[T]) -> T:
    """Return the body of the current request as a *schema*; an empty body counts as ``{}``.

    Raises:
        MediaTypeError: if its ``Content-Type`` is not JSON; see `check_media_type`.
        RequestError: if it is not JSON, or does not fit *schema*.
    """
    data = await raw_body()
    if data:
        check_media_type(header_fields(), data)
    try:
        return msgspec.json.decode(data or b"{}", type=schema)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise RequestError(f"the body cannot be used: {exc}") from exc


def answer(value: object, status: int = HTTPStatus.OK) -> Response:
    """Return a response with *value* as JSON."""
    return Response(encode_shown(value), status, content_type="application/json")
