"""Answers of the router itself on the data plane, as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from ..core.apis.dialects import error_answer, request_id_field
from ..core.apis.envelope import error_fields
from ..core.requests.routes import decoded
from ..errors.base import RouterError
from ..http1 import RequestHead


def refusal(
    head: RequestHead | None,
    error: RouterError,
    request_id: str,
    fields: Sequence[tuple[bytes, bytes]],
    *,
    close: bool,
) -> bytes:
    """Return an error, as the API that was asked for has it.

    Args:
        head: The request; None if it could not be read.
        error: What to say.
        request_id: By which it is found in the log.
        fields: Further header fields.
        close: The connection ends with it.
    """
    path = "" if head is None else decoded(head.path)
    body = error_answer(path, error, request_id)
    status = HTTPStatus(error.status)
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode())]
    own = (*error_fields(error), request_id_field(path, request_id))
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


def with_slash(head: RequestHead, fields: Sequence[tuple[bytes, bytes]], *, close: bool) -> bytes:
    """Return what sends a client to the same path with a slash behind it.

    Args:
        head: The request.
        fields: Further header fields.
        close: The connection ends with it.
    """
    to = head.path + b"/"
    to += b"?" + head.query if head.query else b""
    lines = [b"HTTP/1.1 307 Temporary Redirect\r\nlocation: %b\r\n" % to]
    lines += [b"%b: %b\r\n" % field for field in fields]
    lines.append(b"content-length: 0\r\n")
    lines.append(b"connection: close\r\n\r\n" if close else b"\r\n")
    return b"".join(lines)
