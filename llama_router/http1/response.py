"""Response heads: parses the backend's, and makes the one for the client.

Source: RFC 9112, sections 4 and 6; RFC 9110, sections 6.4.1 and 7.6.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ..errors.backends import UpstreamError
from .fields import (
    HOP_BY_HOP,
    MAX_HEAD_BYTES,
    TOKEN,
    Fields,
    SentHead,
    connection_options,
    parse_fields,
    parse_length,
    select,
)
from .framing import Framing

_STATUS_LINE = re.compile(rb"HTTP/1\.([0-9]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*+))?\r\n")
_SPACE_BEFORE_COLON = re.compile(rb"^(" + TOKEN + rb"++)[ \t]++:", re.MULTILINE)

_SEMANTIC = frozenset((b"connection", b"content-length", b"content-type", b"transfer-encoding"))
_NOT_FORWARDED = HOP_BY_HOP | {b"content-length"}
_CORS_PREFIX: Final = b"access-control-"

# A module's global is read ten times as fast as an enum's member, and each response reads
# some of them.
_NONE, _LENGTH, _CHUNKED, _CLOSE = Framing


@dataclass(slots=True)
class ResponseHead:
    """A valid status line and its fields. Not changed after parsing.

    Attributes:
        status: 100 to 999; after one below 200 another head follows for the same request.
        reason: As sent, possibly empty.
        version_minor: 1 for HTTP/1.1 and later minor versions, 0 for HTTP/1.0.
        fields: All fields; names in lower case.
        lines: The line of each of the *fields* as it came, without its end.
        size: Bytes of the head with its blank line.
        framing: The mechanism that ends the body.
        content_length: The announced length in bytes, also if no body follows (HEAD, 304);
            None if there is none or it has no meaning.
        keep_alive: The connection may be used for another request after this response.
        is_event_stream: The body is ``text/event-stream``.
        connection_options: Lower-cased members of ``Connection``.
        sent: What was made of it for a client, if it may repeat: see `repeats`.
    """

    status: int
    reason: bytes
    version_minor: int
    fields: Fields
    lines: list[bytes]
    size: int
    framing: Framing
    content_length: int | None
    keep_alive: bool
    is_event_stream: bool
    connection_options: frozenset[bytes]
    sent: SentHead | None = field(default=None, compare=False, repr=False)

    def has(self, name: bytes) -> bool:
        """Return whether there is a field *name* (in lower case)."""
        sent = self.sent
        if sent is None:
            return name in dict(self.fields)  # faster than a search
        if sent.names is None:
            sent.names = frozenset(name for name, _ in self.fields)
        return name in sent.names

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of the field *name* (in lower case), or None."""
        for each, value in self.fields:
            if each == name:
                return value
        return None


def parse_response_head(
    buffer: bytes | bytearray,
    *,
    request_method: bytes,
    max_head_bytes: int = MAX_HEAD_BYTES,
    searched: int = 0,
) -> ResponseHead | None:
    """Return the response head at the start of *buffer*, or None while it is incomplete.

    Interim responses (1xx) are returned like any other, without a body.

    Args:
        buffer: All bytes received for this response so far.
        request_method: The method of the request; a response to HEAD has no body.
        max_head_bytes: Longest head allowed.
        searched: Length of *buffer* in the previous call, which returned None. Makes the
            whole series of calls linear.

    Raises:
        UpstreamError: if this is not a valid HTTP/1.x response, or its head is over
            *max_head_bytes*. The connection cannot be used any further.
    """
    end = buffer.find(b"\r\n\r\n", max(0, searched - 3), max_head_bytes) + 4
    if end < 4:
        _check_incomplete(buffer, searched)
        if len(buffer) >= max_head_bytes:
            raise UpstreamError(f"The backend's response head is over {max_head_bytes} bytes.")
        return None
    version_minor, status, reason, fields_start = _parse_line(buffer)
    parsed = parse_fields(buffer, fields_start, end - 2)
    if parsed is None:
        parsed = _parse_loose_fields(bytes(buffer[fields_start : end - 2]))
    fields, lines = parsed
    semantic = select(fields, _SEMANTIC)
    bodiless = status < 200 or status in {204, 304} or request_method == b"HEAD"
    framing, content_length = _framing(semantic, version_minor, bodiless=bodiless)
    if status < 200 or status == 204:
        content_length = None  # RFC 9110, 8.6: never sent with these
    options = connection_options(semantic.get(b"connection"))
    content_type = semantic.get(b"content-type")
    return ResponseHead(
        status,
        reason,
        version_minor,
        fields,
        lines,
        end,
        framing,
        content_length,
        framing is not _CLOSE
        and status != 101
        and b"close" not in options
        and (version_minor == 1 or b"keep-alive" in options),
        content_type is not None and _is_event_stream(content_type[0]),
        options,
    )


def client_response_head(
    head: ResponseHead,
    *,
    close: bool,
    http10: bool = False,
    add_headers: Iterable[tuple[bytes, bytes]] = (),
) -> bytes:
    """Return the head to send to a client for a backend's *head*, as HTTP/1.1.

    Hop-by-hop fields are removed, and so are the backend's ``Access-Control-*``: the router
    decides which origins may read a response. All others pass as the backend spelled them. A
    body that ends with the connection always gets ``Connection: close``.

    Args:
        head: The backend's response.
        close: The client's connection will be closed after this response.
        http10: The client uses HTTP/1.0. A chunked body must then be sent decoded
            (`Dechunker`), and ends with the connection.
        add_headers: Fields to add.

    Source: RFC 9110, section 7.6.1.
    """
    sent = head.sent
    if sent is not None and sent.start:
        start = sent.start
    else:
        start = _start_for_client(head)
        if sent is not None:
            sent.start = start
    framing = head.framing
    chunked = framing is _CHUNKED
    lines = [start, *[b"%b: %b\r\n" % field for field in add_headers]]
    if chunked and not http10:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif head.content_length is not None:
        lines.append(b"Content-Length: %d\r\n" % head.content_length)
    if head.status == 101:
        lines.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    elif head.status >= 200:
        if close or framing is _CLOSE or (chunked and http10):
            lines.append(b"Connection: close\r\n")
        elif http10:
            lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def _start_for_client(head: ResponseHead) -> bytes:
    """Return the lines of `client_response_head` that depend on nothing but the fields."""
    drop = _NOT_FORWARDED
    if head.connection_options:
        drop |= head.connection_options
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    # Both lists are of one length; zip is faster without the check.
    fields = zip(head.lines, head.fields)  # noqa: B905
    lines += [
        line for line, (name, _) in fields if name not in drop and not name.startswith(_CORS_PREFIX)
    ]
    lines.append(b"")
    return b"\r\n".join(lines)


def _parse_line(buffer: bytes | bytearray) -> tuple[int, int, bytes, int]:
    """Return minor version, status, reason, and the offset of the fields."""
    match = _STATUS_LINE.match(buffer)
    if match is None:
        raise UpstreamError("The backend's answer does not start with an HTTP/1.x status line.")
    minor, status, reason = match.groups()
    return 0 if minor == b"0" else 1, int(status), reason or b"", match.end()


def _check_incomplete(buffer: bytes | bytearray, searched: int) -> None:
    """Refuse bytes that cannot become a response."""
    line_end = buffer.find(b"\n", searched)
    if line_end >= 0 and buffer.find(b"\n") == line_end:
        _parse_line(buffer)


def _parse_loose_fields(data: bytes) -> tuple[Fields, list[bytes]]:
    """Return fields that have blanks before the colon, and their lines without these.

    Source: RFC 9112, section 5.1.
    """
    data = _SPACE_BEFORE_COLON.sub(rb"\1:", data)
    parsed = parse_fields(data, 0, len(data))
    if parsed is None:
        raise UpstreamError("A header field of the backend's response is malformed.")
    return parsed


def _framing(
    semantic: dict[bytes, list[bytes]], version_minor: int, *, bodiless: bool
) -> tuple[Framing, int | None]:
    """Return the framing of the body, and its announced length.

    Source: RFC 9112, section 6.3.
    """
    codings = semantic.get(b"transfer-encoding")
    lengths = semantic.get(b"content-length")
    if codings is not None:
        if lengths is not None:
            raise UpstreamError("The backend sent both Content-Length and Transfer-Encoding.")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise UpstreamError("The backend used a transfer coding that was not asked for.")
        if not version_minor:
            raise UpstreamError("The backend sent Transfer-Encoding with HTTP/1.0.")
        return _NONE if bodiless else _CHUNKED, None
    if lengths is None:
        return _NONE if bodiless else _CLOSE, None
    # The same length twice is harmless; it is forwarded once.
    length = parse_length(lengths[0]) if len(set(lengths)) == 1 else None
    if length is None:
        raise UpstreamError("The backend's Content-Length is invalid.")
    return _NONE if bodiless else _LENGTH, length


def _is_event_stream(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip(b" \t").lower() == b"text/event-stream"
