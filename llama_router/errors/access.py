"""Errors for requests that lack permission."""

from __future__ import annotations

from http import HTTPStatus

from .requests import RequestError


class AccessError(RequestError):
    """The request lacks permission. The message never contains the right secret."""

    code = "access_denied"
    status = HTTPStatus.FORBIDDEN


class AdminTokenError(AccessError):
    """The admin token is missing or wrong."""

    code = "invalid_admin_token"
    status = HTTPStatus.UNAUTHORIZED


class ApiKeyError(AccessError):
    """The API key is missing or unknown."""

    code = "invalid_api_key"
    status = HTTPStatus.UNAUTHORIZED


class ModelNotAllowedError(AccessError):
    """The API key is valid, but only to use some models, and not to fetch or delete any."""

    code = "model_not_allowed"


class HostNotAllowedError(AccessError):
    """``Host`` is not a name of the router; perhaps DNS rebinding."""

    code = "host_not_allowed"


class OriginNotAllowedError(AccessError):
    """A page of another site made the browser send the request."""

    code = "origin_not_allowed"


class MetricsOffError(AccessError):
    """The configuration says that there are no metrics."""

    code = "metrics_off"
    status = HTTPStatus.NOT_FOUND


class MediaTypeError(AccessError):
    """The body of a change has not the media type of JSON.

    A page of another site cannot send that without a preflight.
    """

    code = "media_type_not_supported"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
