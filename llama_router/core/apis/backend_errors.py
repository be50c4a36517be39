"""Extracts the message from a backend's error, in any of the usual forms. Pure."""

from __future__ import annotations

from typing import Any

import msgspec


def message_in_body(data: bytes) -> str | None:
    """Return the sentence in the body of a backend's error; None without one."""
    try:
        body = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return message_in(body.get("error", body) if isinstance(body, dict) else body)


def message_in(error: Any) -> str | None:  # noqa: ANN401 -- JSON
    """Return the sentence in an error: a string, or an object with ``message`` or ``detail``."""
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail")
    return error if isinstance(error, str) and error else None
