"""What becomes of an answer's body on its way to the client. Sans-IO."""

from __future__ import annotations

from typing import Final

from ..core.answers import error_event
from ..errors import RouterError
from .wire import Dechunker, Framing, ResponseHead

#: Most bytes of an incomplete chunk that are held back. Events are far smaller; a
#: larger chunk is passed on in pieces, and then cannot be ended politely.
MAX_HELD_BYTES: Final = 64 * 1024

_LAST_CHUNK: Final = b"0\r\n\r\n"


class Shaper:
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

    def ending(self, error: RouterError) -> bytes:
        """Return what tells the client, in the middle of the body, that it is over.

        Nothing, where an incomplete body is the only honest sign that is left.
        """
        if not self._events:
            return b""
        event = error_event(error)
        if self._holding:
            return b"%x\r\n%b\r\n%b" % (len(event), event, _LAST_CHUNK)
        return event if self._open_ended else b""
