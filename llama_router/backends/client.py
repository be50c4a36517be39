"""Asking a backend something on the router's own account: one GET or POST, on one connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import h11
import trio

from ..errors.backends import UpstreamError
from .backend import Backend

#: Read at once, in bytes.
_READ_BYTES: Final = 256 * 1024


@attrs.frozen
class Answer:
    """What a backend answered.

    Attributes:
        status: The HTTP status.
        fields: Header fields; names in lower case.
        body: The body, as it was sent.
    """

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field, or None."""
        return next((value for field, value in self.fields if field == name), None)


async def ask(
    backend: Backend,
    target: bytes,
    *,
    fields: Sequence[tuple[bytes, bytes]] = (),
    body: bytes | None = None,
    max_bytes: int,
) -> Answer:
    """Send a GET, or with a *body* a POST of JSON, and return the answer. Sets no deadline.

    Args:
        backend: Whom to ask.
        target: Path and query.
        fields: Further header fields.
        body: JSON to send.
        max_bytes: Longest body of an answer.

    Raises:
        UpstreamError: if there is no such answer.
    """
    connection = h11.Connection(h11.CLIENT)
    head = [(b"host", backend.authority), (b"connection", b"close"), *fields]
    if body is not None:
        head += [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
    request = h11.Request(method=b"GET" if body is None else b"POST", target=target, headers=head)
    data = connection.send(request) or b""
    if body is not None:
        data += connection.send(h11.Data(data=body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    try:
        async with await trio.open_tcp_stream(backend.host, backend.port) as stream:
            await stream.send_all(data)
            return await _receive(stream, connection, max_bytes)
    except (OSError, trio.BrokenResourceError, h11.ProtocolError) as exc:
        raise UpstreamError(
            f"the backend of model {str(backend.model)!r} did not answer {target!r}: {exc}"
        ) from exc


async def _receive(stream: trio.SocketStream, connection: h11.Connection, max_bytes: int) -> Answer:
    response: h11.Response | None = None
    parts: list[bytes] = []
    size = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(_READ_BYTES))
        elif isinstance(event, h11.Response):
            response = event
        elif isinstance(event, h11.Data):
            size += len(event.data)
            if size > max_bytes:
                raise UpstreamError(f"the answer of a backend is over {max_bytes} bytes")
            parts.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            assert response is not None, "h11 gives the head first"
            fields = tuple((bytes(name), bytes(value)) for name, value in response.headers)
            return Answer(response.status_code, fields, b"".join(parts))
        elif isinstance(event, h11.ConnectionClosed):
            raise UpstreamError("a backend closed the connection without an answer")
