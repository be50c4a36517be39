"""An answer that gets another name of the model on its way to the client. Sans-IO.

Its length changes with that, so it is framed anew: in chunks, or for a client that knows
none by the end of the connection.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ..core.apis.model_names import ModelNameRewriter
from ..http1 import Dechunker, Framing, ResponseHead
from .body import LAST_CHUNK, BodyEncoder, chunk

_PLAIN: Final = (None, b"", b"identity")


def renaming_of(head: ResponseHead, name: str) -> ModelNameRewriter | None:
    """Return what puts *name* into an answer; None for one that has no place for it.

    That is JSON and event streams, as long as they are not compressed.
    """
    if head.framing is Framing.NONE or head.get(b"content-encoding") not in _PLAIN:
        return None
    if head.is_event_stream:
        return ModelNameRewriter(name, events=True)
    content_type = head.get(b"content-type") or b""
    return ModelNameRewriter(name, events=False) if b"json" in content_type.lower() else None


def framed_anew(head: ResponseHead) -> ResponseHead:
    """Return *head* for the client, whose body is of unknown length."""
    if head.framing is not Framing.LENGTH:
        return head
    return replace(head, framing=Framing.CHUNKED, content_length=None)


class ModelNameEncoder(BodyEncoder):
    """A body in which the model has another name; it passes as it comes."""

    __slots__ = ("_in_chunks", "_renaming", "_unchunk")
    passing = False

    def __init__(self, head: ResponseHead, renaming: ModelNameRewriter, *, in_chunks: bool) -> None:
        """Rename one.

        Args:
            head: The backend's.
            renaming: What does it.
            in_chunks: Whether the client gets chunks.
        """
        super().__init__(head, http10=False)
        self._renaming = renaming
        self._in_chunks = in_chunks
        self._unchunk = Dechunker() if head.framing is Framing.CHUNKED else None

    def shape(self, data: bytes, boundary: int) -> bytes:  # noqa: ARG002 -- the chunks are new
        """Return what becomes of *data*, which is held back nowhere."""
        if self._unchunk is not None:
            data = self._unchunk.feed(data)
        data = self._renaming.feed(data)
        return chunk(data) if data and self._in_chunks else data

    def ending(self, event: bytes) -> bytes:
        """Return *event* and the end, in an event stream; it may follow half an event."""
        if not self._events:
            return b""
        event = b"\n\n" + event
        return chunk(event) + LAST_CHUNK if self._in_chunks else event

    def finish(self) -> bytes:
        """Return the end."""
        return LAST_CHUNK if self._in_chunks else b""
