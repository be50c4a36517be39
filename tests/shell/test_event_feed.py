"""The event feed."""

from __future__ import annotations

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from llama_router.core.config.names import ModelId
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.event_feed import (
    KEPT,
    ConfigReloaded,
    DownloadProgressed,
    EventFeed,
    LoadProgressed,
    ModelDeleted,
    ModelPhaseChanged,
    RouterDraining,
    RouterEvent,
)


def numbers(feed: EventFeed, after: int) -> list[int] | None:
    items = feed.after(after)
    return None if items is None else [item.number for item in items]


def test_events_are_read_from_where_one_left_off() -> None:
    """In order, each once."""
    feed = EventFeed()
    assert numbers(feed, 0) == []
    for value in range(3):
        feed.publish(LoadProgressed(ModelId("a"), value))
    assert numbers(feed, 0) == [1, 2, 3]
    assert numbers(feed, 2) == [3]
    assert numbers(feed, 3) == []


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    """Too old, or of a future that has not come."""
    feed = EventFeed()
    for value in range(KEPT + 5):
        feed.publish(LoadProgressed(ModelId("a"), value))
    assert numbers(feed, 4) is None
    assert numbers(feed, 5) == list(range(6, KEPT + 6))
    assert numbers(feed, KEPT + 6) is None


async def test_readers_are_woken(autojump_clock) -> None:
    """All of them, and at once."""
    feed = EventFeed()
    woken: list[int] = []

    async def reader() -> None:
        await feed.wait_after(0)
        woken.append(feed.last)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        nursery.start_soon(reader)
        await wait_all_tasks_blocked()
        assert woken == []
        feed.publish(RouterDraining())
    assert woken == [1, 1]


@pytest.mark.parametrize(
    ("event", "kind", "data"),
    [
        (ModelPhaseChanged(ModelId("a"), Phase.READY), "model", b'{"id":"a","phase":"ready"}'),
        (LoadProgressed(ModelId("a"), 0.5), "progress", b'{"id":"a","progress":0.5}'),
        (ModelDeleted(ModelId("a")), "removed", b'{"id":"a"}'),
        (ConfigReloaded("rejected", 2), "config", b'{"status":"rejected","problems":2}'),
        (RouterDraining(), "router", b'{"state":"draining"}'),
        (
            DownloadProgressed(
                requested="u/r",
                state="running",
                done_bytes=1,
                total_bytes=None,
                download={"id": "1", "state": "running"},
            ),
            "download",
            b'{"id":"1","state":"running"}',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_event_has_its_json(event: RouterEvent, kind: str, data: bytes) -> None:
    """The names and the order of fields are part of the admin API."""
    assert event.kind == kind
    assert msgspec.json.encode(event.to_json()) == data
