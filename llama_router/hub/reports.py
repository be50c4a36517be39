"""What the process of a download says on its standard output: one JSON object a line. Pure."""

from __future__ import annotations

import msgspec


class Resolved(msgspec.Struct, tag="resolved", tag_field="event", frozen=True):
    """It is known what will be fetched.

    Attributes:
        model: ``user/repo:LABEL``.
        files: Paths in the repository, the model first.
        total_bytes: The size of all of them.
        done_bytes: What of it is here already.
    """

    model: str
    files: list[str]
    total_bytes: int
    done_bytes: int


class Progressed(msgspec.Struct, tag="progressed", tag_field="event", frozen=True):
    """So much of `Resolved.total_bytes` is on the disk now."""

    done_bytes: int


class Waiting(msgspec.Struct, tag="waiting", tag_field="event", frozen=True):
    """Nothing moves for a while, and this is why; *pause_s* says for how long if it is known."""

    reason: str
    pause_s: float | None = None


class Checking(msgspec.Struct, tag="checking", tag_field="event", frozen=True):
    """All bytes of *file* are here; its hash is being computed."""

    file: str


class Done(msgspec.Struct, tag="done", tag_field="event", frozen=True):
    """The model is in the cache.

    Attributes:
        model: ``user/repo:LABEL``.
        path: The file to give to a backend: the model, or the first of its parts.
        mmproj: The projector that goes with it.
        fetched_bytes: What had to be transferred; 0 if it was here already.
        stale_reason: Why the hub could not be asked, if the answer is from the cache alone.
    """

    model: str
    path: str
    mmproj: str | None
    fetched_bytes: int
    stale_reason: str | None = None


class Failed(msgspec.Struct, tag="failed", tag_field="event", frozen=True):
    """It is over; *code* is that of a `DownloadError`."""

    code: str
    message: str


Report = Resolved | Progressed | Waiting | Checking | Done | Failed

_decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def encode(report: Report) -> bytes:
    """Return *report* as one line."""
    return msgspec.json.encode(report) + b"\n"


def decode(line: bytes) -> Report | None:
    """Return what *line* reports; None if it is anything else, such as a library's warning."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
