"""Backends that did not start, did not last, or did not answer."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from .base import RouterError

_QUOTED_CHARACTERS: Final = 300


def quoted(lines: Sequence[str]) -> str:
    """Return *lines* of output as part of a sentence; only the beginning of a very long one.

    An error goes to each client and into the log. The whole line is in the model's own log.
    """
    return " | ".join(
        line if len(line) <= _QUOTED_CHARACTERS else f"{line[:_QUOTED_CHARACTERS]}…"
        for line in lines
    )


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
    """A file of the model is not there (any more), or cannot be used.

    Attributes:
        path: The file.
        kind: What must be there: a `FileKind`.
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
    """Somebody else answers on the port that was meant for the backend."""

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
            said = f"; its output says: {quoted(evidence)}"
        elif log_tail:
            said = f"; its last output: {quoted(log_tail)}"
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


class UpstreamError(RouterError):
    """The backend was ready, but the exchange with it failed."""

    code = "upstream_failed"
    status = HTTPStatus.BAD_GATEWAY


class UpstreamTimeoutError(UpstreamError):
    """The backend was silent for longer than ``read_timeout_s``."""

    code = "upstream_timeout"
    status = HTTPStatus.GATEWAY_TIMEOUT
