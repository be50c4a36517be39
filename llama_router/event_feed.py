"""The event feed: recent events of the router, numbered, for followers at any pace.

Writers call `EventFeed.publish` with one of the classes of `RouterEvent`. Followers
(``/admin/events``, ``/models/sse``, the systemd status line) read from the number that they
reached last.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, Final, TypeAlias

import attrs
import trio

from .core.config.names import ModelId
from .core.scheduling.lifecycle import Phase

#: Events that are kept; a follower that is further behind gets a snapshot instead.
KEPT: Final = 1000


@attrs.frozen
class ModelPhaseChanged:
    """A model's backend moved into another phase of its lifecycle."""

    kind: ClassVar[str] = "model"

    model: ModelId
    phase: Phase

    def to_json(self) -> Mapping[str, Any]:
        """Return the event's data for clients."""
        return {"id": str(self.model), "phase": self.phase.value}


@attrs.frozen
class LoadProgressed:
    """A model that is being loaded reached the next percent.

    Attributes:
        model: The model.
        progress: The loaded part, 0 to 1.
    """

    kind: ClassVar[str] = "progress"

    model: ModelId
    progress: float

    def to_json(self) -> Mapping[str, Any]:
        """Return the event's data for clients."""
        return {"id": str(self.model), "progress": self.progress}


@attrs.frozen
class SleepChanged:
    """A loaded model's backend fell asleep, which frees its memory, or woke up."""

    kind: ClassVar[str] = "sleep"

    model: ModelId
    sleeping: bool

    def to_json(self) -> Mapping[str, Any]:
        """Return the event's data for clients."""
        return {"id": str(self.model), "sleeping": self.sleeping}


@attrs.frozen
class ModelSqueezed:
    """A model became ready with less than it could have, because something else holds memory.

    Attributes:
        model: The model.
        summary: What it has, in words.
        reloading: There is room now, and it is being loaded again.
    """

    kind: ClassVar[str] = "squeezed"

    model: ModelId
    summary: str
    reloading: bool

    def to_json(self) -> Mapping[str, Any]:
        """Return the event's data for clients."""
        return {"id": str(self.model), "summary": self.summary, "reloading": self.reloading}


@attrs.frozen(kw_only=True)
class DownloadProgressed:
    """A download was queued, received bytes, or ended.

    Attributes:
        requested: The model reference that the client sent.
        state: ``queued``, ``running``, ``done``, ``failed`` or ``cancelled``.
        done_bytes: Bytes that are on disk.
        total_bytes: Size of all files; None until the hub has answered.
        download: The whole download, as ``GET /admin/downloads`` lists it.
    """

    kind: ClassVar[str] = "download"

    requested: str
    state: str
    done_bytes: int
    total_bytes: int | None
    download: Mapping[str, Any]

    def to_json(self) -> Mapping[str, Any]:
        """Return the event's data for clients."""
        return self.download


@attrs.frozen
class ModelDeleted:
    """A model's files were deleted from the hub cache."""

    kind: ClassVar[str] = "removed"

    model: ModelId

    def to_json(self) -> Mapping[str, Any]:
        """Return the event's data for clients."""
        return {"id": str(self.model)}


@attrs.frozen
class ConfigReloaded:
    """The configuration file was read again, and applied or rejected.

    Attributes:
        verdict: ``applied`` or ``rejected``.
        problems: Number of mistakes in the file.
    """

    kind: ClassVar[str] = "config"

    verdict: str
    problems: int

    def to_json(self) -> Mapping[str, Any]:
        """Return the event's data for clients."""
        return {"status": self.verdict, "problems": self.problems}


@attrs.frozen
class RouterDraining:
    """The router began its shutdown: the last event of its feed that clients receive."""

    kind: ClassVar[str] = "router"

    def to_json(self) -> Mapping[str, Any]:
        """Return the event's data for clients."""
        return {"state": "draining"}


RouterEvent: TypeAlias = (
    ModelPhaseChanged
    | LoadProgressed
    | SleepChanged
    | ModelSqueezed
    | DownloadProgressed
    | ModelDeleted
    | ConfigReloaded
    | RouterDraining
)
"""Each class has a ``kind``, the name that clients see, and ``to_json``, the data."""


@attrs.frozen
class FeedEvent:
    """An event in the feed.

    Attributes:
        number: Its position; the first event has 1.
        event: The event.
    """

    number: int
    event: RouterEvent


class EventFeed:
    """The last `KEPT` events. Publishing never blocks, so no follower can delay a writer.

    Attributes:
        epoch: A random text, new at each start of the router. A number of another epoch names
            another event.
        last: The number of the newest event; 0 before the first.
    """

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(4)
        self.last = 0
        self._events: deque[FeedEvent] = deque(maxlen=KEPT)
        self._published = trio.Event()

    def publish(self, event: RouterEvent) -> None:
        """Append *event* and wake all followers; never blocks."""
        self.last += 1
        self._events.append(FeedEvent(self.last, event))
        if self._published.statistics().tasks_waiting:
            self._published.set()
            self._published = trio.Event()

    def after(self, number: int) -> list[FeedEvent] | None:
        """Return the events after *number*, or None if some of them are no longer kept."""
        if not self.last - len(self._events) <= number <= self.last:
            return None
        missed = self.last - number
        return list(self._events)[-missed:] if missed else []

    async def wait_after(self, number: int) -> None:
        """Wait until there is an event after *number*."""
        while self.last <= number:
            await self._published.wait()
