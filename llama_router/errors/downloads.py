"""Errors of downloads from the hub, and of its cache."""

from __future__ import annotations

from http import HTTPStatus

from .base import RouterError


class DownloadError(RouterError):
    """A model could not be fetched, or the cache cannot be used."""

    code = "download_failed"
    status = HTTPStatus.BAD_GATEWAY


class HubReferenceError(DownloadError):
    """The reference has not the form ``user/repo[:quant]``."""

    code = "hub_reference_invalid"
    status = HTTPStatus.BAD_REQUEST
    type = "invalid_request_error"
    param: str | None = "model"


class RepositoryMissingError(DownloadError):
    """The hub has no such repository, or hides it from this user."""

    code = "hub_repository_missing"
    status = HTTPStatus.NOT_FOUND
    type = "invalid_request_error"
    param: str | None = "model"


class HubFileMissingError(DownloadError):
    """The repository has no model file of that quantization or name."""

    code = "hub_file_missing"
    status = HTTPStatus.NOT_FOUND
    type = "invalid_request_error"
    param: str | None = "model"


class HubAccessError(DownloadError):
    """The repository is gated, and this user has no access."""

    code = "hub_access_denied"
    status = HTTPStatus.FORBIDDEN
    type = "invalid_request_error"


class HubTokenError(DownloadError):
    """The hub rejects the token of this machine."""

    code = "hub_token_rejected"
    status = HTTPStatus.FORBIDDEN
    type = "invalid_request_error"


class HubUnreachableError(DownloadError):
    """The hub did not answer, or only with temporary errors."""

    code = "hub_unreachable"
    status = HTTPStatus.SERVICE_UNAVAILABLE


class HubAnswerError(DownloadError):
    """The hub sent another size or hash than it announced, or an answer that cannot be read."""

    code = "hub_answer_invalid"


class DiskFullError(DownloadError):
    """The disk of the cache is full."""

    code = "disk_full"
    status = HTTPStatus.INSUFFICIENT_STORAGE


class CacheUnusableError(DownloadError):
    """The cache folder cannot be read or written."""

    code = "cache_unusable"
    status = HTTPStatus.INTERNAL_SERVER_ERROR


class ModelInUseError(DownloadError):
    """The configuration uses the model or files of it, so they are not deleted."""

    code = "model_in_use"
    status = HTTPStatus.CONFLICT
    type = "invalid_request_error"
    param: str | None = "model"


class ModelNotCachedError(DownloadError):
    """No model of that name is in the cache."""

    code = "model_not_cached"
    status = HTTPStatus.NOT_FOUND
    type = "invalid_request_error"
    param: str | None = "model"


def download_error(code: str, message: str) -> DownloadError:
    """Return the error of another process by its *code*."""
    kinds: list[type[DownloadError]] = [DownloadError, *DownloadError.__subclasses__()]
    return {kind.code: kind for kind in kinds}.get(code, DownloadError)(message)
