"""Heads that repeat: the next one of a connection is mostly its last one, with another length.

A client sends the same head with each request on a connection, and a backend with each response;
only the length of the body differs. Such a head is not parsed again, and neither is made again
what was made of it for the other side. Reading and writing the four heads of a small request was
a sixth of its cost.

A head repeats another one only if every byte is the same, except for the digits of the one
``Content-Length``. So nothing is accepted that the parsers would refuse.
"""

from __future__ import annotations

import re
from typing import Final, Generic, TypeVar

from .fields import Fields, SentHead
from .framing import Framing
from .request import RequestHead, parse_request_head
from .response import ResponseHead, parse_response_head

Head = TypeVar("Head", RequestHead, ResponseHead)

#: Longest head that is kept, in bytes: a connection should not take much memory while it is idle.
MAX_KEPT_BYTES: Final = 4096

#: Most digits of a length.
_MAX_DIGITS: Final = 18

_LENGTH_LINE: Final = re.compile(rb"\r\n(content-length:[ \t]*)([0-9]{1,18})\r\n", re.IGNORECASE)

#: The start of no head.
_NONE: Final = b"\r\r"

_LENGTH, _CHUNKED = Framing.LENGTH, Framing.CHUNKED


class _KeptHead(Generic[Head]):
    """The last head of a connection, for the next one."""

    __slots__ = ("_after", "_before", "_digits", "_head", "_line_at", "_name")

    def __init__(self) -> None:
        self._before = _NONE  # the head up to the digits of its length
        self._after: bytes | None = None  # the rest behind them; None if the head has no length
        self._digits = b""
        self._name = b""  # the line of the length up to the digits
        self._line_at = 0  # its place among the fields
        self._head: Head | None = None

    def known(self, buffer: bytes) -> Head | None:
        """Return the head at the start of *buffer* if it repeats the last one; else None."""
        before = self._before
        if not buffer.startswith(before):
            return None
        after = self._after
        if after is None:
            return self._head
        start = len(before)
        end = buffer.find(b"\r", start, start + _MAX_DIGITS + 1)
        if end <= start or not buffer.startswith(after, end):
            return None
        digits = buffer[start:end]
        if digits != self._digits:
            if not digits.isdigit():
                return None
            self._change_length(digits, end + len(after))
        return self._head

    def _keep(self, buffer: bytes, head: Head, *, has_length: bool) -> None:
        """Keep *head*, which stands at the start of *buffer*, unless it is too long."""
        size, line = head.size, None
        if has_length:
            line = _LENGTH_LINE.search(buffer, 0, size)
        if size > MAX_KEPT_BYTES or (has_length and line is None):
            self._before, self._head = _NONE, None
            return
        self._head = head
        head.sent = SentHead()
        if line is None:
            self._before, self._after = buffer[:size], None
            return
        start, end = line.span(2)
        self._before, self._after = buffer[:start], buffer[end:size]
        self._name, self._digits = line.groups()
        self._line_at = [name for name, _ in head.fields].index(b"content-length")

    def _change_length(self, digits: bytes, size: int) -> None:
        """Give the kept head another length; *size* is the size of the head then."""
        head, at = self._head, self._line_at
        assert head is not None, "a head is kept together with its beginning"
        fields, lines = head.fields.copy(), head.lines.copy()
        fields[at] = b"content-length", digits
        lines[at] = self._name + digits
        self._digits = digits
        self._head = self._changed(head, fields, lines, size, int(digits))

    def _changed(
        self, head: Head, fields: Fields, lines: list[bytes], size: int, length: int
    ) -> Head:
        """Return *head* with these parts."""
        raise NotImplementedError


class RequestHeads(_KeptHead[RequestHead]):
    """Parses the heads of the requests on one connection."""

    __slots__ = ()

    def parse(self, buffer: bytes, *, searched: int = 0) -> RequestHead | None:
        """Return what `parse_request_head` does, and keep it for `known`."""
        head = parse_request_head(buffer, searched=searched)
        if head is not None and not buffer.startswith(b"\r"):
            self._keep(buffer, head, has_length=head.content_length is not None)
        return head

    def _changed(
        self, head: RequestHead, fields: Fields, lines: list[bytes], size: int, length: int
    ) -> RequestHead:
        return RequestHead(
            head.method,
            head.target,
            head.path,
            head.query,
            head.version_minor,
            fields,
            lines,
            size,
            length,
            head.chunked,
            head.keep_alive,
            head.expect_continue,
            head.upgrade,
            head.connection_options,
            head.has_cookies,
            head.sent,
        )


class ResponseHeads(_KeptHead[ResponseHead]):
    """Parses the heads of the responses on one connection to a backend."""

    __slots__ = ()

    def parse(
        self, buffer: bytes, *, request_method: bytes, searched: int = 0
    ) -> ResponseHead | None:
        """Return what `parse_response_head` does, and keep it for `known`.

        Kept is only a head of a body with a length or chunks: it has the same meaning after
        each request whose method is not HEAD.
        """
        head = parse_response_head(buffer, request_method=request_method, searched=searched)
        if head is not None and head.framing in (_LENGTH, _CHUNKED):
            lengths = [name for name, _ in head.fields].count(b"content-length")
            if lengths <= 1:
                self._keep(buffer, head, has_length=lengths == 1)
        return head

    def _changed(
        self, head: ResponseHead, fields: Fields, lines: list[bytes], size: int, length: int
    ) -> ResponseHead:
        return ResponseHead(
            head.status,
            head.reason,
            head.version_minor,
            fields,
            lines,
            size,
            head.framing,
            length,
            head.keep_alive,
            head.is_event_stream,
            head.connection_options,
            head.sent,
        )
