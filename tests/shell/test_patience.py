"""Time in which the process was held up does not count."""

from functools import partial

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.timeouts import PIECE_S, move_on_after_running, sleep_running


async def test_a_wait_ends_with_what_it_waits_for(autojump_clock: MockClock) -> None:
    """It takes no longer than that."""
    assert await move_on_after_running(partial(trio.sleep, 3), 5)
    assert trio.current_time() == 3


async def test_a_wait_is_given_up_when_the_time_is_over(autojump_clock: MockClock) -> None:
    """Without a pause it is the time of the clock."""
    assert not await move_on_after_running(trio.sleep_forever, 5)
    assert trio.current_time() == 5


async def test_a_jump_of_the_clock_is_not_counted(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    """A pause of any length costs one piece of the time at most."""
    ended: list[float] = []

    async def wait() -> None:
        await sleep_running(2.0)
        ended.append(trio.current_time())

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    mock_clock.jump(1000)
    await wait_all_tasks_blocked()
    assert not ended
    while not ended:
        mock_clock.jump(PIECE_S)
        await wait_all_tasks_blocked()
    assert ended == [1002.0 - PIECE_S]


async def test_a_cancelled_wait_leaves_nothing(autojump_clock: MockClock) -> None:
    """Whoever waits may be cancelled; its time-out goes with it."""
    with trio.move_on_after(1) as scope:
        await move_on_after_running(trio.sleep_forever, 5)
    assert scope.cancelled_caught
    assert trio.current_time() == 1
