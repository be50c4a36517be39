"""The control plane: a Quart-Trio application for the requests that the router itself answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from quart import Blueprint, Response, g, request
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import MapAdapter

from ...core.apis.errors import error_headers
from ...core.apis.event_stream import NOT_BUFFERED
from ...core.apis.registry import APIS
from ...errors.access import AccessError
from ...errors.base import RouterError
from ...errors.requests import BodyTooLargeError, RequestError
from ...logs.events import log
from ...logs.request_ids import new_request_id
from ..admin import (
    activity,
    configuration,
    downloads,
    events,
    hub,
    logs,
    plans,
    router_log,
    settings,
    timeline,
)
from ..admin import routes as admin
from ..llama_cpp import listing, streams, ui
from ..llama_cpp import routes as models_api
from ..llama_swap import logs as llama_swap_logs
from ..llama_swap import routes as llama_swap
from ..mcp import routes as mcp
from ..metrics import routes as metrics
from ..ollama import routes as ollama
from ..ollama import store
from ..ui import routes as dashboard
from ..ui import session as dashboard_session
from . import guard
from .connection import CLIENT_LEFT, connection_class
from .context import ControlContext

#: Media types of responses that are sent as they come about, and must not be collected by a
#: proxy; whole ones are harmless.
_STREAMED: Final = frozenset(("text/event-stream", "application/x-ndjson"))


class RouteNotFoundError(RequestError):
    """Neither plane has an endpoint with this path."""

    code = "not_found"
    status = HTTPStatus.NOT_FOUND


class MethodNotAllowedError(RequestError):
    """The endpoint does not take this method."""

    code = "method_not_allowed"
    status = HTTPStatus.METHOD_NOT_ALLOWED


class InternalError(RouterError):
    """A bug; its details are in the log only."""

    code = "internal_error"


BLUEPRINTS: Final[tuple[Callable[[ControlContext], Blueprint], ...]] = (
    listing.blueprint,
    models_api.blueprint,
    streams.blueprint,
    admin.blueprint,
    plans.blueprint,
    settings.blueprint,
    configuration.blueprint,
    events.blueprint,
    activity.blueprint,
    timeline.blueprint,
    downloads.blueprint,
    hub.blueprint,
    logs.blueprint,
    router_log.blueprint,
    mcp.blueprint,
    ollama.blueprint,
    store.blueprint,
    dashboard_session.blueprint,
    dashboard.blueprint,
    metrics.blueprint,
    llama_swap.blueprint,
    llama_swap_logs.blueprint,
    ui.blueprint,
)
"""One function per module of routes; see `context`."""


def _add_stream_field(response: Response) -> None:
    """Tell proxies to pass a stream on as it comes."""
    if response.mimetype in _STREAMED:
        name, value = NOT_BUFFERED
        response.headers.setdefault(name.decode(), value.decode())


class _HostlessApp(QuartTrio):
    """Routes requests by path only; the gate checks the host.

    On a host such as ``a..b`` Werkzeug would raise before any error handler is in place.
    """

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        if request is None:
            return super().create_url_adapter(request)
        return self.url_map.bind(
            "localhost",
            script_name=request.root_path,
            url_scheme=request.scheme,
            default_method=request.method,
            path_info=request.path,
            query_args=request.query_string.decode("ascii"),
        )


def _hidden(error: Exception) -> Response:
    """Return the response to an error that must not be shown to clients."""
    if isinstance(error, CLIENT_LEFT):
        return _error_response(RequestError("the client disconnected before its request ended"))
    refusal = InternalError("the router failed to answer; its log says why")
    response = _error_response(refusal)
    log.error("control.crashed", exc_info=error, request_id=g.get("request_id"))
    return response


def build_app(context: ControlContext) -> QuartTrio:
    """Return the application that serves *context*."""
    app = _HostlessApp("llama_router")
    app.asgi_http_class = connection_class(
        context.bodies, lambda: context.dispatcher.config.router.max_bodies_mib * 2**20
    )
    app.config["RESPONSE_TIMEOUT"] = None  # Quart's time limit would cut a long response
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the order of the schemas: id first
    # No redirects: their target would have the host that the client named.
    app.url_map.merge_slashes = False
    app.url_map.redirect_defaults = False
    dispatcher = context.dispatcher
    guard.install(app, context.gate, lambda: dispatcher.config.router.max_body_mib * 2**20)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint(context))

    @app.errorhandler(RouterError)
    async def refuse(error: RouterError) -> Response:
        response = _error_response(error)
        if isinstance(error, AccessError):
            log.info(
                "control.refused",
                method=request.method,
                path=request.path,
                code=error.code,
                status=int(error.status),
                request_id=g.get("request_id"),
            )
        return response

    @app.errorhandler(HTTPException)
    async def refuse_http(error: HTTPException) -> Response:
        if error.code == HTTPStatus.NOT_FOUND and (methods := APIS.methods_of(request.path)):
            return _wrong_method(methods)
        if error.code == HTTPStatus.METHOD_NOT_ALLOWED:
            valid = error.valid_methods if isinstance(error, MethodNotAllowed) else None
            return _wrong_method(APIS.methods_of(request.path) or valid or ())
        return _error_response(_translated(error))

    @app.errorhandler(Exception)
    async def hide(error: Exception) -> Response:
        return _hidden(error)

    @app.after_request
    async def close(response: Response) -> Response:
        # The control plane serves one request per connection.
        response.headers["connection"] = "close"
        _add_stream_field(response)
        name = APIS.api_of(request.path).request_id_header
        if name is not None and name.decode() not in response.headers:
            response.headers[name.decode()] = g.request_id = new_request_id()
        log.debug(
            "control.answered",
            method=request.method,
            path=request.path,
            status=response.status_code,
            request_id=g.get("request_id"),
        )
        return response

    return app


def _wrong_method(valid: Iterable[str]) -> Response:
    methods = ", ".join(sorted(valid))
    response = _error_response(
        MethodNotAllowedError(f"this endpoint does not take {request.method}, but {methods}")
    )
    response.headers["allow"] = methods  # RFC 9110, section 15.5.6
    return response


def _translated(error: HTTPException) -> RouterError:
    """Return an error of Quart or Werkzeug as a router error with advice."""
    match error.code:
        case HTTPStatus.NOT_FOUND if request.path.startswith("/admin/"):
            return RouteNotFoundError(
                "there is no such endpoint of the admin API; GET /admin/openapi.json, with the "
                "admin token, lists all of them"
            )
        case HTTPStatus.NOT_FOUND:
            return RouteNotFoundError(
                "there is no such endpoint; models answer under /v1/, /health, /props and "
                "/slots, and GET /v1/models lists them; a request without a body, or a "
                "WebSocket, names its model as ?model=NAME"
            )
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            limit_mib = (request.max_content_length or 0) // 2**20
            setting = " (max_body_mib)" if APIS.is_served_by_router(request.path) else ""
            return BodyTooLargeError(f"the request body is over {limit_mib} MiB{setting}")
        case _:
            status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
            return RequestError(error.description or status.phrase, status=status)


def _error_response(error: RouterError) -> Response:
    api, request_id = APIS.api_of(request.path), new_request_id()
    if api.request_id_header is not None:
        g.request_id = request_id
    response = Response(api.error_body(error, request_id), error.status)
    for name, value in (*error_headers(error), *api.request_id_fields(request_id)):
        response.headers[name.decode()] = value.decode()
    return response
