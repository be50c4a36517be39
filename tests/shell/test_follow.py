"""Followers of a model's log: live, bounded, and no burden to anybody else."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.model_logs.follow import MAX_CHARS, MAX_LINES, LiveFollower
from llama_router.model_logs.model_log import MAX_COST_PER_S, ModelLog
from llama_router.model_logs.store import LogStore
from tests.limits import LIMIT_S


async def taken(follower: LiveFollower) -> list[str]:
    """Return everything that waits for *follower*."""
    texts = [record.line for record in await follower.receive()]
    while follower.queued_lines:
        texts += [record.line for record in await follower.receive()]
    return texts


async def test_lines_come_as_they_are_printed(nursery: trio.Nursery) -> None:
    """A follower that waits is woken, and hears notes of the router, too."""
    model_log = ModelLog("m")
    model_log.write(b"before\n")
    heard: list[tuple[str, bool]] = []
    with LiveFollower(model_log) as follower:

        async def listen() -> None:
            while True:
                heard.extend((r.line, r.by_router) for r in await follower.receive())

        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        model_log.write(b"1\nunfinished")
        await wait_all_tasks_blocked()
        model_log.mark("pid 2 started")
        await wait_all_tasks_blocked()
        assert heard == [("1", False), ("pid 2 started", True)]
        nursery.cancel_scope.cancel()


async def test_a_slow_follower_loses_the_oldest_lines_and_is_told() -> None:
    """What it gets adds up: as many lines as it is said to have missed are missing."""
    model_log = ModelLog("m")
    total = MAX_LINES * 3
    with LiveFollower(model_log) as follower:
        for number in range(total):
            model_log.write(b"%d\n" % number)
        note, *rest = await taken(follower)
    assert note == f"… {total - MAX_LINES} lines not shown: this reader is too slow"
    assert rest == [str(number) for number in range(total - MAX_LINES, total)]


async def test_long_lines_are_bounded_too() -> None:
    """By their characters, whatever their number."""
    model_log = ModelLog("m")
    with LiveFollower(model_log) as follower:
        for _ in range(100):
            model_log.write(b"x" * 16_000 + b"\n")
        note, *rest = await taken(follower)
    assert sum(map(len, rest)) <= MAX_CHARS
    assert note.startswith(f"… {100 - len(rest)} lines")


async def test_one_slow_follower_costs_the_others_nothing() -> None:
    """Each has its own share."""
    model_log = ModelLog("m")
    with LiveFollower(model_log) as slow, LiveFollower(model_log) as quick:
        heard: list[str] = []
        for number in range(MAX_LINES + 1):
            model_log.write(b"%d\n" % number)
            heard += await taken(quick)
        assert heard == [str(number) for number in range(MAX_LINES + 1)]
        assert (await taken(slow))[0].startswith("… 1 lines")


async def test_a_follower_that_left_holds_nothing() -> None:
    """Neither its lines nor itself, however it left."""
    store = LogStore(None, max_bytes=1, backups=0)
    listeners = store.for_model("m").listeners
    before = list(listeners)
    with trio.move_on_after(0):
        with store.follow("m") as follower:
            assert len(listeners) == len(before) + len(store._followers) == len(before) + 1
            await follower.receive()
    assert listeners == before
    assert store._followers == set()


async def test_all_logs_are_followed_as_one() -> None:
    """Those of models that come later, too; a follower that left holds nothing."""
    store = LogStore(None, max_bytes=1, backups=0)
    store.for_model("m").write(b"old\n")
    with store.follow(None) as follower:
        store.for_model("m").write(b"one\n")
        store.for_model("n").write(b"two\n")
        assert await taken(follower) == ["one", "two"]
    assert store._followers == set()
    store.for_model("m").write(b"late\n")
    assert not follower.queued_lines


async def test_the_end_comes_after_the_last_line() -> None:
    """Nothing that was printed before is lost."""
    store = LogStore(None, max_bytes=1, backups=0)
    with store.follow("m") as follower:
        store.for_model("m").write(b"last words\n")
        store.end_following()
        assert await taken(follower) == ["last words"]
        with pytest.raises(trio.EndOfChannel):
            await follower.receive()
    with store.follow("m") as late, pytest.raises(trio.EndOfChannel):
        await late.receive()


async def test_the_end_of_a_flood_is_shown_when_it_is_over(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Though nothing more is printed that could bring it to light."""
    store = LogStore(None, max_bytes=1, backups=0)
    model_log = store.for_model("m")
    model_log._clock = trio.current_time
    model_log._second_started_s = trio.current_time()
    nursery.start_soon(store.run)
    await wait_all_tasks_blocked()
    with trio.fail_after(LIMIT_S), store.follow("m") as follower:
        for _ in range(MAX_COST_PER_S // 10_000 + 2):
            model_log.write(b"x" * 9_999 + b"\n")
        model_log.write(b"the last line\n")
        before = await taken(follower)
        assert "the last line" not in before
        after = await taken(follower)
        assert any(line.endswith("dropped") for line in after)
        assert after[-1] == "the last line"
    nursery.cancel_scope.cancel()
