"""Request ids: in error responses of the router, and in its log.

Responses of backends have none, because they are passed on unchanged.
"""

from __future__ import annotations

import secrets


def new_request_id() -> str:
    """Return a new, unique request id in the format of Anthropic's API."""
    return f"req_{secrets.token_hex(12)}"
