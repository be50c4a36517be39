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


#: The field with which a response says that proxies must pass it on as it comes: nginx would
#: collect it. llama-server sends it, too.
NOT_BUFFERED: Final = (b"x-accel-buffering", b"no")

#: A comment that says that the backend still works, for a stream in which it is silent.
KEEPALIVE: Final = b": keepalive\n\n"

#: The end of an event: a blank line.
_EVENT_END: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")

#: The head of a chunk. The line break before it may be the end of what looks like another one.
_CHUNK_HEAD: Final = re.compile(rb"(?:^|(?<=\r\n))([0-9a-fA-F]+)[ \t]*(?:;[^\r\n]*)?\r\n")


def ends_with_event(tail: bytes, *, chunked: bool) -> bool:
    """Return whether *tail*, the end of an event stream so far, ends with a whole event.

    If it returns True, another event may follow. It may return False although it ends with one:
    if an event ends with a chunk of its own.

    Args:
        tail: All of the stream, or its last bytes, some hundred at least.
        chunked: The bytes are framed in chunks; the last one must be complete.
    """
    if not tail:
        return True
    if not chunked:
        return tail.endswith(_EVENT_END)
    if not tail.endswith(b"\r\n"):
        return False
    end = len(tail) - 2
    # The latest head whose chunk ends here. If it is a text inside of the chunk, it only hides
    # a part of the payload that is not looked at.
    for head in reversed(list(_CHUNK_HEAD.finditer(tail))):
        if head.end() + int(head[1], 16) == end:
            return tail[head.end() : end].endswith(_EVENT_END)
    return tail[:end].endswith(_EVENT_END)


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
