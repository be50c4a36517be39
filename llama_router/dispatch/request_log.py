"""The record of a finished request: one log line, the same for both planes."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from ..core.apis.usage import Usage
from ..errors.base import RouterError
from ..logs.events import log
from .lease import Lease

_NO_USAGE: Final = Usage()


class Outcome(StrEnum):
    """The end of a request. `REFUSED` is logged as an event of its own."""

    OK = "ok"
    CUT = "cut"
    CLIENT_GONE = "client_gone"
    REFUSED = "refused"


# A module's global is read ten times as fast as an enum's member.
_CUT, _REFUSED = Outcome.CUT, Outcome.REFUSED


class RequestLog:
    """Collects the fields of one request, and logs them once it is over.

    Attributes:
        model: The model; the requested name if there is no such model.
        lease: The lease on the model, if it came that far.
        outcome: The end of the request. An `error` makes it `Outcome.CUT`, unless it is
            `Outcome.REFUSED`.
        error: The reason for `Outcome.REFUSED` or `Outcome.CUT`.
        status: HTTP status of the response; 0 if there was none.
        first_byte_s: Clock time of the first byte from the backend, in seconds.
        sent_bytes: Bytes of the response's body that the client got.
        usage: Token figures of the response.
        request_id: The id of the request in its response; None if it has none.
    """

    __slots__ = (
        "_began_s",
        "_method",
        "_path",
        "error",
        "first_byte_s",
        "lease",
        "model",
        "outcome",
        "request_id",
        "sent_bytes",
        "status",
        "usage",
    )

    def __init__(self, method: str, path: str, *, began_s: float) -> None:
        self._method = method
        self._path = path
        self._began_s = began_s
        self.request_id: str | None = None
        self.model: str | None = None
        self.lease: Lease | None = None
        self.outcome = _CUT
        self.error: RouterError | None = None
        self.status = 0
        self.first_byte_s: float | None = None
        self.sent_bytes = 0
        self.usage = _NO_USAGE

    def refuse(self, error: RouterError, request_id: str | None = None) -> None:
        """Record that the router itself responded, with *error*.

        Args:
            error: The error.
            request_id: The id of the request in that response, if it has one.
        """
        self.error = error
        self.request_id = request_id
        self.outcome = _REFUSED

    def write(self, *, now_s: float) -> None:
        """Log ``request.completed`` or ``request.refused``.

        Every request comes here, so microseconds count.
        """
        fields: dict[str, object] = {
            "model": self.model,
            "method": self._method,
            "path": self._path,
        }
        lease = self.lease
        if lease is not None:
            self._add_lease(fields, lease)
        fields["duration_s"] = round(now_s - self._began_s, 4)
        error = self.error
        if error is not None:
            fields["code"] = error.code
            fields["reason"] = str(error)
            if self.outcome is _REFUSED:
                fields["status"] = int(error.status)
                if self.request_id is not None:
                    fields["request_id"] = self.request_id
                log.put("info", "request.refused", fields)
                return
            self.outcome = _CUT
        usage = self.usage
        fields["status"] = self.status
        fields["outcome"] = str(self.outcome)
        fields["sent_bytes"] = self.sent_bytes
        fields["prompt_tokens"] = usage.prompt_tokens
        fields["completion_tokens"] = usage.completion_tokens
        if self.request_id is not None:
            fields["request_id"] = self.request_id
        log.put("info", "request.completed", fields)

    def _add_lease(self, fields: dict[str, object], lease: Lease) -> None:
        if lease.caller is not None:
            fields["key"] = lease.caller
        if lease.backend is None:
            return
        waited_s = lease.granted_s - lease.arrived_s
        fields["queue_s"] = round(lease.queue_s, 4) if waited_s else 0.0
        fields["load_s"] = round(lease.load_s, 4) if waited_s else 0.0
        if self.first_byte_s is not None:
            fields["ttft_s"] = round(self.first_byte_s - lease.arrived_s, 4)


def log_early_refusal(error: RouterError, method: str, path: str) -> None:
    """Log ``request.refused`` for a request of the control plane that named no model yet."""
    log.info(
        "request.refused",
        model=None,
        method=method,
        path=path,
        code=error.code,
        reason=str(error),
        status=int(error.status),
    )


def log_unread_refusal(error: RouterError, request_id: str) -> None:
    """Log ``request.refused`` for bytes that are no request."""
    log.info(
        "request.refused",
        code=error.code,
        status=int(error.status),
        reason=str(error),
        request_id=request_id,
    )
