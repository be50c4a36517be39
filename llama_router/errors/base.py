"""Base class of all errors that llama-router raises on purpose."""

from __future__ import annotations

from http import HTTPStatus
from typing import ClassVar


class RouterError(Exception):
    """Base class; catching it catches every expected failure, never a bug.

    Attributes:
        code: Stable machine-readable identifier, part of the HTTP contract.
        status: Response status used when the error reaches an HTTP client.
        type: The OpenAI error ``type`` that clients group by.
        param: Name of the request field that is wrong; None if none is.
        retry_after_s: Time after which a retry may succeed, in seconds; None if unknown.
    """

    code: ClassVar[str] = "router_error"
    status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR
    type: ClassVar[str] = "server_error"
    param: str | None = None
    retry_after_s: float | None = None

    @property
    def permanent(self) -> bool:
        """True if a repetition of the request fails too, until a person mends the cause."""
        return self.status is HTTPStatus.UNAUTHORIZED
