"""Body framing: finds the end of a body, and decodes the chunked coding. Both directions.

Source: RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ..errors.backends import UpstreamError
from ..errors.base import RouterError
from ..errors.requests import BodyTooLargeError, RequestError
from .fields import FIELD_LINE, VALUE

if TYPE_CHECKING:
    from .response import ResponseHead

MAX_CHUNK_LINE_BYTES: Final = 256
"""Longest chunk-size line, with extensions and line end. Real ones have under 20."""

MAX_TRAILER_BYTES: Final = 8 * 1024
"""Longest trailer section. It is checked and, in requests, dropped."""

#: Bytes up to which a single chunk is recognised by its length; most events of streams are shorter.
_MOST_SINGLE: Final = 1024


def _single_lines() -> list[bytes]:
    """Return, by the length of a whole chunk, the line that it begins with as servers write it.

    A length that no such chunk has gets more bytes than that.
    """
    lines = [bytes(_MOST_SINGLE)] * _MOST_SINGLE
    for payload in range(1, _MOST_SINGLE):
        line = b"%x\r\n" % payload
        size = len(line) + payload + 2
        if size < _MOST_SINGLE:
            lines[size] = line
    return lines


_SINGLE: Final = _single_lines()

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16}+)(?:[ \t]*+;" + VALUE + rb"*+)?\r\n")


class Framing(StrEnum):
    """The mechanism that ends a response's body."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"


# A module's global is read ten times as fast as an enum's member, and each response reads
# some of them.
_LENGTH, _CHUNKED, _CLOSE = Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE


class ChunkWalker:
    """Finds the end of a chunked body that arrives in pieces of any size; keeps no payload.

    Strict: sizes are 1 to 16 hexadecimal digits, every line ends with CRLF, and so does
    every chunk. Between two calls it holds at most one incomplete line.

    Attributes:
        done: The last chunk and the trailer section are complete.
        chunks: Data chunks completed so far; the last chunk (size 0) is not counted.
        boundary: Offset in the data of the last call, just after the last chunk that was
            completed in it (or after the whole message); 0 if none was.

    Source: RFC 9112, section 7.1.
    """

    __slots__ = ("_left", "_line", "_trailer_bytes", "boundary", "chunks", "done")

    def __init__(self) -> None:
        self.done = False
        self.chunks = 0
        self.boundary = 0
        self._left = 0  # bytes of the current chunk still to come, with its CRLF
        self._line = b""  # the beginning of an incomplete line
        self._trailer_bytes: int | None = None  # None before the last chunk

    @property
    def between_chunks(self) -> bool:
        """Whether the next byte begins a chunk."""
        return not (self.done or self._left or self._line or self._trailer_bytes is not None)

    def take_whole_chunks(self, data: bytes) -> bool:
        """Consume *data* if it consists of complete chunks, without the last one.

        Only to be called `between_chunks`, which then stays true. Rejected data is not
        consumed.

        Returns:
            Whether it was consumed.
        """
        size = len(data)
        if size < _MOST_SINGLE and data.startswith(_SINGLE[size]) and data.endswith(b"\r\n"):
            self.chunks += 1
            return True
        pos = chunks = 0
        while True:
            match = _CHUNK_LINE.match(data, pos, pos + MAX_CHUNK_LINE_BYTES)
            if match is None:
                return False
            length = int(match[1], 16)
            pos = match.end() + length + 2
            if pos > size or not length or not data.startswith(b"\r\n", pos - 2):
                return False
            chunks += 1
            if pos == size:
                self.chunks += chunks
                return True

    @property
    def payload_left(self) -> int:
        """Payload bytes of the current chunk that have not arrived."""
        return max(0, self._left - 2)

    def _error(self, message: str) -> RouterError:
        """Return the error for an invalid coding."""
        raise NotImplementedError

    def walk(self, data: bytes | bytearray, payload: list[bytes] | None = None) -> int:
        """Consume *data*; return the number of its leading bytes that belong to the body.

        Args:
            data: The bytes after those of the previous call.
            payload: If given, the decoded pieces are appended to it.

        Raises:
            RequestError: if a client's coding is invalid (`ChunkedBody`).
            UpstreamError: if a backend's coding is invalid.
        """
        pos = boundary = 0
        size = len(data)
        while pos < size and not self.done:
            # The common case, and the hot loop: a chunk starts at *pos* and ends in *data*.
            if not (self._left or self._line or self._trailer_bytes is not None):
                match = _CHUNK_LINE.match(data, pos, pos + MAX_CHUNK_LINE_BYTES)
                if match is not None and (length := int(match[1], 16)):
                    begin = match.end()
                    end = begin + length + 2
                    if end <= size and data[end - 2 : end] == b"\r\n":
                        self.chunks += 1
                        boundary = pos = end
                        if payload is not None:
                            payload.append(bytes(data[begin : end - 2]))
                        continue
            pos = self._step(data, pos, payload)
            if not (self._left or self._line or self._trailer_bytes is not None):
                boundary = pos
        self.boundary = pos if self.done else boundary
        return pos

    def _step(self, data: bytes | bytearray, pos: int, payload: list[bytes] | None) -> int:
        """Consume one line or one piece of a chunk, complete or not; return its end."""
        if self._left:
            return self._continue_chunk(data, pos, payload)
        used = self._trailer_bytes
        limit = MAX_CHUNK_LINE_BYTES if used is None else MAX_TRAILER_BYTES - used
        room = limit - len(self._line)
        end = data.find(b"\n", pos, pos + room) + 1
        line = self._line + data[pos : end or pos + room]
        if not end:
            if len(line) >= limit:
                raise self._error("a chunk-size line or the trailer section is too long")
            self._line = line
            return len(data)
        self._line = b""
        if used is None:
            self._begin_chunk(line)
        else:
            self._trailer_bytes = used + len(line)
            self._end_trailer_line(line)
        return end

    def _begin_chunk(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise self._error("a chunk-size line is malformed")
        if length := int(match[1], 16):
            self._left = length + 2
        else:
            self._trailer_bytes = 0

    def _end_trailer_line(self, line: bytes) -> None:
        if line == b"\r\n":
            self.done = True
        elif FIELD_LINE.fullmatch(line) is None:
            raise self._error("a trailer field is malformed")

    def _continue_chunk(
        self, data: bytes | bytearray, pos: int, payload: list[bytes] | None
    ) -> int:
        end = min(pos + self._left, len(data))
        left = self._left - (end - pos)
        # This piece may end with both, one or none of the bytes of the CRLF after the chunk.
        line_end = b"\r\n"[max(0, 2 - self._left) : max(0, 2 - left)]
        begin = end - len(line_end)
        if data[begin:end] != line_end:
            raise self._error("a chunk is not followed by CRLF")
        if payload is not None and begin > pos:
            payload.append(bytes(data[pos:begin]))
        self._left = left
        if not left:
            self.chunks += 1
        return end


class ClientChunks(ChunkWalker):
    """The walker over a client's body."""

    __slots__ = ()

    def _error(self, message: str) -> RequestError:
        return RequestError(f"The chunked request body is invalid: {message}.")


class UpstreamChunks(ChunkWalker):
    """The walker over a backend's body."""

    __slots__ = ()

    def _error(self, message: str) -> UpstreamError:
        return UpstreamError(f"The backend's chunked response is invalid: {message}.")


class ResponseFraming(UpstreamChunks):
    """Finds the end of one response's body; decodes nothing and keeps no payload.

    Attributes:
        done: The body is complete.
        boundary: After `feed`: offset in its data just after the last complete chunk (or the
            whole message), 0 if there was none. Without chunks: the result of `feed`.
        chunks: Data chunks completed so far.
        remaining: Bytes that have not arrived, if the length was announced; else 0.
    """

    __slots__ = ("_chunked", "_until_close", "remaining")

    def __init__(self, head: ResponseHead) -> None:
        super().__init__()
        length = head.content_length if head.framing is _LENGTH else None
        self.remaining = length or 0
        self._chunked = head.framing is _CHUNKED
        self._until_close = head.framing is _CLOSE
        self.done = not (self._chunked or self._until_close or self.remaining)

    def feed(self, data: bytes | bytearray) -> int:
        """Return the number of leading bytes of *data* that belong to this message.

        Raises:
            UpstreamError: if the chunked coding is invalid.
        """
        if self._chunked:
            return self.walk(data)
        used = 0 if self.done else len(data)
        if not self._until_close:
            used = min(used, self.remaining)
            self.remaining -= used
            self.done = not self.remaining
        self.boundary = used
        return used

    @property
    def between_chunks(self) -> bool:
        """Whether the next byte begins a chunk; never true without chunked coding."""
        return self._chunked and super().between_chunks

    def eof(self) -> bool:
        """Process the end of the connection; return whether the body is complete."""
        if self._until_close:
            self.done = True
        return self.done


class Dechunker(UpstreamChunks):
    """Decodes a backend's chunked body.

    Attributes:
        done: The body is complete.
    """

    __slots__ = ()

    def feed(self, data: bytes | bytearray) -> bytes:
        """Return the payload in *data*; bytes after the body are ignored.

        Raises:
            UpstreamError: if the chunked coding is invalid.
        """
        pieces: list[bytes] = []
        self.walk(data, pieces)
        return b"".join(pieces)


class ChunkedBody(ClientChunks):
    """Decodes a chunked request body; trailers are checked and dropped.

    Attributes:
        excess: Bytes after the message: the next, pipelined request.

    Source: RFC 9112, section 7.1.
    """

    __slots__ = ("_max_body_bytes", "_received_bytes", "excess")

    def __init__(self, max_body_bytes: int | None = None) -> None:
        super().__init__()
        self.excess = b""
        self._max_body_bytes = max_body_bytes
        self._received_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Return the payload in *data*; once `done`, all bytes go to `excess`.

        Raises:
            RequestError: if the coding is invalid. The connection cannot be used any further.
            BodyTooLargeError: if the payload, with the rest of the current chunk, is over
                *max_body_bytes*.
        """
        pieces: list[bytes] = []
        used = self.walk(data, pieces)
        if used < len(data):
            self.excess += data[used:]
        payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._max_body_bytes is not None:
            self._received_bytes += len(payload)
            if self._received_bytes + self.payload_left > self._max_body_bytes:
                raise BodyTooLargeError(
                    f"The request body is over {self._max_body_bytes} bytes (max_body_mib)."
                )
        return payload


class LengthBody:
    """Reads a request body of announced length; bytes after it are dropped.

    Attributes:
        done: The body is complete.

    Source: RFC 9112, section 6.2.
    """

    __slots__ = ("_left_bytes", "done")

    def __init__(self, length_bytes: int) -> None:
        self._left_bytes = length_bytes
        self.done = not length_bytes

    def feed(self, data: bytes) -> bytes:
        """Return the part of *data* that belongs to the body."""
        payload = data[: self._left_bytes]
        self._left_bytes -= len(payload)
        self.done = not self._left_bytes
        return payload
