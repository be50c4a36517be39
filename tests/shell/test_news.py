"""The board of news."""

from __future__ import annotations

import trio
from trio.testing import wait_all_tasks_blocked

from llama_router.event_feed import KEPT, EventFeed


def numbers(news: EventFeed, after: int) -> list[int] | None:
    items = news.after(after)
    return None if items is None else [item.number for item in items]


def test_news_are_read_from_where_one_left_off() -> None:
    """In order, each once."""
    news = EventFeed()
    assert numbers(news, 0) == []
    for value in range(3):
        news.publish("model", {"value": value})
    assert numbers(news, 0) == [1, 2, 3]
    assert numbers(news, 2) == [3]
    assert numbers(news, 3) == []


def test_what_is_not_known_is_said_to_be_unknown() -> None:
    """Too old, or of a future that has not come."""
    news = EventFeed()
    for value in range(KEPT + 5):
        news.publish("model", {"value": value})
    assert numbers(news, 4) is None
    assert numbers(news, 5) == list(range(6, KEPT + 6))
    assert numbers(news, KEPT + 6) is None


async def test_readers_are_woken(autojump_clock) -> None:
    """All of them, and at once."""
    news = EventFeed()
    woken: list[int] = []

    async def reader() -> None:
        await news.wait_after(0)
        woken.append(news.last)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        nursery.start_soon(reader)
        await wait_all_tasks_blocked()
        assert woken == []
        news.publish("model", {})
    assert woken == [1, 1]
