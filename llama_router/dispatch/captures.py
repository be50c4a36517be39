"""Captures: the latest requests with their bodies, in a bounded part of memory. Pure.

They are kept only while ``[router] capture_mib`` allows it, and are never written anywhere.
"""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

import attrs

from ..core.config.redaction import MASK, is_secret
from ..errors.backends import UpstreamError
from ..http1 import Fields
from ..http1.fields import SECRET
from ..http1.framing import Dechunker, Framing
from ..http1.response import parse_response_head

#: The part of all the memory that one capture may take.
_LARGEST_PART: Final = 4

#: With this window size `zlib` decodes gzip only.
_GZIP: Final = 16 + zlib.MAX_WBITS


@attrs.define(eq=False, kw_only=True)
class Capture:
    """One request and the bytes of its response, as far as they are kept.

    Attributes:
        number: Number of the request in the activity log.
        method: Its method.
        target: Its path and query.
        fields: Its header fields; secrets are masked.
        body: Its body; None if that was passed on while it came.
        body_bytes: Length of the whole body.
        sent: What was sent to the client, the head first.
        sent_bytes: Length of all that was sent.
    """

    number: int
    method: str
    target: str
    fields: Fields
    body: bytes | None
    body_bytes: int
    sent: bytearray = attrs.field(factory=bytearray)
    sent_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """Return the memory that it takes."""
        return len(self.body or b"") + len(self.sent)


@attrs.frozen(kw_only=True)
class CapturedResponse:
    """A response, taken out of the bytes that were sent.

    Attributes:
        status: Its status; 0 if nothing was sent.
        fields: Its header fields; secrets are masked.
        body: Its body, decoded.
        is_whole: All of it is there.
    """

    status: int
    fields: Fields
    body: bytes
    is_whole: bool


class Captures:
    """The latest captures; old ones make room for new ones."""

    def __init__(self) -> None:
        self._kept: deque[Capture] = deque()
        self._by_number: dict[int, Capture] = {}
        self._bytes = 0
        self._limit_bytes = 0

    def begin(
        self,
        number: int,
        method: str,
        target: str,
        fields: Iterable[tuple[bytes, bytes]],
        body: bytes | bytearray | None,
        *,
        limit_bytes: int,
    ) -> Capture:
        """Keep a request; its response is added by `add`.

        Args:
            number: Its number in the activity log.
            method: Its method.
            target: Its path and query.
            fields: Its header fields.
            body: Its body; None if that is passed on while it comes.
            limit_bytes: Memory for all captures.
        """
        self._limit_bytes = limit_bytes
        kept = None if body is None else bytes(body[: limit_bytes // _LARGEST_PART])
        capture = Capture(
            number=number,
            method=method,
            target=_masked_target(target),
            fields=_masked(fields),
            body=kept,
            body_bytes=len(body or b""),
        )
        self._kept.append(capture)
        self._by_number[number] = capture
        self._bytes += len(kept or b"")
        self._drop_old()
        return capture

    def add(self, capture: Capture, data: bytes | bytearray | memoryview) -> None:
        """Add bytes that were sent to the client of *capture*."""
        capture.sent_bytes += len(data)
        room = self._limit_bytes // _LARGEST_PART - capture.size_bytes
        if room <= 0 or capture.number not in self._by_number:
            return
        part = data[:room]
        capture.sent += part
        self._bytes += len(part)
        self._drop_old()

    def limit(self, limit_bytes: int) -> None:
        """Allow so much memory from now on."""
        self._limit_bytes = limit_bytes
        self._drop_old()

    def find(self, number: int) -> Capture | None:
        """Return the capture of a request, if it is kept."""
        return self._by_number.get(number)

    def _drop_old(self) -> None:
        while self._kept and self._bytes > self._limit_bytes:
            oldest = self._kept.popleft()
            self._bytes -= oldest.size_bytes
            del self._by_number[oldest.number]


def response_of(capture: Capture) -> CapturedResponse:
    """Return the response in the bytes that were sent."""
    nothing = CapturedResponse(status=0, fields=[], body=b"", is_whole=False)
    data = bytes(capture.sent)
    try:
        while True:
            head = parse_response_head(data, request_method=capture.method.encode())
            if head is None:
                return nothing
            data = data[head.size :]
            if head.status >= 200 or head.status == 101:
                break
        is_cut = capture.sent_bytes > len(capture.sent)
        match head.framing:
            case Framing.NONE:
                body, is_whole = b"", True
            case Framing.LENGTH:
                length = head.content_length or 0
                body, is_whole = data[:length], len(data) >= length
            case Framing.CHUNKED:
                chunks = Dechunker()
                body = chunks.feed(data)
                is_whole = chunks.done
            case _:
                body, is_whole = data, not is_cut
    except UpstreamError:
        return nothing
    if head.get(b"content-encoding") == b"gzip":
        body = _unpacked(body)
    return CapturedResponse(
        status=head.status, fields=_masked(head.fields), body=body, is_whole=is_whole
    )


def masked_body(body: bytes) -> bytes:
    """Return the body of a request without secrets: texts in JSON with names of secrets."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(document, dict):
        return body
    secret = [
        name for name, value in document.items() if isinstance(value, str) and is_secret(name)
    ]
    if not secret:
        return body
    masked: dict[str, Any] = {**document, **dict.fromkeys(secret, MASK)}
    return json.dumps(masked, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _masked(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    return [(name, MASK.encode() if name.lower() in SECRET else value) for name, value in fields]


def _masked_target(target: str) -> str:
    path, question, query = target.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&")]
    shown = [f"{name}{equals}{MASK if is_secret(name) else value}" for name, equals, value in pairs]
    return path + question + "&".join(shown) if question else path


def _unpacked(body: bytes) -> bytes:
    try:
        return zlib.decompressobj(_GZIP).decompress(body, 16 * 2**20)
    except zlib.error:
        return body
