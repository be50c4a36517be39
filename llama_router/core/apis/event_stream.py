"""Server-sent events, as bytes. Pure.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .dialect import StreamInfo


def comment(text: str) -> bytes:
    """Return *text* as comment lines, which every reader of event streams skips."""
    return b"".join(b": %b\n" % line.encode() for line in text.splitlines())


def event(document: dict[str, Any], *, name: bytes = b"") -> bytes:
    """Return one event.

    Args:
        document: Its data, encoded as JSON.
        name: Its type; empty for none.
    """
    prefix = b"event: %b\n" % name if name else b""
    return b"%bdata: %b\n\n" % (prefix, msgspec.json.encode(document))


def comment_notice(_: StreamInfo, sentence: str) -> bytes:
    """Return *sentence* as a comment, for APIs without an event that fits."""
    return comment(sentence) + b"\n"


def comment_keepalive(_: StreamInfo) -> bytes:
    """Return a comment that says that the request waits."""
    return b": waiting\n\n"
