"""The start page, served while no backend with a chat UI runs: it lists models and loads one.

The page contains no data and no secret; its script requests the models from the API.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import Final

from quart import Response

_INLINE: Final = re.compile(rb"<(style|script)>(.*?)</\1>", re.DOTALL)


def start_page() -> Response:
    """Return the page; its policy allows only its inline script and style."""
    page, policy = _page()
    response = Response(page, content_type="text/html; charset=utf-8")
    response.headers["content-security-policy"] = policy
    response.headers["cache-control"] = "no-store"  # a backend may have a UI soon
    response.headers["referrer-policy"] = "same-origin"  # see Gate.check_load
    return response


@cache
def _page() -> tuple[bytes, str]:
    """Return the page and its content security policy."""
    page = Path(__file__).with_name("start.html").read_bytes()
    digests = {
        found[1].decode(): b64encode(hashlib.sha256(found[2]).digest()).decode()
        for found in _INLINE.finditer(page)
    }
    return page, (
        "default-src 'none'; "
        f"script-src 'sha256-{digests['script']}'; style-src 'sha256-{digests['style']}'; "
        "connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
