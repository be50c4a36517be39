"""Output that is too fast to be kept: it is counted, and only its end is kept. Pure."""

from __future__ import annotations

import re
from typing import Final

from ..logs.lines import MAX_LINE_BYTES, Line, LineSplitter

# Prefix of the lines in which llama-server reports its state to its parent.
# Source: llama.cpp, tools/server.
PROTOCOL_PREFIX: Final = "cmd_child_to_router:"
_PROTOCOL: Final = re.compile(re.escape(PROTOCOL_PREFIX.encode()) + rb"[^\r\n]*\r*\n?")

# Bytes that are kept of the dropped output: its end.
_TAIL_BYTES: Final = MAX_LINE_BYTES


class OutputThrottle:
    """Counts the output that is dropped, and keeps its end and the child protocol.

    Args:
        unfinished: The line that had begun when the throttle took over.
    """

    def __init__(self, unfinished: bytes) -> None:
        self._unfinished = unfinished
        self._tail = b""
        self._dropped_lines = 0
        self._dropped_bytes = 0

    def drop(self, data: bytes) -> list[Line]:
        """Count *data* as dropped; return the lines of the child protocol that it completes."""
        ended, newline, rest = data.rpartition(b"\n")
        found: list[Line] = []
        if newline:
            complete = self._unfinished + ended + newline
            self._unfinished = b""
            if PROTOCOL_PREFIX.encode() in complete:
                found = LineSplitter().feed(b"".join(_PROTOCOL.findall(complete)))
                complete = _PROTOCOL.sub(b"", complete)
            self._dropped_lines += complete.count(b"\n")
            self._dropped_bytes += len(complete)
            self._tail = (self._tail + complete[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        self._unfinished += rest
        excess_bytes = max(len(self._unfinished) - _TAIL_BYTES, 0)
        self._dropped_bytes += excess_bytes
        self._unfinished = self._unfinished[excess_bytes:]
        return found

    def finish(self) -> tuple[int, int, bytes]:
        """Return the numbers of dropped lines and bytes, and the kept end of the output."""
        tail = self._tail
        if self._dropped_bytes > len(tail):
            tail = tail.partition(b"\n")[2]  # its first line may be incomplete
        dropped_bytes = self._dropped_bytes - len(tail)
        return self._dropped_lines - tail.count(b"\n"), dropped_bytes, tail + self._unfinished
