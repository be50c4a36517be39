"""What the router itself answers: OpenAI error envelopes.

Source: https://platform.openai.com/docs/guides/error-codes; the shape is
``{"error": {"message", "type", "code", "param"}}``.
"""

from __future__ import annotations

import math
from http import HTTPStatus

import msgspec

from ...errors.backends import BackendError
from ...errors.base import RouterError


def error_body(error: RouterError) -> bytes:
    """Return *error* as an OpenAI error object, encoded as JSON.

    If a backend's process ended by itself, ``cause`` says why, in addition.
    """
    fields = {
        "message": str(error),
        "type": error.type,
        "code": error.code,
        "param": error.param,
    }
    if isinstance(error, BackendError) and error.cause is not None:
        fields["cause"] = error.cause
    return msgspec.json.encode({"error": fields})


def error_fields(error: RouterError) -> list[tuple[bytes, bytes]]:
    """Return the header fields that go with *error*: its type, and when to come back."""
    fields = [(b"content-type", b"application/json")]
    if error.retry_after_s is not None:
        # Whole seconds, at least one. Source: RFC 9110, section 10.2.3.
        fields.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if error.status is HTTPStatus.UNAUTHORIZED:
        fields.append((b"www-authenticate", b"Bearer"))  # RFC 9110, section 15.5.2
    return fields
