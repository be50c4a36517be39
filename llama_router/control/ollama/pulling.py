"""``/api/pull`` in terms of downloads from the hub. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

from ...core.config.config import Config
from ...core.config.names import ModelId
from ...errors.downloads import HubReferenceError
from ...hub.names import Reference, parse_reference
from .listing import meaning_of


def wanted(config: Config, name: str) -> Reference | ModelId:
    """Return what to fetch for *name*, or the model of that name which needs no fetching.

    Raises:
        HubReferenceError: if it is neither the name of a model on the hub nor one of ours.
    """
    try:
        return parse_reference(name.removesuffix(":latest"))
    except HubReferenceError:
        meaning = meaning_of(config, name)
        if meaning is None:
            raise
        return meaning.model


def progress(
    reference: Reference, *, note: str | None, done_bytes: int, total_bytes: int | None
) -> dict[str, Any]:
    """Return how far a download is.

    Clients tell the bars of several files apart by ``digest``, and cut it to twelve digits;
    here one bar counts the bytes of all files of the model.

    Args:
        reference: What is fetched.
        note: Why nothing moves at the moment, if that is so.
        done_bytes: What is here.
        total_bytes: What it will be; None until that is known.
    """
    if total_bytes is None:
        return {"status": note or "pulling manifest"}
    digest = hashlib.sha256(str(reference).encode()).hexdigest()
    return {
        "status": note or f"pulling {reference}",
        "digest": f"sha256:{digest}",
        "total": total_bytes,
        "completed": done_bytes,
    }


SUCCESS: dict[str, Any] = {"status": "success"}
"""The last line of a download that is done."""
