"""Request ids: in responses, and in the router's log.

A response whose backend has put a request id into it keeps that.
"""

from __future__ import annotations

import random

#: Seeded by the system. Ids must be unique, not secret: asking the system for each costs more
#: than the rest of making it.
_RANDOM = random.Random()  # noqa: S311 -- for identity only


def new_request_id() -> str:
    """Return a new, unique request id in the format of Anthropic's API."""
    return f"req_{_RANDOM.getrandbits(96):024x}"
