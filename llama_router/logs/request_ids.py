"""Names for requests that the router answers with an error of its own: for clients and the log.

Answers of backends bear none: what passes through costs nothing.
"""

from __future__ import annotations

import secrets


def new_request_id() -> str:
    """Return a name that no other request has, in the form that Anthropic's have."""
    return f"req_{secrets.token_hex(12)}"
