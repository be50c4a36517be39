"""Server-sent events, as bytes. Pure.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from .dialect import StreamInfo

#: The last events of streams: of OpenAI's chats, of its responses, and of Anthropic's messages. A
#: line break inside JSON is escaped, so no text of a model is found.
_LAST_EVENT: Final = re.compile(
    rb"^(?:data: ?\[DONE\]"
    rb"|event: ?(?:message_stop|response\.(?:completed|incomplete|failed))\s.*\n\r?\n)",
    re.MULTILINE | re.DOTALL,
)

#: The end of ``response.completed``, which has the whole answer in it, and so may be longer than
#: the tail that is kept: it alone ends with figures.
_LAST_RESPONSE: Final = re.compile(rb'"output_tokens" ?: ?\d[^\r\n]*\}\s*\Z')


def is_complete(tail: bytes, path: str) -> bool:
    """Return whether *tail*, the end of an event stream of *path*, has the stream's last event.

    A client may close its connection then: there is nothing left for it to read.
    """
    if _LAST_EVENT.search(tail) is not None:
        return True
    return path.endswith("/responses") and _LAST_RESPONSE.search(tail) is not None


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
