"""Output that comes faster than it can be kept: counted, its end remembered."""

from __future__ import annotations

import re
from typing import Final

from llama_router.logs.lines import MAX_LINE_BYTES, Line, LineSplitter

# How llama-server tells its parent about its state. Source: llama.cpp, tools/server.
PROTOCOL_PREFIX: Final = "cmd_child_to_router:"
_PROTOCOL: Final = re.compile(re.escape(PROTOCOL_PREFIX.encode()) + rb"[^\r\n]*\r*\n?")

# Kept of a flood's end, once a second.
_NEWEST_BYTES: Final = MAX_LINE_BYTES


class OutputThrottle:
    """Output that comes faster than it can be kept: counted, its end remembered."""

    def __init__(self, unfinished: bytes) -> None:
        self._unfinished = unfinished
        self._newest = b""
        self._lines = 0
        self._bytes = 0

    def skim(self, data: bytes) -> list[Line]:
        """Count *data*; return the lines of the child protocol that it completes."""
        ended, newline, rest = data.rpartition(b"\n")
        found: list[Line] = []
        if newline:
            complete = self._unfinished + ended + newline
            self._unfinished = b""
            if PROTOCOL_PREFIX.encode() in complete:
                found = LineSplitter().feed(b"".join(_PROTOCOL.findall(complete)))
                complete = _PROTOCOL.sub(b"", complete)
            self._lines += complete.count(b"\n")
            self._bytes += len(complete)
            self._newest = (self._newest + complete[-_NEWEST_BYTES:])[-_NEWEST_BYTES:]
        self._unfinished += rest
        excess_bytes = max(len(self._unfinished) - _NEWEST_BYTES, 0)
        self._bytes += excess_bytes
        self._unfinished = self._unfinished[excess_bytes:]
        return found

    def settle(self) -> tuple[int, int, bytes]:
        """Return how many lines and bytes are lost, and the newest output."""
        newest = self._newest
        if self._bytes > len(newest):
            newest = newest.partition(b"\n")[2]  # its first line may be half a line
        lost_bytes = self._bytes - len(newest)
        return self._lines - newest.count(b"\n"), lost_bytes, newest + self._unfinished
