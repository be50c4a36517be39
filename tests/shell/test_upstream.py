"""An exchange of the control plane, when its router was held up meanwhile."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.control.web.upstream import Upstream
from llama_router.errors.backends import UpstreamTimeoutError
from llama_router.errors.requests import RequestCancelledError
from tests.shell.test_dispatcher import FakeBackends, config, start, use


@pytest.fixture
async def upstream(nursery: trio.Nursery, mock_clock: MockClock) -> Upstream:
    """An exchange that has not begun."""
    dispatcher = await start(nursery, config(a={}), FakeBackends())
    mock_clock.autojump_threshold = 0
    backend = await use(dispatcher, "a")
    mock_clock.autojump_threshold = float("inf")
    return Upstream(backend, connection_timeout_s=5, read_timeout_s=5)


async def test_time_in_which_the_router_was_held_up_is_no_silence(
    nursery: trio.Nursery, mock_clock: MockClock, upstream: Upstream
) -> None:
    """The backend, which was perhaps held up as well, gets its time after that."""
    answered = trio.Event()
    outcomes: list[str] = []

    async def wait() -> None:
        await upstream._wait(answered.wait)
        outcomes.append("answered")

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    mock_clock.jump(100)
    await wait_all_tasks_blocked()
    mock_clock.jump(4)
    answered.set()
    await wait_all_tasks_blocked()
    assert outcomes == ["answered"]


async def test_silence_is_given_up(mock_clock: MockClock, upstream: Upstream) -> None:
    """Without a pause the limit is as it says."""
    mock_clock.autojump_threshold = 0
    begun_s = trio.current_time()
    with pytest.raises(UpstreamTimeoutError):
        await upstream._wait(trio.sleep_forever)
    assert trio.current_time() - begun_s == 5


async def test_a_request_is_cut_though_the_router_was_held_up(
    nursery: trio.Nursery, mock_clock: MockClock, upstream: Upstream
) -> None:
    """Nobody begins to wait anew for what is cancelled."""
    error = RequestCancelledError("cancelled")
    upstream.cut(error)
    with pytest.raises(RequestCancelledError):
        await upstream._wait(trio.sleep_forever)
