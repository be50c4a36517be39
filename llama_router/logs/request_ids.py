"""Request ids: in responses, and in the router's log.

A response whose backend has put a request id into it keeps that.
"""

from __future__ import annotations

import secrets


def new_request_id() -> str:
    """Return a new, unique request id in the format of Anthropic's API."""
    return f"req_{secrets.token_hex(12)}"
