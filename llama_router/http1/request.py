"""Request heads: parses the client's, and makes the one for the backend.

Source: RFC 9112, sections 2, 3, 5 and 6; RFC 9110, sections 7 and 10.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple

from ..errors.requests import HeaderTooLargeError, RequestError
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

MAX_FIELDS: Final = 256
"""Most field lines of one request. Clients send about 12, long proxy chains 40."""

_MAX_EMPTY_LINES = 8  # allowed before a request; old clients send one after a body

# "#" is invalid in a target: one parser would drop the fragment, another would keep it.
_ORIGIN_LINE = re.compile(
    rb"(" + TOKEN + rb"++) ((/[!\"$->@-~]*+)(?:\?([!\"$-~]*+))?) HTTP/1\.([0-9])\r\n"
)
_ANY_LINE = re.compile(rb"(" + TOKEN + rb"++) ([!-~]++) HTTP/([0-9]++(?:\.[0-9]++)?)\r\n")
_METHOD_OR_NOTHING = re.compile(TOKEN + rb"|\r?\Z")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?+://([^/?#@]++)(/[^?#]*+)?(?:\?([^#]*+))?")
_REG_NAME = rb"[A-Za-z0-9\-._~!$&'()*+,;=%]"
_HOST = re.compile(rb"(?:\[[A-Za-z0-9\-._~!$&'()*+,;=%:]++\]|" + _REG_NAME + rb"*+)(?::[0-9]*+)?")

_SEMANTIC = frozenset(
    (
        *(b"connection", b"content-length", b"cookie", b"expect", b"host"),
        *(b"transfer-encoding", b"upgrade"),
    )
)
_NOT_FORWARDED = HOP_BY_HOP | {b"content-length", b"expect", b"host"}
_WITHOUT_CONTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))


@dataclass(slots=True)
class RequestHead:
    """A valid request line and its fields. Not changed after parsing.

    Attributes:
        method: As sent; methods are case-sensitive.
        target: As sent.
        path: *target* without its query; the path alone if *target* is a whole URI.
        query: The part of *target* after the first ``?``, or nothing.
        version_minor: 1 for HTTP/1.1 and later minor versions, 0 for HTTP/1.0.
        fields: All fields; names in lower case. If the target is a whole URI, its host has
            replaced the value of ``host``.
        lines: The line of each of the *fields* as it came, without its end.
        size: Bytes of the head, with its blank line and the empty lines before it.
        content_length: The body's announced length in bytes; None if there is none.
        chunked: The body uses the chunked coding.
        keep_alive: The client keeps the connection open after the response.
        expect_continue: The client waits for ``100 Continue`` before it sends the body.
        upgrade: The client offers to switch to WebSocket. A proxy does not forward other
            offers, such as h2c.
        connection_options: Lower-cased members of ``Connection``.
        has_cookies: The request has a field ``Cookie``.
        sent: What was made of it for a backend, if it may repeat: see `repeats`.
    """

    method: bytes
    target: bytes
    path: bytes
    query: bytes
    version_minor: int
    fields: Fields
    lines: list[bytes]
    size: int
    content_length: int | None
    chunked: bool
    keep_alive: bool
    expect_continue: bool
    upgrade: bool
    connection_options: frozenset[bytes]
    has_cookies: bool
    sent: SentHead | None = field(default=None, compare=False, repr=False)

    @property
    def origin(self) -> bytes:
        """The target as a path with its query, the only form that backends support.

        Source: RFC 9112, section 3.2.1.
        """
        if self.target.startswith(b"/"):
            return self.target
        return self.path + b"?" + self.query if self.query else self.path

    def get(self, name: bytes) -> bytes | None:
        """Return the first value of the field *name* (in lower case), or None."""
        for each, value in self.fields:
            if each == name:
                return value
        return None


class _Line(NamedTuple):
    """A request line; *authority* is the one of a target that is a whole URI, else None."""

    method: bytes
    target: bytes
    path: bytes
    query: bytes
    version_minor: int
    authority: bytes | None = None


def parse_request_head(
    buffer: bytes | bytearray, *, max_head_bytes: int = MAX_HEAD_BYTES, searched: int = 0
) -> RequestHead | None:
    """Return the request head at the start of *buffer*, or None while it is incomplete.

    A head that cannot become valid is refused as soon as its first line is complete.
    Bytes after the head are not read.

    Args:
        buffer: All bytes received for this request so far.
        max_head_bytes: Longest head allowed, skipped empty lines included.
        searched: Length of *buffer* in the previous call, which returned None. Makes the
            whole series of calls linear.

    Raises:
        HeaderTooLargeError: if the head is over *max_head_bytes* or `MAX_FIELDS`.
        RequestError: if it is not valid HTTP/1.x, or needs an unsupported feature; with
            status 400, 417, 501 or 505. The connection cannot be used any further.
    """
    start = _skip_empty_lines(buffer) if buffer[:1] == b"\r" else 0
    end = buffer.find(b"\r\n\r\n", max(start, searched - 3), max_head_bytes) + 4
    if end < 4:
        _check_incomplete(buffer, start, searched)
        if len(buffer) >= max_head_bytes:
            raise HeaderTooLargeError(f"The request head is over {max_head_bytes} bytes.")
        return None
    fields_start = buffer.find(b"\n", start) + 1
    line = _parse_line(buffer, start, fields_start)
    parsed = parse_fields(buffer, fields_start, end - 2)
    if parsed is None:
        raise RequestError("A header field is malformed.")
    fields, lines = parsed
    if len(fields) > MAX_FIELDS:
        raise HeaderTooLargeError(f"The request has more than {MAX_FIELDS} header fields.")

    semantic = select(fields, _SEMANTIC)
    _check_host(semantic.get(b"host"), line.version_minor)
    if line.authority is not None:
        # RFC 9112, 3.2.2: the URI's host replaces that of the field.
        others = [at for at, field in enumerate(fields) if field[0] != b"host"]
        fields = [(b"host", line.authority), *(fields[at] for at in others)]
        lines = [b"Host: " + line.authority, *(lines[at] for at in others)]
    content_length, chunked = _body_length(semantic, line.version_minor)
    options = connection_options(semantic.get(b"connection"))
    modern = line.version_minor == 1
    return RequestHead(
        line.method,
        line.target,
        line.path,
        line.query,
        line.version_minor,
        fields,
        lines,
        end,
        content_length,
        chunked,
        b"close" not in options and (modern or b"keep-alive" in options),
        b"expect" in semantic and _expects_continue(semantic[b"expect"], modern=modern),
        modern
        and b"upgrade" in options
        and b"upgrade" in semantic
        and _offers_websocket(semantic[b"upgrade"]),
        options,
        b"cookie" in semantic,
    )


def with_cookies(head: RequestHead, change: Callable[[bytes], bytes]) -> RequestHead:
    """Return *head* with *change* applied to each ``Cookie``; one that becomes empty is left out.

    Args:
        head: The client's request.
        change: Returns the new value of the field.
    """
    fields, lines = [], []
    for each, line in zip(head.fields, head.lines, strict=True):
        if each[0] != b"cookie":
            fields.append(each)
            lines.append(line)
        elif value := change(each[1]):
            fields.append((b"cookie", value))
            lines.append(b"Cookie: " + value)
    return replace(head, fields=fields, lines=lines, has_cookies=True, sent=None)


def upstream_request_head(  # noqa: PLR0913 -- each is one independent fact about the request
    head: RequestHead,
    *,
    target: bytes,
    host: bytes,
    content_length: int | None,
    chunked: bool = False,
    upgrade: bool = False,
    strip_headers: frozenset[bytes] = frozenset(),
    own_fields: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """Return the head to send to a backend for the client's *head*, as HTTP/1.1.

    Hop-by-hop fields are left out, and so is ``Expect``: the router answers it itself. All
    others pass as the client spelled them.

    Args:
        head: The client's request.
        target: Request target at the backend.
        host: The backend's host and port.
        content_length: Length of the decoded body in bytes, or None without one.
        chunked: The body is sent in chunks, because its length is not known.
        upgrade: Offer to switch to WebSocket, as the client did.
        strip_headers: Names, in lower case, of further fields to leave out.
        own_fields: Fields that the client did not send.

    Source: RFC 9110, sections 7.6.1 and 7.8.
    """
    sent, made_for = head.sent, (target, host, strip_headers, own_fields)
    if sent is not None and sent.made_for == made_for:
        start = sent.start
    else:
        start = _start_for_backend(head, target, host, strip_headers, own_fields)
        if sent is not None:
            sent.start, sent.made_for = start, made_for
    if content_length is None and not chunked and head.method not in _WITHOUT_CONTENT:
        content_length = 0  # RFC 9110, 8.6; some servers would wait for a body
    if content_length is not None and not upgrade:
        return b"%bContent-Length: %d\r\n\r\n" % (start, content_length)
    lines = [start]
    if content_length is not None:
        lines.append(b"Content-Length: %d\r\n" % content_length)
    elif chunked:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    if upgrade:
        lines.append(b"Connection: Upgrade\r\nUpgrade: websocket\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def _start_for_backend(
    head: RequestHead,
    target: bytes,
    host: bytes,
    strip_headers: frozenset[bytes],
    own_fields: tuple[tuple[bytes, bytes], ...],
) -> bytes:
    """Return the lines of `upstream_request_head` that do not depend on the body."""
    drop = _dropped(strip_headers)
    if head.connection_options:
        drop |= head.connection_options
    lines = [b"%b %b HTTP/1.1\r\nHost: %b" % (head.method, target, host)]
    lines += [b"%b: %b" % field for field in own_fields]
    # Both lists are of one length; zip is faster without the check.
    fields = zip(head.lines, head.fields)  # noqa: B905
    lines += [line for line, (name, _) in fields if name not in drop]
    lines.append(b"")
    return b"\r\n".join(lines)


def end_to_end_fields(head: RequestHead, strip_headers: frozenset[bytes]) -> Fields:
    """Return the fields of *head* that a backend gets, as `upstream_request_head` passes them.

    Args:
        head: The client's request.
        strip_headers: Names, in lower case, of further fields to leave out.
    """
    drop = _dropped(strip_headers) | (head.connection_options or frozenset())
    return [field for field in head.fields if field[0] not in drop]


@lru_cache(maxsize=8)  # the argument changes with the configuration only
def _dropped(strip_headers: frozenset[bytes]) -> frozenset[bytes]:
    return _NOT_FORWARDED | strip_headers


def _skip_empty_lines(buffer: bytes | bytearray) -> int:
    """Return where the request line starts or will start. Source: RFC 9112, section 2.2."""
    start = 0
    while buffer.startswith(b"\r\n", start):
        start += 2
        if start > 2 * _MAX_EMPTY_LINES:
            raise RequestError("Too many empty lines before the request.")
    return start


def _check_incomplete(buffer: bytes | bytearray, start: int, searched: int) -> None:
    """Refuse bytes that cannot become a request: TLS, bare LF, another protocol."""
    line_end = buffer.find(b"\n", max(start, searched)) + 1
    if line_end and buffer.find(b"\n", start) + 1 == line_end:
        _parse_line(buffer, start, line_end)
    elif _METHOD_OR_NOTHING.match(buffer, start) is None:
        raise RequestError("The request does not start with a method.")


def _parse_line(buffer: bytes | bytearray, start: int, end: int) -> _Line:
    """Return the request line in ``buffer[start:end]``, which includes its line end."""
    match = _ORIGIN_LINE.fullmatch(buffer, start, end)
    if match is None:
        return _parse_unusual_line(bytes(buffer[start:end]))
    method, target, path, query, minor = match.groups()
    if method == b"CONNECT":
        raise _connect_error()
    return _Line(method, target, path, query or b"", 0 if minor == b"0" else 1)


def _parse_unusual_line(line: bytes) -> _Line:
    """Return a request line of which the target is not a plain path, or raise its error."""
    match = _ANY_LINE.fullmatch(line)
    if match is None:
        raise RequestError("The request line is malformed.")
    method, target, version = match.groups()
    if re.fullmatch(rb"1\.[0-9]", version) is None:
        raise RequestError(
            "Only HTTP/1.0 and HTTP/1.1 are spoken here.",
            status=HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
        )
    if method == b"CONNECT":
        raise _connect_error()
    minor = 0 if version == b"1.0" else 1
    if target == b"*" and method == b"OPTIONS":
        return _Line(method, target, target, b"", minor)
    uri = _ABSOLUTE.fullmatch(target)
    if uri is None or _HOST.fullmatch(uri[1]) is None or uri[1].startswith(b":"):
        raise RequestError("The request target is neither a path nor an http URI.")
    path = uri[2] or (b"*" if method == b"OPTIONS" and uri[3] is None else b"/")
    return _Line(method, target, path, uri[3] or b"", minor, uri[1])


def _connect_error() -> RequestError:
    return RequestError("CONNECT is not offered.", status=HTTPStatus.NOT_IMPLEMENTED)


def _check_host(values: list[bytes] | None, version_minor: int) -> None:
    """Refuse a missing, repeated or malformed Host. Source: RFC 9112, section 3.2."""
    if values is None:
        if version_minor:
            raise RequestError("The Host header field is missing.")
    elif len(values) > 1:
        raise RequestError("The Host header field is repeated.")
    elif _HOST.fullmatch(values[0]) is None:
        raise RequestError("The Host header field is malformed.")


def _body_length(semantic: dict[bytes, list[bytes]], version_minor: int) -> tuple[int | None, bool]:
    """Return the announced length, and whether the body is chunked.

    Source: RFC 9112, sections 6.1 to 6.3.
    """
    codings = semantic.get(b"transfer-encoding")
    lengths = semantic.get(b"content-length")
    if codings is not None:
        if lengths is not None:
            raise RequestError("Both Content-Length and Transfer-Encoding were sent.")
        if not version_minor:
            raise RequestError("HTTP/1.0 has no Transfer-Encoding.")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise RequestError(
                "Only the transfer coding 'chunked' is understood.",
                status=HTTPStatus.NOT_IMPLEMENTED,
            )
        return None, True
    if lengths is None:
        return None, False
    if len(lengths) > 1:
        raise RequestError("Content-Length was sent more than once.")
    length = parse_length(lengths[0])
    if length is None:
        raise RequestError("Content-Length is not a decimal number of a sensible size.")
    return length, False


def _offers_websocket(values: list[bytes]) -> bool:
    """Return whether WebSocket is among the offered protocols. Source: RFC 6455, section 4.1."""
    return b"websocket" in connection_options(values)


def _expects_continue(values: list[bytes], *, modern: bool) -> bool:
    """Return whether the client waits for a 100. Source: RFC 9110, section 10.1.1."""
    if not modern:
        return False  # the RFC tells servers to ignore it from HTTP/1.0 clients
    if len(values) > 1 or values[0].lower() != b"100-continue":
        raise RequestError(
            "Only the expectation '100-continue' can be met.",
            status=HTTPStatus.EXPECTATION_FAILED,
        )
    return True
