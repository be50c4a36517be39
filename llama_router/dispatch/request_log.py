"""The record of a finished request: one log line, the same for both planes."""

from __future__ import annotations

import math
from collections.abc import Callable
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
    """Collects the figures of one request, and logs them once it is over.

    `activity_log` keeps the record then, so `write` lets go of all that belongs to others.

    Attributes:
        method: Method of the request.
        path: Its path, without the query.
        began_s: Clock time of its arrival, in seconds.
        peer: Address of the client.
        key: Name of the API key that the request came with, if it needed one.
        model: The model; the requested name if there is no such model.
        streamed: The request asked for a stream.
        lease: The lease on the model, if it came that far; None after the end.
        outcome: The end of the request. An `error` makes it `Outcome.CUT`, unless it is
            `Outcome.REFUSED`.
        error: The reason for `Outcome.REFUSED` or `Outcome.CUT`; None after the end.
        code: Code of the error, after the end.
        status: HTTP status of the response; 0 if there was none.
        first_body_s: Clock time of the first byte of the response's body, in seconds.
        sent_bytes: Bytes of the response's body that the client got.
        usage: Token figures of the response.
        request_id: The id of the request in its response; None if it has none.
        granted_s: Clock time of the grant, in seconds; NaN without one. This and the next four
            are set at the end.
        queue_s: Wait for other models, or for requests in front; None without a grant.
        load_s: Wait while the model was loading; None without a grant.
        ttft_s: Time from the arrival at the scheduler to the first byte from the backend.
        ended_s: Clock time of the end, in seconds; None before.
        number: Number in the activity log, as `changed` and `began_at`.
        changed: Number of the last change.
        began_at: Time of the arrival, in seconds since 1970.
        on_end: Called at the end; set by the activity log.
    """

    __slots__ = (
        "began_at",
        "began_s",
        "changed",
        "code",
        "ended_s",
        "error",
        "first_body_s",
        "granted_s",
        "key",
        "lease",
        "load_s",
        "method",
        "model",
        "number",
        "on_end",
        "outcome",
        "path",
        "peer",
        "queue_s",
        "request_id",
        "sent_bytes",
        "status",
        "streamed",
        "ttft_s",
        "usage",
    )

    def __init__(self, method: str, path: str, *, began_s: float, peer: str = "") -> None:
        self.method = method
        self.path = path
        self.began_s = began_s
        self.peer = peer
        self.key: str | None = None
        self.request_id: str | None = None
        self.model: str | None = None
        self.streamed = False
        self.lease: Lease | None = None
        self.outcome = _CUT
        self.error: RouterError | None = None
        self.code: str | None = None
        self.status = 0
        self.first_body_s: float | None = None
        self.sent_bytes = 0
        self.usage = _NO_USAGE
        self.granted_s = math.nan
        self.queue_s: float | None = None
        self.load_s: float | None = None
        self.ttft_s: float | None = None
        self.ended_s: float | None = None
        self.number = self.changed = 0
        self.began_at = 0.0
        self.on_end: Callable[[RequestLog], None] | None = None

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
        """Log ``request.completed`` or ``request.refused``, and hand the record on.

        Every request comes here, so microseconds count.
        """
        fields: dict[str, object] = {
            "model": self.model,
            "method": self.method,
            "path": self.path,
        }
        lease = self.lease
        if lease is not None:
            self._add_lease(fields, lease)
            self.lease = None
        self.ended_s = now_s
        fields["duration_s"] = round(now_s - self.began_s, 4)
        error = self.error
        if error is not None:
            self._add_error(fields, error)
            self.error = None
        if self.outcome is _REFUSED:
            fields["status"] = self.status
            if self.request_id is not None:
                fields["request_id"] = self.request_id
            log.put("info", "request.refused", fields)
        else:
            usage = self.usage
            fields["status"] = self.status
            fields["outcome"] = str(self.outcome)
            fields["sent_bytes"] = self.sent_bytes
            fields["prompt_tokens"] = usage.prompt_tokens
            fields["completion_tokens"] = usage.completion_tokens
            if self.request_id is not None:
                fields["request_id"] = self.request_id
            log.put("info", "request.completed", fields)
        if self.on_end is not None:
            self.on_end(self)

    def _add_lease(self, fields: dict[str, object], lease: Lease) -> None:
        if lease.caller is not None:
            fields["key"] = lease.caller
        if lease.backend is None:
            return
        self.granted_s = lease.granted_s
        if lease.granted_s - lease.arrived_s:
            self.queue_s, self.load_s = round(lease.queue_s, 4), round(lease.load_s, 4)
        else:
            self.queue_s = self.load_s = 0.0
        fields["queue_s"], fields["load_s"] = self.queue_s, self.load_s
        if self.first_body_s is not None:
            fields["ttft_s"] = self.ttft_s = round(self.first_body_s - lease.arrived_s, 4)

    def _add_error(self, fields: dict[str, object], error: RouterError) -> None:
        fields["code"] = self.code = error.code
        fields["reason"] = str(error)
        if self.outcome is _REFUSED:
            self.status = int(error.status)
        else:
            self.outcome = _CUT


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
