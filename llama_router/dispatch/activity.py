"""The activity of clients on long-lived connections: it decides which of them hold a lease. Pure.

A WebSocket, or a download without an announced end, may stay open for days. Its lease would keep
the model loaded and every other model out, although its client perhaps only listens. So such a
connection holds its lease while its client sends, and `HOLD_S` after; without a lease it goes on
for as long as its backend runs.

At the end of each hold a client that has sent meanwhile gets another one, if the scheduler still
grants the model. So a client that sends without a pause cannot keep a waiting model out for
longer than requests in a row can (``max_dwell_s``).
"""

from __future__ import annotations

import heapq
import math
from typing import Final

import attrs

#: Seconds for which a connection holds its lease after its client sent something. People type and
#: pages poll at this pace; a swap waits for it once.
HOLD_S: Final = 5.0

#: Seconds between two attempts of a connection to get its lease again.
RETRY_S: Final = 0.5


#: Media types of files: their end comes by itself, also where their length is not announced. Not
#: among them are plain text (a log that is followed), lines of JSON, unknown bytes, and what
#: replaces itself for ever (``multipart/x-mixed-replace``).
_FILES: Final = (
    *(b"image/", b"audio/", b"video/", b"font/", b"model/"),
    *(b"text/html", b"text/css", b"text/javascript", b"text/csv", b"text/xml", b"text/markdown"),
    *(b"application/json", b"application/javascript", b"application/xml", b"application/wasm"),
    *(b"application/pdf", b"application/zip", b"application/gzip", b"application/x-tar"),
)
_LINES: Final = (b"application/json-", b"application/jsonl")


def is_file(content_type: bytes | None, disposition: bytes | None) -> bool:
    """Return whether a response of unannounced length is a file, which has an end.

    Args:
        content_type: Value of its Content-Type field; None if it has none.
        disposition: Value of its Content-Disposition field; None if it has none.
    """
    if disposition is not None:
        return True
    kind = b"" if content_type is None else content_type.strip().lower()
    return kind.startswith(_FILES) and not kind.startswith(_LINES)


@attrs.frozen
class HoldEnd:
    """A hold has ended.

    Attributes:
        request: The request.
        silent: Its client sent nothing in the last `HOLD_S` seconds.
    """

    request: int
    silent: bool


@attrs.define(eq=False)
class _Connection:
    """One connection.

    Attributes:
        sent_s: Clock time at which its client last sent something, in seconds.
        until_s: Clock time of the end of its hold, in seconds; None if it does not hold its lease.
        retry_s: Clock time before which it does not ask for its lease again, in seconds.
    """

    sent_s: float
    until_s: float | None
    retry_s: float = -math.inf


class ClientActivity:
    """The connections that hold their leases only while their clients send."""

    def __init__(self) -> None:
        self._connections: dict[int, _Connection] = {}
        self._ends: list[tuple[float, int]] = []  # a heap; entries of former holds are skipped

    @property
    def next_s(self) -> float:
        """Clock time at which `ended` is to be called, in seconds; infinite for never."""
        return self._ends[0][0] if self._ends else math.inf

    def begin(self, request: int, now_s: float) -> None:
        """Take in a connection that holds its lease; its client has just sent the request."""
        self._connections[request] = connection = _Connection(now_s, None)
        self._hold(request, connection)

    def forget(self, request: int) -> None:
        """Forget a connection that has ended, or that keeps its lease; harmless if unknown."""
        self._connections.pop(request, None)

    def sent(self, request: int, now_s: float) -> bool:
        """Record that the client sent something; return whether its lease is to be taken again."""
        connection = self._connections.get(request)
        if connection is None:
            return False
        connection.sent_s = now_s
        if connection.until_s is not None or now_s < connection.retry_s:
            return False
        connection.retry_s = now_s + RETRY_S
        return True

    def holds(self, request: int) -> None:
        """Record that a connection got its lease again, or goes on to hold it."""
        self._hold(request, self._connections[request])

    def ended(self, now_s: float) -> list[HoldEnd]:
        """Return the holds that have ended; each is answered by `holds`, or has no lease now."""
        ended: list[HoldEnd] = []
        while self._ends and self._ends[0][0] <= now_s:
            until_s, request = heapq.heappop(self._ends)
            connection = self._connections.get(request)
            if connection is not None and connection.until_s == until_s:
                connection.until_s = None
                ended.append(HoldEnd(request, connection.sent_s + HOLD_S <= now_s))
        return ended

    def _hold(self, request: int, connection: _Connection) -> None:
        connection.until_s = until_s = connection.sent_s + HOLD_S
        heapq.heappush(self._ends, (until_s, request))
