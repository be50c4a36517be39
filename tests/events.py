"""Outputs for events of the log that keep them for a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_router.logs.events import log


class KeptEvents:
    """Keeps every event, as its fields, ``event`` and ``log_level``.

    Attributes:
        entries: The events, oldest first.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def take(self, level: str, event: str, fields: dict[str, Any]) -> None:
        """Keep one event; may be called on any thread."""
        self.entries.append({**fields, "event": event, "log_level": level})

    @contextmanager
    def captured(self) -> Iterator[None]:
        """Take in everything that is logged meanwhile."""
        log.add(self)
        try:
            yield
        finally:
            log.remove(self)


@contextmanager
def capture_logs() -> Iterator[list[dict[str, Any]]]:
    """Yield the list of the events that are logged meanwhile."""
    kept = KeptEvents()
    with kept.captured():
        yield kept.entries
