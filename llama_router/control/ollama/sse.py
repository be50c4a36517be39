"""The data of server-sent events out of bytes that come in pieces. Pure.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ...errors.backends import UpstreamError

#: Longest event that is put together, in bytes; a chunk of an answer has a few hundred.
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024


class Events:
    """Puts the ``data`` of events together; everything else in them is of no use here."""

    def __init__(self) -> None:
        self._rest = bytearray()  # a line that is not complete
        self._data: list[bytes] = []
        self._size_bytes = 0

    def feed(self, received: bytes) -> Iterator[bytes]:
        """Take in bytes and yield the data of every event that they complete.

        Raises:
            UpstreamError: if an event is too long.
        """
        self._size_bytes += len(received)
        # A line may end with CR, LF or both; nobody who streams JSON writes a bare CR.
        *lines, rest = received.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        for line in lines:
            line = line.removesuffix(b"\r")  # noqa: PLW2901 -- the same line, as it counts
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                data, self._data = b"\n".join(self._data), []
                yield data
            if not self._data:
                self._size_bytes = 0
        if self._size_bytes > MAX_EVENT_BYTES:
            raise UpstreamError(f"the backend sent an event of over {MAX_EVENT_BYTES} bytes")
