"""Every exception llama-router raises on purpose, each with its HTTP status and code.

* RouterError
  * ConfigError
  * RequestError
    * BodyTooLargeError, HeaderTooLargeError, RequestTimeoutError, RequestCancelledError
    * EndpointNotAllowedError, NoModelRunningError
    * SettingError, ConfigChangedError, RequestNotFoundError
    * AccessError
      * AdminTokenError, ApiKeyError, ModelNotAllowedError
      * HostNotAllowedError, OriginNotAllowedError, MediaTypeError
  * AdmissionError
    * UnknownModelError, QueueFullError, QueueTimeoutError, ShuttingDownError
  * BackendError
    * SpawnError, ReadinessTimeoutError, BackendExitedError, BackendUnreapableError
    * BackendFailedError
  * DownloadError
    * HubReferenceError, RepositoryMissingError, HubFileMissingError
    * HubAccessError, HubTokenError, HubUnreachableError, HubAnswerError
    * DiskFullError, CacheUnusableError, ModelNotCachedError
  * UpstreamError
    * UpstreamTimeoutError
"""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar


class RouterError(Exception):
    """Base class; catching it catches every expected failure, never a bug.

    Attributes:
        code: Stable machine-readable identifier, part of the HTTP contract.
        status: Response status used when the error reaches an HTTP client.
        type: The OpenAI error ``type`` that clients group by.
        param: Name of the request field at fault, if one is.
        retry_after_s: When trying again may help, in seconds; None if it cannot be said.
    """

    code: ClassVar[str] = "router_error"
    status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    type: ClassVar[str] = "server_error"
    param: str | None = None
    retry_after_s: float | None = None


class Problem:
    """One thing that is wrong with a configuration.

    Attributes:
        path: Keys and indexes that lead to the value, e.g. ``("models", "a", "args", 2)``.
        message: What is wrong and what would be right.
        line: 1-based line in the file, or None while it is unknown.
        missing: The file whose absence is the problem, if it is that.
    """

    __slots__ = ("line", "message", "missing", "path")

    def __init__(
        self,
        path: tuple[str | int, ...],
        message: str,
        line: int | None = None,
        *,
        missing: str | None = None,
    ) -> None:
        self.path = path
        self.message = message
        self.line = line
        self.missing = missing

    @property
    def location(self) -> str:
        """Return *path* as it would be written in TOML, e.g. ``models."a b".args[2]``."""
        text = ""
        for key in self.path:
            if isinstance(key, int):
                text += f"[{key}]"
                continue
            bare = key != "" and all(c.isascii() and (c.isalnum() or c in "-_") for c in key)
            text += ("." if text else "") + (key if bare else f'"{key}"')
        return text

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.location}: {self.message}" if self.path else f"{where}{self.message}"

    __repr__ = __str__


class ConfigError(RouterError):
    """``router.toml`` cannot be used; the running configuration is kept.

    Attributes:
        problems: Everything that is wrong, in the order of the file.
        warnings: What else looks wrong.
        digest: SHA-256 of the file, if it could be read.
    """

    code = "config_invalid"

    def __init__(self, problems: tuple[Problem, ...], warnings: tuple[Problem, ...] = ()) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems
        self.warnings = warnings
        self.digest: bytes | None = None


class RequestError(RouterError):
    """The request itself cannot be served, whatever the models do."""

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


class SettingError(RequestError):
    """A setting cannot be written into the configuration file."""

    code = "setting_refused"


class ConfigChangedError(RequestError):
    """Somebody changed the configuration file meanwhile; nothing was written."""

    code = "config_changed"
    status = HTTPStatus.CONFLICT


class RequestNotFoundError(RequestError):
    """No request with this id is waiting or being served."""

    code = "request_not_found"
    status = HTTPStatus.NOT_FOUND


class BodyTooLargeError(RequestError):
    """The body is over ``max_body_mib``."""

    code = "body_too_large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class HeaderTooLargeError(RequestError):
    """Request line and header fields together are over the limit."""

    code = "header_too_large"
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class RequestTimeoutError(RequestError):
    """The client stopped sending in the middle of its request."""

    code = "request_timeout"
    status = HTTPStatus.REQUEST_TIMEOUT


class RequestCancelledError(RequestError):
    """Somebody cancelled the request through the admin API."""

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


class ModelNotLoadedError(RequestError):
    """The model is not loaded, and the request must not load it."""

    code = "model_not_loaded"


class ModelLoadedError(RequestError):
    """A model shall be loaded that already is, or is being loaded."""

    code = "model_loaded"


class ModelExistsError(RequestError):
    """A model shall be fetched that is already here."""

    code = "model_exists"


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


class AdmissionError(RouterError):
    """The request was refused before any backend saw it."""

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


class QueueTimeoutError(AdmissionError):
    """No backend became available within ``max_queue_wait_s``."""

    code = "queue_timeout"


class ShuttingDownError(AdmissionError):
    """The router is stopping and starts nothing new."""

    code = "shutting_down"


class BackendError(RouterError):
    """A backend process failed. Contained: it never crosses into a sibling.

    Attributes:
        retryable: Whether starting the same command again soon may help.
        cause: Why its process ended, as one word of `core.explain.Cause`; None if it did
            not end by itself.
    """

    code = "backend_unavailable"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    retryable: bool = True
    cause: str | None = None

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SpawnError(BackendError):
    """The process could not be created."""

    code = "backend_spawn_failed"
    retryable = False


class FileMissingError(SpawnError):
    """A file of the model is not there (any more).

    Attributes:
        path: The file.
    """

    code = "model_file_missing"

    def __init__(self, model: str, path: str) -> None:
        super().__init__(
            f"the file {path} of model {model!r} is not there; the model can be used again as "
            "soon as it is"
        )
        self.cause = "file_missing"
        self.path = path


class ReadinessTimeoutError(BackendError):
    """The process ran, but did not become ready within its deadline."""

    code = "backend_not_ready"
    retryable = False


class BackendExitedError(BackendError):
    """The process exited on its own.

    Attributes:
        returncode: As in `subprocess.Popen.returncode`: negative means killed
            by that signal.
        log_tail: Its last lines of output, oldest first.
    """

    code = "backend_exited"

    def __init__(
        self,
        model: str,
        returncode: int,
        log_tail: tuple[str, ...] = (),
        *,
        cause: str = "unknown",
        reason: str = "",
        evidence: tuple[str, ...] = (),
    ) -> None:
        """Say how it ended, and why if that is known.

        Args:
            model: Whose backend.
            returncode: See above.
            log_tail: See above.
            cause: See `BackendError`.
            reason: The cause as part of a sentence; empty if it is not known.
            evidence: Lines of its output that say so; quoted instead of the last ones.
        """
        how = (
            f"was killed by signal {-returncode}"
            if returncode < 0
            else (f"exited with code {returncode}")
        )
        why = f": {reason}" if reason else ""
        if evidence:
            said = "; its output says: " + " | ".join(evidence)
        elif log_tail:
            said = "; its last output: " + " | ".join(log_tail)
        else:
            said = "; it printed nothing" if reason else " without any output"
        super().__init__(f"the backend of model {model!r} {how}{why}{said}")
        self.model = model
        self.returncode = returncode
        self.log_tail = log_tail
        self.cause = cause


class BackendUnreapableError(BackendError):
    """SIGKILL was sent and the process is still there (uninterruptible sleep)."""

    code = "backend_unreapable"


class BackendFailedError(BackendError):
    """The model's backend failed too often; it is not tried again until a cool-down is over."""

    code = "backend_failed"


class DownloadError(RouterError):
    """A model could not be fetched from the hub, or its cache not be used."""

    code = "download_failed"
    status = HTTPStatus.BAD_GATEWAY


class HubReferenceError(DownloadError):
    """What was asked for does not read ``user/repo[:quant]``."""

    code = "hub_reference_invalid"
    status = HTTPStatus.BAD_REQUEST
    type = "invalid_request_error"
    param: str | None = "model"


class RepositoryMissingError(DownloadError):
    """The hub has no such repository, or does not show it to this user."""

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
    """The repository is gated, and this user has not been let in."""

    code = "hub_access_denied"
    status = HTTPStatus.FORBIDDEN
    type = "invalid_request_error"


class HubTokenError(DownloadError):
    """The hub does not accept the token that this machine has."""

    code = "hub_token_rejected"
    status = HTTPStatus.FORBIDDEN
    type = "invalid_request_error"


class HubUnreachableError(DownloadError):
    """The hub did not answer, or only with errors that may pass."""

    code = "hub_unreachable"
    status = HTTPStatus.SERVICE_UNAVAILABLE


class HubAnswerError(DownloadError):
    """What the hub sent is not what it announced: another size, another hash, no sense."""

    code = "hub_answer_invalid"


class DiskFullError(DownloadError):
    """The disk of the cache has not enough room."""

    code = "disk_full"
    status = HTTPStatus.INSUFFICIENT_STORAGE


class CacheUnusableError(DownloadError):
    """The cache folder cannot be read or written."""

    code = "cache_unusable"
    status = HTTPStatus.INTERNAL_SERVER_ERROR


class ModelNotCachedError(DownloadError):
    """No model of that name is in the cache."""

    code = "model_not_cached"
    status = HTTPStatus.NOT_FOUND
    type = "invalid_request_error"
    param: str | None = "model"


class UpstreamError(RouterError):
    """The backend was ready, but the exchange with it failed."""

    code = "upstream_failed"
    status = HTTPStatus.BAD_GATEWAY


class UpstreamTimeoutError(UpstreamError):
    """The backend was silent for longer than ``read_timeout_s``."""

    code = "upstream_timeout"
    status = HTTPStatus.GATEWAY_TIMEOUT
