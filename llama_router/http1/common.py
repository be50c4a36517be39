"""What both directions of HTTP/1.1 share: fields, hop-by-hop names, the chunked coding."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from ..errors.backends import UpstreamError
from ..errors.base import RouterError
from ..errors.requests import RequestError

Fields: TypeAlias = list[tuple[bytes, bytes]]
"""Header fields in the order of the message: lower-cased name, trimmed value."""

MAX_HEAD_BYTES: Final = 64 * 1024
"""Longest head that is read. llama-server itself stops at 8 KiB per line."""

MAX_CHUNK_LINE_BYTES: Final = 256
"""Longest chunk-size line, extensions and line end included. Real ones have under 20."""

MAX_TRAILER_BYTES: Final = 8 * 1024
"""Longest trailer section. It is checked and, in requests, thrown away."""

TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
VALUE: Final = rb"[^\x00-\x08\x0a-\x1f\x7f]"  # HTAB, SP, visible ASCII, obs-text

# Possessive quantifiers keep every pattern of this package linear. They stand behind single
# characters only: behind groups, CPython before 3.11.5 gets them wrong (its issue 106052).
_FIELD_LINE = re.compile(rb"^(" + TOKEN + rb"++):(" + VALUE + rb"*+)\r\n", re.MULTILINE)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16}+)(?:[ \t]*+;" + VALUE + rb"*+)?\r\n")

HOP_BY_HOP: Final = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Fields that end at this hop, whoever names them. Source: RFC 9110, section 7.6.1."""

NO_OPTIONS: Final[frozenset[bytes]] = frozenset()

_CR = 13


def parse_fields(data: bytes | bytearray, start: int, end: int) -> Fields | None:
    """Return the fields in ``data[start:end]``, or None if a line in it is not a field.

    Args:
        data: A head. ``data[start - 1]`` is a line feed.
        start: Where the first field line begins.
        end: Just behind the line end of the last one.
    """
    found = _FIELD_LINE.findall(data, start, end)
    # A match starts behind one line feed and holds exactly one: equally many of both
    # means that no line was left out, and nothing stands between two matches.
    if len(found) != data.count(b"\n", start, end):
        return None
    return [(name.lower(), value.strip(b" \t")) for name, value in found]


def select(fields: Fields, names: frozenset[bytes]) -> dict[bytes, list[bytes]]:
    """Return the values of those *fields* that are in *names*, by name."""
    selected: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        if name in names:
            selected.setdefault(name, []).append(value)
    return selected


def connection_options(values: list[bytes] | None) -> frozenset[bytes]:
    """Return the lower-cased members of all ``Connection`` *values*."""
    if not values:
        return NO_OPTIONS
    members = b",".join(values).lower().split(b",")
    return frozenset(member.strip(b" \t") for member in members) - {b""}


def parse_length(value: bytes) -> int | None:
    """Return a ``Content-Length``, or None if *value* is not plain digits or absurdly long."""
    return int(value) if value.isdigit() and len(value) <= 18 else None


class ChunkWalker:
    """Finds the end of a chunked body in pieces of any size; keeps no payload.

    Strict: sizes are 1 to 16 hexadecimal digits, every line ends with CRLF, and so does
    every chunk. Between two calls it holds at most one incomplete line.

    Attributes:
        done: The last chunk and the trailer section are complete.
        chunks: Data chunks completed so far; the last chunk (size 0) is none.
        boundary: Offset in the data of the last call, just behind the last chunk that
            was completed in it (or behind the whole message); 0 if none was.

    Source: RFC 9112, section 7.1.
    """

    __slots__ = ("_left", "_line", "_trailer_bytes", "boundary", "chunks", "done")

    def __init__(self) -> None:
        self.done = False
        self.chunks = 0
        self.boundary = 0
        self._left = 0  # bytes of the current chunk still to come, with its CRLF
        self._line = b""  # the beginning of a line that the last read cut
        self._trailer_bytes: int | None = None  # None: not there yet

    @property
    def between_chunks(self) -> bool:
        """Whether the next byte, if any is to come, begins a chunk."""
        return not (self.done or self._left or self._line or self._trailer_bytes is not None)

    def whole(self, data: bytes) -> bool:
        """Take in *data* if it is whole chunks, and not the last one; return whether it is.

        To be called `between_chunks` only, where it is left. What is refused is not taken in.
        """
        pos, size, chunks = 0, len(data), 0
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
        """Payload bytes of the chunk that was announced last and are still to come."""
        return max(0, self._left - 2)

    def _error(self, message: str) -> RouterError:
        """Return what to raise when the peer broke the coding."""
        raise NotImplementedError

    def walk(self, data: bytes | bytearray, payload: list[bytes] | None = None) -> int:
        """Walk over *data*; return how many of its leading bytes belong to the body.

        Args:
            data: What follows the data of the call before.
            payload: If given, the decoded pieces are appended to it.

        Raises:
            RequestError: A client broke the coding (`ChunkedBody`).
            UpstreamError: A backend broke the coding.
        """
        pos = boundary = 0
        size = len(data)
        while pos < size and not self.done:
            # The common case, and the hot loop: at *pos* starts a chunk that ends in *data*.
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
        """Go on by one line or one piece of a chunk, whole or cut; return where that ends."""
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
        elif _FIELD_LINE.fullmatch(line) is None:
            raise self._error("a trailer field is malformed")

    def _continue_chunk(
        self, data: bytes | bytearray, pos: int, payload: list[bytes] | None
    ) -> int:
        end = min(pos + self._left, len(data))
        left = self._left - (end - pos)
        # Of the CRLF behind the chunk, this piece may end with both bytes, either or none.
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
    """A walker over what a client sends."""

    __slots__ = ()

    def _error(self, message: str) -> RequestError:
        return RequestError(f"The chunked request body is invalid: {message}.")


class UpstreamChunks(ChunkWalker):
    """A walker over what a backend sends."""

    __slots__ = ()

    def _error(self, message: str) -> UpstreamError:
        return UpstreamError(f"The backend's chunked response is invalid: {message}.")
