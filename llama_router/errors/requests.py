"""Errors for requests that cannot be served as they are."""

from __future__ import annotations

from http import HTTPStatus

from .base import RouterError


class RequestError(RouterError):
    """The request cannot be served in any state of the models."""

    code = "invalid_request"
    status = HTTPStatus.BAD_REQUEST
    type = "invalid_request_error"

    def __init__(
        self, message: str, *, param: str | None = None, status: HTTPStatus | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        if status is not None:
            self.status = status


class RequestNotFoundError(RequestError):
    """No request with this id is waiting or being served."""

    code = "request_not_found"
    status = HTTPStatus.NOT_FOUND


class BodyTooLargeError(RequestError):
    """The body is over ``max_body_mib``."""

    code = "body_too_large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class BodiesFullError(RequestError):
    """The bodies of other requests use up the memory for all bodies (``max_bodies_mib``)."""

    code = "bodies_full"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "server_error"
    retry_after_s: float | None = 5.0


class HeaderTooLargeError(RequestError):
    """Request line and header fields together are over the limit."""

    code = "header_too_large"
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class RequestTimeoutError(RequestError):
    """The client stopped sending in the middle of its request."""

    code = "request_timeout"
    status = HTTPStatus.REQUEST_TIMEOUT


class RequestCancelledError(RequestError):
    """The request was cancelled: through the admin API, or by its client while it waited."""

    code = "request_cancelled"


class EndpointNotAllowedError(RequestError):
    """The path is outside the model's ``proxy_endpoints``."""

    code = "endpoint_not_allowed"
    status = HTTPStatus.NOT_FOUND


class NoModelRunningError(RequestError):
    """``/health``, ``/props`` or ``/slots`` without a model, and none is running."""

    code = "no_models_running"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "server_error"


class ModelLoadingError(RequestError):
    """The health of the router was requested while the only wanted model loads."""

    code = "model_loading"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    type = "server_error"


class ModelNotLoadedError(RequestError):
    """The model is not loaded, and the request must not load it."""

    code = "model_not_loaded"


class ModelLoadedError(RequestError):
    """The model to load is loaded or being loaded already."""

    code = "model_loaded"


class ModelExistsError(RequestError):
    """The model to fetch is in the cache already."""

    code = "model_exists"
