"""Messages of a download's process on its standard output: one JSON object per line. Pure."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from ..files.json_text import decode_kept, encode_kept


class Resolved(msgspec.Struct, tag="resolved", tag_field="event", frozen=True):
    """The files to fetch are known.

    Attributes:
        model: ``user/repo:LABEL``.
        files: Paths in the repository, the model first.
        total_bytes: The size of all of them.
        done_bytes: Bytes that are in the cache already.
    """

    model: str
    files: list[str]
    total_bytes: int
    done_bytes: int


class Progressed(msgspec.Struct, tag="progressed", tag_field="event", frozen=True):
    """*done_bytes* of `Resolved.total_bytes` are on the disk."""

    done_bytes: int


class Paused(msgspec.Struct, tag="waiting", tag_field="event", frozen=True):
    """The transfer pauses for *reason*; *pause_s* is the length if it is known."""

    reason: str
    pause_s: float | None = None


class Checking(msgspec.Struct, tag="checking", tag_field="event", frozen=True):
    """All bytes of *file* have arrived; its hash is being verified."""

    file: str


class Done(msgspec.Struct, tag="done", tag_field="event", frozen=True):
    """The model is in the cache.

    Attributes:
        model: ``user/repo:LABEL``.
        path: The file for a backend: the model, or the first of its parts.
        mmproj: Its projector.
        fetched_bytes: Transferred bytes; 0 if all was in the cache already.
        stale_reason: Why the hub could not be reached, if the model is from the cache.
    """

    model: str
    path: str
    mmproj: str | None
    fetched_bytes: int
    stale_reason: str | None = None


class Failed(msgspec.Struct, tag="failed", tag_field="event", frozen=True):
    """The download failed; *code* is that of a `DownloadError`."""

    code: str
    message: str


Message = Resolved | Progressed | Paused | Checking | Done | Failed

_KINDS: Final[Any] = Message


def encode(message: Message) -> bytes:
    """Return *message* as one line."""
    return encode_kept(message) + b"\n"


def decode(line: bytes) -> Message | None:
    """Return the message in *line*; None for any other text, such as a library's warning."""
    try:
        return cast("Message", decode_kept(line, _KINDS))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
