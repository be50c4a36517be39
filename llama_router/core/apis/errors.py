"""Errors as fields, before an `ApiDialect` gives them its form, and those of backends. Pure."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import msgspec

from ...errors.backends import BackendError
from ...errors.base import RouterError


def error_fields(error: RouterError) -> dict[str, Any]:
    """Return the fields of *error*, named as in OpenAI's error object.

    If a backend's process ended by itself, ``cause`` names the cause in addition.
    """
    fields: dict[str, Any] = {
        "message": str(error),
        "type": error.type,
        "code": error.code,
        "param": error.param,
    }
    if isinstance(error, BackendError) and error.cause is not None:
        fields["cause"] = error.cause
    return fields


def error_headers(error: RouterError) -> list[tuple[bytes, bytes]]:
    """Return the header fields of an answer with *error*: media type, sense and time of a retry."""
    fields = [(b"content-type", b"application/json")]
    if error.permanent:
        # OpenAI's and Anthropic's clients repeat a 503 and, for long, a POST without a key.
        # Source: ``_should_retry`` in openai-python and anthropic-sdk-python.
        fields.append((b"x-should-retry", b"false"))
    elif error.retry_after_s is not None:
        # Whole seconds, at least one. Source: RFC 9110, section 10.2.3.
        fields.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if error.status is HTTPStatus.UNAUTHORIZED:
        fields.append((b"www-authenticate", b"Bearer"))  # RFC 9110, section 15.5.2
    return fields


def backend_error_in(body: bytes) -> dict[str, Any] | None:
    """Return the error object in *body*, an answer of a backend; None if there is none."""
    document = _decoded(body)
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, str) and error:
        return {"message": error, "type": "server_error", "code": None, "param": None}
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return error
    return None


def message_in_body(body: bytes) -> str | None:
    """Return the sentence in the body of a backend's error, in any usual form; None without one."""
    document = _decoded(body)
    return message_in(document.get("error", document) if isinstance(document, dict) else document)


def message_in(error: Any) -> str | None:  # noqa: ANN401 -- JSON
    """Return the sentence in an error: a string, or an object with ``message`` or ``detail``."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail")
    return error if isinstance(error, str) and error else None


def _decoded(body: bytes) -> Any:  # noqa: ANN401 -- JSON
    """Return the JSON in *body*; None if it is something else."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
