"""WebSocket frames in a stream of bytes: their bounds and kinds. Pure.

The router passes frames on as they are. It looks at their headers to know whether a client sends
data, and where a frame of its own may stand.

Source: RFC 6455, sections 5.2, 5.5 and 7.4.1.
"""

from __future__ import annotations

from typing import Final

#: Status codes of a close frame.
GOING_AWAY: Final = 1001
INTERNAL_ERROR: Final = 1011

#: Longest reason in a close frame, in bytes.
_MAX_REASON: Final = 123

_FIN: Final = 0x80
_OPCODE: Final = 0x0F
_CLOSE: Final = 0x8
_FIRST_CONTROL: Final = 0x8
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127
_SHORT_HEADER: Final = 2
_MASK_BYTES: Final = 4


class FrameTracker:
    """Follows the frames of one direction, without checking or keeping them.

    Attributes:
        frames: Frames that have begun so far.
        closed: The sender has sent a close frame; what follows it is ignored.
    """

    __slots__ = ("_header", "_is_data", "_left_bytes", "closed", "frames")

    def __init__(self) -> None:
        self._header = b""  # the part of an incomplete header that has arrived
        self._left_bytes = 0  # of the payload of the current frame
        self._is_data = False  # that frame is no control frame
        self.frames = 0
        self.closed = False

    @property
    def left_bytes(self) -> int:
        """Bytes of the current frame that have not arrived yet."""
        return self._left_bytes

    @property
    def between_frames(self) -> bool:
        """Whether the last frame is complete, and no other has begun."""
        return not (self._header or self._left_bytes)

    def feed(self, data: bytes) -> bool:
        """Follow *data*; return whether it has any byte of a data frame."""
        if self.closed:
            return False
        end = self._left_bytes  # of the current frame, as an offset in the data
        has_data = bool(end and data) and self._is_data
        if self._header:
            data, self._header = self._header + data, b""
        size = len(data)
        while end < size:
            start, end = end, end + _SHORT_HEADER
            length = data[start + 1] & _LENGTH if end <= size else 0
            if length == _LENGTH_16:
                length = int.from_bytes(data[end : end + 2], "big")
                end += 2
            elif length == _LENGTH_64:
                length = int.from_bytes(data[end : end + 8], "big")
                end += 8
            if end <= size and data[start + 1] & _MASKED:
                end += _MASK_BYTES
            if end > size:
                self._header, end = data[start:], size
                break
            opcode = data[start] & _OPCODE
            self.frames += 1
            self._is_data = opcode < _FIRST_CONTROL
            has_data = has_data or self._is_data
            end += length
            if opcode == _CLOSE:
                self.closed = True
                break
        self._left_bytes = end - size
        return has_data


def close_frame(code: int, reason: str) -> bytes:
    """Return an unmasked close frame, as servers send it.

    Args:
        code: The status code.
        reason: ASCII; what is beyond the longest reason is cut off.
    """
    payload = code.to_bytes(2, "big") + reason.encode("ascii", "replace")[:_MAX_REASON]
    return bytes((_FIN | _CLOSE, len(payload))) + payload
