"""The limits of an exchange with a backend, on a mock clock."""

from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.backends.backend import Backend
from llama_router.backends.client import BackendExchange, Timeouts
from llama_router.errors.backends import UpstreamTimeoutError
from llama_router.errors.requests import RequestCancelledError
from tests.shell.test_dispatcher import FakeBackends, config, start, use


@pytest.fixture
async def backend(nursery: trio.Nursery, mock_clock: MockClock) -> Backend:
    """A ready backend; the clock stands still."""
    dispatcher = await start(nursery, config(a={}), FakeBackends())
    mock_clock.autojump_threshold = 0
    backend = await use(dispatcher, "a")
    mock_clock.autojump_threshold = float("inf")
    return backend


@pytest.fixture
async def exchange(backend: Backend) -> BackendExchange:
    """An exchange that has not begun."""
    return BackendExchange(backend, Timeouts(connection_s=5, silence_s=5))


async def test_time_in_which_the_router_was_held_up_is_no_silence(
    nursery: trio.Nursery, mock_clock: MockClock, exchange: BackendExchange
) -> None:
    """The backend, which was perhaps held up as well, gets its time after that."""
    answered = trio.Event()
    outcomes: list[str] = []

    async def wait() -> None:
        await exchange._wait(answered.wait)
        outcomes.append("answered")

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    mock_clock.jump(100)
    await wait_all_tasks_blocked()
    mock_clock.jump(4)
    answered.set()
    await wait_all_tasks_blocked()
    assert outcomes == ["answered"]


async def test_silence_is_given_up(mock_clock: MockClock, exchange: BackendExchange) -> None:
    """Without a pause the limit is as configured."""
    mock_clock.autojump_threshold = 0
    begun_s = trio.current_time()
    with pytest.raises(UpstreamTimeoutError, match="model 'a' was silent for 5 s"):
        await exchange._wait(trio.sleep_forever)
    assert trio.current_time() - begun_s == 5


async def test_the_total_time_ends_an_exchange_that_is_not_silent(
    mock_clock: MockClock, backend: Backend
) -> None:
    """It counts from the beginning of the exchange, over all steps."""
    exchange = BackendExchange(backend, Timeouts(connection_s=5, silence_s=5, total_s=7))
    mock_clock.autojump_threshold = 0
    begun_s = trio.current_time()
    await exchange._wait(partial(trio.sleep, 4))
    with pytest.raises(UpstreamTimeoutError, match="did not complete its answer within 7 s"):
        await exchange._wait(partial(trio.sleep, 4))
    assert trio.current_time() - begun_s == 7


async def test_time_in_which_the_router_was_held_up_is_not_in_the_total(
    nursery: trio.Nursery, mock_clock: MockClock, backend: Backend
) -> None:
    """The total time begins anew after it."""
    exchange = BackendExchange(backend, Timeouts(connection_s=5, silence_s=5, total_s=5))
    answered = trio.Event()
    outcomes: list[str] = []

    async def wait() -> None:
        await exchange._wait(answered.wait)
        outcomes.append("answered")

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    mock_clock.jump(100)
    await wait_all_tasks_blocked()
    mock_clock.jump(4)
    answered.set()
    await wait_all_tasks_blocked()
    assert outcomes == ["answered"]


async def test_a_request_is_cancelled_though_the_router_was_held_up(
    exchange: BackendExchange,
) -> None:
    """No step begins after it."""
    error = RequestCancelledError("cancelled")
    exchange.cancel(error)
    with pytest.raises(RequestCancelledError):
        await exchange._wait(trio.sleep_forever)
