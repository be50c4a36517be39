"""Requests of somebody who may not."""

from __future__ import annotations

from http import HTTPStatus

from .requests import RequestError


class AccessError(RequestError):
    """Whoever asks may not. Never says which secret would be right."""

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
    """The API key is good, but only for some models, and not to fetch or delete any."""

    code = "model_not_allowed"


class HostNotAllowedError(AccessError):
    """The request was sent to a name that is not the router's: DNS rebinding, perhaps."""

    code = "host_not_allowed"


class OriginNotAllowedError(AccessError):
    """A page of another site made the browser send the request."""

    code = "origin_not_allowed"


class MediaTypeError(AccessError):
    """A change must be JSON and say so: a page of another site cannot."""

    code = "media_type_not_supported"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
