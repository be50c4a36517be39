"""Errors of backends: at their start, at an unexpected end, in an exchange."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from .base import RouterError
from .causes import PERMANENT_CAUSES

_QUOTED_CHARACTERS: Final = 300


def quoted(lines: Sequence[str]) -> str:
    """Return *lines* of output as part of a sentence; long lines are cut off.

    An error goes to each client and into the log. The log of the model has the whole line.
    """
    return " | ".join(
        line if len(line) <= _QUOTED_CHARACTERS else f"{line[:_QUOTED_CHARACTERS]}…"
        for line in lines
    )


class BackendError(RouterError):
    """A backend process failed; no other backend is affected.

    Attributes:
        retryable: Whether starting the same command again soon may help.
        cause: Why its process ended, as a value of `errors.causes.Cause`; None if it
            did not end by itself.
        holders: Which models and programs held the memory that it ran out of, as the end of a
            sentence; empty if that is not the cause, or not known.
    """

    code = "backend_unavailable"
    status = HTTPStatus.SERVICE_UNAVAILABLE
    retryable: bool = True
    cause: str | None = None
    holders: str = ""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}; {self.holders}" if self.holders else message

    @property
    def permanent(self) -> bool:
        """True if another start fails too, until a person mends the cause."""
        return self.cause in PERMANENT_CAUSES


def first_error(group: BaseExceptionGroup[BackendError]) -> BackendError:
    """Return the first leaf of *group*."""
    leaf: BaseException = group
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    assert isinstance(leaf, BackendError)
    return leaf


class SpawnError(BackendError):
    """The process could not be created."""

    code = "backend_spawn_failed"
    retryable = False


class FileMissingError(SpawnError):
    """A file of the model is missing or cannot be used.

    Attributes:
        path: The file.
        kind: Its kind, a `FileKind`.
    """

    code = "model_file_missing"

    def __init__(
        self, model: str, path: str, reason: str = "is not there", kind: str = "model"
    ) -> None:
        super().__init__(
            f"the file {path} of model {model!r} {reason}; the model can be used again as soon "
            "as that is mended"
        )
        self.cause = "command_missing" if kind == "program" else "file_missing"
        self.path = path
        self.kind = kind


class PortTakenError(BackendError):
    """Another process listens on the port of the backend."""

    code = "backend_port_taken"
    retryable = False
    cause: str | None = "port_in_use"


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
        """Describe the end of the process, and its cause if that is known.

        Args:
            model: The model.
            returncode: See above.
            log_tail: See above.
            cause: See `BackendError`.
            reason: The cause as part of a sentence; empty if unknown.
            evidence: Lines of output that show the cause; quoted instead of the last ones.
        """
        how = (
            f"was killed by signal {-returncode}"
            if returncode < 0
            else (f"exited with code {returncode}")
        )
        why = f": {reason}" if reason else ""
        if evidence and reason and all(reason in line for line in evidence):
            output = ""  # it is quoted already
        elif evidence:
            output = f"; its output says: {quoted(evidence)}"
        elif log_tail:
            output = f"; its last output: {quoted(log_tail)}"
        else:
            output = "; it printed nothing" if reason else " without any output"
        super().__init__(f"the backend of model {model!r} {how}{why}{output}")
        self.model = model
        self.returncode = returncode
        self.log_tail = log_tail
        self.cause = cause


class ModelUnloadedError(BackendError):
    """The backend was stopped while a connection to it only listened, and so did not keep it."""

    code = "model_unloaded"


class BackendUnreapableError(BackendError):
    """The process still exists after SIGKILL (uninterruptible sleep)."""

    code = "backend_unreapable"


class BackendFailedError(BackendError):
    """The backend failed too often; it is not started again before a cool-down ends."""

    code = "backend_failed"


class BackendHungError(BackendError):
    """The process ran, but neither served requests nor answered its health check any more."""

    code = "backend_hung"


class ServiceDownError(BackendError):
    """The service that serves the model, which the router did not start, does not serve now."""

    code = "service_down"


class UpstreamError(RouterError):
    """The backend was ready, but the exchange with it failed."""

    code = "upstream_failed"
    status = HTTPStatus.BAD_GATEWAY


class UpstreamTimeoutError(UpstreamError):
    """The backend was silent for longer than ``read_timeout_s``."""

    code = "upstream_timeout"
    status = HTTPStatus.GATEWAY_TIMEOUT
