"""Responses of the router itself on the data plane, as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from ..core.apis.errors import error_headers
from ..core.apis.registry import APIS
from ..core.requests.routes import decoded
from ..errors.base import RouterError
from ..http1 import RequestHead


def error_response(
    head: RequestHead | None,
    error: RouterError,
    request_id: str,
    fields: Sequence[tuple[bytes, bytes]],
    *,
    close: bool,
) -> bytes:
    """Return a response with *error*, in the form of the API of the request.

    Args:
        head: The request; None if it could not be read.
        error: The error.
        request_id: Id of the request in the log.
        fields: Further header fields.
        close: The connection ends with the response.
    """
    api = APIS.api_of("" if head is None else decoded(head.path))
    body = api.error_body(error, request_id)
    status = HTTPStatus(error.status)
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode())]
    own = (*error_headers(error), *api.request_id_fields(request_id))
    lines += [b"%b: %b\r\n" % field for field in (*own, *fields)]
    lines.append(b"content-length: %d\r\n" % len(body))
    if close:
        lines.append(b"connection: close\r\n")
    elif head is not None and not head.version_minor:
        lines.append(b"connection: keep-alive\r\n")
    lines.append(b"\r\n")
    if head is None or head.method != b"HEAD":
        lines.append(body)
    return b"".join(lines)


def healthy_response(
    head: RequestHead, fields: Sequence[tuple[bytes, bytes]], *, close: bool
) -> bytes:
    """Return the answer of a healthy router, which is that of a healthy llama-server.

    Args:
        head: The request.
        fields: Further header fields.
        close: The connection ends with the response.
    """
    body = b'{"status":"ok"}'
    lines = [b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\n"]
    lines += [b"%b: %b\r\n" % field for field in fields]
    lines.append(b"content-length: %d\r\n" % len(body))
    if close:
        lines.append(b"connection: close\r\n")
    elif not head.version_minor:
        lines.append(b"connection: keep-alive\r\n")
    lines.append(b"\r\n" if head.method == b"HEAD" else b"\r\n" + body)
    return b"".join(lines)


def slash_redirect(
    head: RequestHead, fields: Sequence[tuple[bytes, bytes]], *, close: bool
) -> bytes:
    """Return a redirect to the same path with a slash behind it.

    It is relative, because a proxy in front may have removed a prefix of the path.

    Args:
        head: The request.
        fields: Further header fields.
        close: The connection ends with the response.
    """
    # "./": a name with a colon would be read as a scheme. Source: RFC 3986, section 4.2.
    location = b"./%b/" % head.path.rpartition(b"/")[2]
    location += b"?" + head.query if head.query else b""
    return _redirect(location, fields, close=close)


def page_redirect(
    head: RequestHead, origin: bytes, fields: Sequence[tuple[bytes, bytes]], *, close: bool
) -> bytes:
    """Return a redirect to the same path at another origin, for a page of a backend.

    Args:
        head: The request.
        origin: The other origin.
        fields: Further header fields.
        close: The connection ends with the response.
    """
    return _redirect(origin + head.origin, fields, close=close)


def _redirect(location: bytes, fields: Sequence[tuple[bytes, bytes]], *, close: bool) -> bytes:
    lines = [b"HTTP/1.1 307 Temporary Redirect\r\nlocation: %b\r\n" % location]
    lines += [b"%b: %b\r\n" % field for field in fields]
    lines.append(b"content-length: 0\r\n")
    lines.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(lines)
