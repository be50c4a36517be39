"""What a scan hands over, and what is made of it: files and models. Pure."""

from __future__ import annotations

import attrs

from .header import Header
from .kinds import Kind


@attrs.frozen(kw_only=True)
class FoundFile:
    """One GGUF file.

    Attributes:
        path: Absolute.
        inside: Where it is in its collection, with ``/`` between folders.
        size_bytes: Of the file.
        header: What it says; None if nobody looked, or see *fault*.
        fault: Why it cannot be a model.
        tag: The quantization by which it was fetched, where the cache knows.
        identity: The same for two names of one file.
    """

    path: str
    inside: str
    size_bytes: int = 0
    header: Header | None = None
    fault: str | None = None
    tag: str | None = None
    identity: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """Return its name without folders."""
        return self.inside.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """Return the folder in its collection; empty at the top."""
        return self.inside.rpartition("/")[0]


@attrs.frozen(kw_only=True)
class Collection:
    """Files that belong together.

    Attributes:
        files: In the order in which they are to be preferred.
        repo: ``owner/repo`` if they come from one repository of the hub.
    """

    files: tuple[FoundFile, ...]
    repo: str | None = None


@attrs.frozen
class Doubt:
    """Something that a person may want to know about a file, as a clause: "it ..."."""

    path: str
    reason: str


@attrs.frozen(kw_only=True)
class FoundModel:
    """A model, and what its backend needs.

    Attributes:
        id: Unique among the models found together.
        path: Its file, or the first of its parts.
        kind: What it is asked for.
        args: What llama-server needs for that.
        aliases: Further names, each unique as well.
        mmproj: Its projector.
        header: Of *path*.
        quant: Its quantization, if that is known.
        size_bytes: Of all its parts.
    """

    id: str
    path: str
    kind: Kind
    args: tuple[str, ...]
    header: Header
    aliases: tuple[str, ...] = ()
    mmproj: str | None = None
    quant: str | None = None
    size_bytes: int = 0


@attrs.frozen
class Discovery:
    """Everything that was found, in order, and what is to be said about it."""

    models: tuple[FoundModel, ...]
    doubts: tuple[Doubt, ...]
