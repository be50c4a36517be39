"""Encoders for a response's body on its way to the client. Sans-IO.

Most bodies pass unchanged (`BodyEncoder`). Inside an event stream that the router began
before the backend answered, a body is framed as chunks (`ChunkEncoder`) or becomes an error
event (`ErrorBody`). If the model's name is to be replaced, the length of the body changes, so
it is framed as chunks as well, or ends with the connection (`ModelNameEncoder`).
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Final

from ..core.apis.dialect import StreamDialect
from ..core.apis.event_stream import KEEPALIVE, ends_with_event
from ..core.apis.model_names import ModelNameRewriter
from ..http1 import Dechunker, Framing, ResponseHead

#: Largest incomplete chunk that is held back, in bytes. Events are far smaller; a larger
#: chunk is passed on in pieces, and then no error event can follow it.
MAX_HELD_BYTES: Final = 64 * 1024

LAST_CHUNK: Final = b"0\r\n\r\n"

_NOT_COMPRESSED: Final = (None, b"", b"identity")


class BodyEncoder:
    """Encodes a body that passes unchanged.

    Of a chunked event stream only complete chunks are passed on, so that an error event can
    always follow them. For an HTTP/1.0 client chunks are decoded.
    """

    __slots__ = ("_decoder", "_events", "_from_chunks", "_held", "_in_chunks", "_open_ended")

    def __init__(self, head: ResponseHead, *, http10: bool, open_ended: bool = False) -> None:
        """Make an encoder.

        Args:
            head: The backend's response.
            http10: The client uses HTTP/1.0.
            open_ended: The client's body ends with the connection, whatever the backend's does.
        """
        self._from_chunks = head.framing is Framing.CHUNKED
        self._events = head.is_event_stream
        self._decoder = Dechunker() if self._from_chunks and http10 else None
        # The client gets chunks, between which the router can put some of its own.
        self._in_chunks = self._events and self._from_chunks and not http10
        self._open_ended = open_ended or head.framing is Framing.CLOSE or self._decoder is not None
        self._held = b""

    @property
    def passes_through(self) -> bool:
        """Whether `encode` returns complete chunks unchanged in the current state."""
        return self._decoder is None and not self._held

    def encode(self, data: bytes, boundary: int) -> bytes:
        """Return the bytes to send for *data*; *boundary* is the end of its last complete chunk."""
        if self._in_chunks:
            held = self._held
            if boundary == len(data):
                if held:
                    self._held = b""
                    return held + data
                return data
            self._held = data[boundary:] if boundary else held + data
            if len(self._held) > MAX_HELD_BYTES:
                self._in_chunks = False
                return held + data
            return held + data[:boundary] if boundary else b""
        if self._decoder is not None:
            return self._decoder.feed(data)
        return data

    def error_ending(self, event: bytes) -> bytes:
        """Return the bytes that end the body early with *event*.

        Empty where the client can only detect the failure by the incomplete body.

        Args:
            event: The error event; the event before it may be incomplete.
        """
        if not self._events:
            return b""
        return self._framed(b"\n\n" + event) + (LAST_CHUNK if self._in_chunks else b"")

    def keepalive(self, tail: bytes, *, between_chunks: bool) -> bytes:
        """Return the bytes to send while the backend is silent; empty where none may stand.

        Args:
            tail: The end of the body so far, as the backend framed it.
            between_chunks: It ends with a complete chunk.
        """
        if not self._events or (self._from_chunks and tail and not between_chunks):
            return b""
        if not ends_with_event(tail, chunked=self._from_chunks):
            return b""
        return self._framed(KEEPALIVE)

    def finish(self) -> bytes:
        """Return the bytes to send after the complete body."""
        return b""

    def _framed(self, data: bytes) -> bytes:
        """Return *data* as a part of the body; empty if the router can add nothing to it."""
        if self._in_chunks:
            return chunk(data)
        return data if self._open_ended else b""


class ChunkEncoder(BodyEncoder):
    """Encodes a body of another framing as chunks, inside a stream that has begun."""

    __slots__ = ()
    passes_through = False

    def __init__(self, head: ResponseHead) -> None:
        super().__init__(head, http10=False)
        self._in_chunks = True

    def encode(self, data: bytes, boundary: int) -> bytes:  # noqa: ARG002 -- it has no chunks
        """Return *data* as a chunk."""
        return chunk(data) if data else b""

    def finish(self) -> bytes:
        """Return the last chunk."""
        return LAST_CHUNK


class ErrorBody(BodyEncoder):
    """Collects a body that is no event stream, and makes it an error event of the stream."""

    __slots__ = ("_body", "_content_type", "_decoder_of_chunks", "_dialect", "_status")
    passes_through = False

    def __init__(self, head: ResponseHead, dialect: StreamDialect, *, in_chunks: bool) -> None:
        """Make an encoder.

        Args:
            head: The backend's response.
            dialect: The API of the stream.
            in_chunks: The client gets chunks; else the body ends with the connection.
        """
        super().__init__(head, http10=False, open_ended=True)
        self._in_chunks = in_chunks
        self._decoder_of_chunks = Dechunker() if head.framing is Framing.CHUNKED else None
        self._status = head.status
        self._content_type = (head.get(b"content-type") or b"nothing").decode("latin-1")
        self._dialect = dialect
        self._body = b""

    def encode(self, data: bytes, boundary: int) -> bytes:  # noqa: ARG002 -- nothing is sent yet
        """Collect *data*; return nothing."""
        if self._decoder_of_chunks is not None:
            data = self._decoder_of_chunks.feed(data)
        self._body += data[: MAX_HELD_BYTES - len(self._body)]
        return b""

    def finish(self) -> bytes:
        """Return the error event, and the end of the body."""
        event = self._dialect.answer_as_error(self._status, self._content_type, self._body)
        return self._framed(event) + (LAST_CHUNK if self._in_chunks else b"")


class ModelNameEncoder(BodyEncoder):
    """Replaces the model's name in a body, and frames it anew; holds nothing back."""

    __slots__ = ("_decoder_of_chunks", "_rewriter")
    passes_through = False

    def __init__(self, head: ResponseHead, rewriter: ModelNameRewriter, *, in_chunks: bool) -> None:
        """Make an encoder.

        Args:
            head: The backend's response.
            rewriter: Replaces the name.
            in_chunks: The client gets chunks; else the body ends with the connection.
        """
        super().__init__(head, http10=False, open_ended=True)
        self._rewriter = rewriter
        self._in_chunks = in_chunks
        self._decoder_of_chunks = Dechunker() if head.framing is Framing.CHUNKED else None

    def encode(self, data: bytes, boundary: int) -> bytes:  # noqa: ARG002 -- the chunks are new
        """Return *data* with the other name."""
        if self._decoder_of_chunks is not None:
            data = self._decoder_of_chunks.feed(data)
        data = self._rewriter.feed(data)
        return chunk(data) if data and self._in_chunks else data

    def finish(self) -> bytes:
        """Return the end of the body."""
        return LAST_CHUNK if self._in_chunks else b""


def encoder_for_stream(
    head: ResponseHead, dialect: StreamDialect, *, model_name: str | None, in_chunks: bool
) -> BodyEncoder:
    """Return the encoder for a body inside an event stream that has begun.

    Args:
        head: The backend's response.
        dialect: The API of the stream.
        model_name: Replaces the model's name in the body; None to leave it.
        in_chunks: The client gets chunks; else the body ends with the connection.
    """
    if head.status != HTTPStatus.OK or not head.is_event_stream or head.get(b"content-encoding"):
        return ErrorBody(head, dialect, in_chunks=in_chunks)
    if model_name is not None:
        rewriter = ModelNameRewriter(model_name, events=True)
        return ModelNameEncoder(head, rewriter, in_chunks=in_chunks)
    if head.framing is Framing.CHUNKED or not in_chunks:
        return BodyEncoder(head, http10=not in_chunks, open_ended=not in_chunks)
    return ChunkEncoder(head)


def model_name_rewriter(head: ResponseHead, name: str) -> ModelNameRewriter | None:
    """Return a rewriter that puts *name* into a body; None for a body that cannot contain it.

    JSON and event streams can, unless they are compressed.
    """
    if head.framing is Framing.NONE or head.get(b"content-encoding") not in _NOT_COMPRESSED:
        return None
    if head.is_event_stream:
        return ModelNameRewriter(name, events=True)
    content_type = head.get(b"content-type") or b""
    return ModelNameRewriter(name, events=False) if b"json" in content_type.lower() else None


def without_length(head: ResponseHead) -> ResponseHead:
    """Return *head* with chunks instead of an announced length."""
    if head.framing is not Framing.LENGTH:
        return head
    return replace(head, framing=Framing.CHUNKED, content_length=None)


def chunk(data: bytes) -> bytes:
    """Return *data*, which must not be empty, as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
