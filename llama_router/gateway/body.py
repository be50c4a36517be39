"""What becomes of an answer's body on its way to the client. Sans-IO."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from ..core.apis.dialect import StreamDialect
from ..http1 import Dechunker, Framing, ResponseHead

#: Most bytes of an incomplete chunk that are held back. Events are far smaller; a
#: larger chunk is passed on in pieces, and then cannot be ended politely.
MAX_HELD_BYTES: Final = 64 * 1024

LAST_CHUNK: Final = b"0\r\n\r\n"


class BodyEncoder:
    """What becomes of a body's bytes on their way to the client.

    Most pass as they are. Of a chunked event stream only complete chunks pass, so that
    an error event can always be put behind them. For an HTTP/1.0 client chunks are decoded.
    """

    __slots__ = ("_decoder", "_events", "_held", "_holding", "_open_ended")

    def __init__(self, head: ResponseHead, *, http10: bool) -> None:
        chunked = head.framing is Framing.CHUNKED
        self._events = head.is_event_stream
        self._decoder = Dechunker() if chunked and http10 else None
        self._holding = self._events and chunked and not http10
        self._open_ended = head.framing is Framing.CLOSE or self._decoder is not None
        self._held = b""

    @property
    def passing(self) -> bool:
        """Whether whole chunks pass as they are, for now."""
        return self._decoder is None and not self._held

    def shape(self, data: bytes, boundary: int) -> bytes:
        """Return what to send now; *boundary* is where the last complete chunk ends."""
        if self._holding:
            held = self._held
            if boundary == len(data):
                if held:
                    self._held = b""
                    return held + data
                return data
            self._held = data[boundary:] if boundary else held + data
            if len(self._held) > MAX_HELD_BYTES:
                self._holding = False
                return held + data
            return held + data[:boundary] if boundary else b""
        if self._decoder is not None:
            return self._decoder.feed(data)
        return data

    def ending(self, event: bytes) -> bytes:
        """Return what tells the client, in the middle of the body, that it is over.

        Nothing, where an incomplete body is the only honest sign that is left.

        Args:
            event: The last event; the one before it may be incomplete.
        """
        if not self._events:
            return b""
        event = b"\n\n" + event
        if self._holding:
            return chunk(event) + LAST_CHUNK
        return event if self._open_ended else b""

    def finish(self) -> bytes:
        """Return what is to be sent behind the body, once it is complete."""
        return b""


class ChunkEncoder(BodyEncoder):
    """A body that ends otherwise, in a chunked answer that has begun before."""

    __slots__ = ()
    passing = False

    def shape(self, data: bytes, boundary: int) -> bytes:  # noqa: ARG002 -- it has no chunks
        """Return *data* as a chunk."""
        return chunk(data) if data else b""

    def ending(self, event: bytes) -> bytes:
        """Return *event* and the end."""
        return chunk(b"\n\n" + event) + LAST_CHUNK

    def finish(self) -> bytes:
        """Return the end."""
        return LAST_CHUNK


class ErrorBody(BodyEncoder):
    """A body that has no place in the event stream that has begun: it becomes an error event."""

    __slots__ = ("_body", "_content_type", "_dialect", "_status", "_unchunk")
    passing = False

    def __init__(self, head: ResponseHead, dialect: StreamDialect) -> None:
        super().__init__(head, http10=False)
        self._unchunk = Dechunker() if head.framing is Framing.CHUNKED else None
        self._status = head.status
        self._content_type = (head.get(b"content-type") or b"nothing").decode("latin-1")
        self._dialect = dialect
        self._body = b""

    def shape(self, data: bytes, boundary: int) -> bytes:  # noqa: ARG002 -- nothing is passed on
        """Take in *data*; nothing is to be sent yet."""
        if self._unchunk is not None:
            data = self._unchunk.feed(data)
        self._body += data[: MAX_HELD_BYTES - len(self._body)]
        return b""

    def finish(self) -> bytes:
        """Return the error event and the end."""
        event = self._dialect.answer_as_error(self._status, self._content_type, self._body)
        return chunk(event) + LAST_CHUNK


def continued(head: ResponseHead, dialect: StreamDialect) -> BodyEncoder:
    """Return what becomes of a body in a chunked event stream that has begun before."""
    if head.status != HTTPStatus.OK or not head.is_event_stream or head.get(b"content-encoding"):
        return ErrorBody(head, dialect)
    if head.framing is Framing.CHUNKED:
        return BodyEncoder(head, http10=False)
    return ChunkEncoder(head, http10=False)


def chunk(data: bytes) -> bytes:
    """Return *data*, which is not empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
