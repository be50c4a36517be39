"""What a field of the configuration knows of itself: its reader, and what a change costs. Pure."""

from __future__ import annotations

from enum import Enum, auto

import attrs

from .readers import Read


class OnChange(Enum):
    """What a changed field costs on reload."""

    RESTART = auto()  # the process must be replaced: the backend, for a router field the router
    RETUNE = auto()  # nothing: the next decision sees the new value
    INSIDE = auto()  # the fields of the value say


def restart(read: Read) -> dict[str, object]:
    """Return the metadata of a field whose change replaces the process."""
    return {"on_change": OnChange.RESTART, "read": read}


def retune(read: Read) -> dict[str, object]:
    """Return the metadata of a field whose change costs nothing."""
    return {"on_change": OnChange.RETUNE, "read": read}


def readers_of(spec: type[attrs.AttrsInstance]) -> dict[str, Read]:
    """Return the reader of each field of *spec* that a document can have."""
    return {f.name: f.metadata["read"] for f in attrs.fields(spec) if "read" in f.metadata}
