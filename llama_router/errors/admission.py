"""Errors for requests that were refused before any backend got them."""

from __future__ import annotations

from http import HTTPStatus

from .base import RouterError


class AdmissionError(RouterError):
    """The request was refused before any backend got it."""

    code = "admission_refused"
    status = HTTPStatus.SERVICE_UNAVAILABLE

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnknownModelError(AdmissionError):
    """No configured model or alias has that name."""

    code = "model_not_found"
    status = HTTPStatus.NOT_FOUND
    type = "invalid_request_error"
    param: str | None = "model"


class QueueFullError(AdmissionError):
    """The model's queue is at ``max_queued``; the client should back off."""

    code = "queue_full"
    status = HTTPStatus.TOO_MANY_REQUESTS
    type = "rate_limit_error"


class ModelTooLargeError(AdmissionError):
    """The model needs more memory than models may take on this machine."""

    code = "model_too_large"


class NoMemoryError(AdmissionError):
    """The model has no place: models with ``keep_loaded`` hold it, or its devices are gone."""

    code = "no_memory"


class QueueTimeoutError(AdmissionError):
    """No backend became available within ``max_queue_wait_s``."""

    code = "queue_timeout"


class ShuttingDownError(AdmissionError):
    """The router is stopping and starts nothing new."""

    code = "shutting_down"
