"""What is logged of one request, once it is over: one line."""

from __future__ import annotations

from ..core.apis.usage import usage_of
from ..dispatch.lease import Lease
from ..errors.base import RouterError
from ..http1 import RequestHead
from ..logs.output import log_info
from .exchange import Exchange


class RequestLog:
    """Collects what happens to one request.

    Attributes:
        model: Which model it named.
        lease: Its hold on that model.
        outcome: How it ended.
    """

    __slots__ = ("_error", "_head", "_request_id", "lease", "model", "outcome")

    _request_id: str | None

    def __init__(self, head: RequestHead) -> None:
        self._head = head
        self._error: RouterError | None = None
        self.model: str | None = None
        self.lease: Lease | None = None
        self.outcome = "cut"  # until it is known to have ended otherwise

    def refused(self, error: RouterError, request_id: str | None) -> None:
        """Note that the router itself answered, with *error*, and which name it gave if any."""
        self._error = error
        self._request_id = request_id
        self.outcome = "refused"

    def write(self, exchange: Exchange, *, duration_s: float) -> None:
        """Log the request. Every request comes here, so this counts microseconds."""
        head = self._head
        fields: dict[str, object] = {
            "model": self.model,
            "method": head.method.decode("ascii", "replace"),
            "path": head.path.decode("ascii", "replace"),
        }
        lease = self.lease
        if lease is not None and lease.caller is not None:
            fields["key"] = lease.caller
        if lease is not None and lease.backend is not None:
            waited_s = lease.granted_s - lease.arrived_s
            fields["queue_s"] = round(lease.queue_s, 4) if waited_s else 0.0
            fields["load_s"] = round(lease.load_s, 4) if waited_s else 0.0
            if exchange.first_byte_s is not None:
                fields["ttft_s"] = round(exchange.first_byte_s - lease.arrived_s, 4)
        fields["duration_s"] = round(duration_s, 4)
        error = self._error or exchange.error
        if error is not None:
            fields |= {"code": error.code, "reason": str(error)}
            if self.outcome == "refused":
                fields["status"] = int(error.status)
                if self._request_id is not None:
                    fields["request_id"] = self._request_id
                log_info("request.refused", fields)
                return
            if exchange.error is not None:
                self.outcome = "cut"
        usage = usage_of(exchange.tail)
        fields["status"] = exchange.status
        fields["outcome"] = self.outcome
        fields["sent_bytes"] = exchange.sent_bytes
        fields["prompt_tokens"] = usage.prompt_tokens
        fields["completion_tokens"] = usage.completion_tokens
        log_info("request.completed", fields)
