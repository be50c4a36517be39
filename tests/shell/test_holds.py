"""Leases that are held only while clients send, with fake backends and a virtual clock."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.dispatch.activity import HOLD_S
from llama_router.dispatch.dispatcher import Dispatcher
from llama_router.dispatch.lease import Lease
from llama_router.errors.admission import ShuttingDownError
from llama_router.errors.backends import BackendHungError, ModelUnloadedError
from llama_router.errors.base import RouterError
from tests.shell.test_dispatcher import FakeBackends

A, B = ModelId("a"), ModelId("b")


def config(router: dict | None = None, **a: object) -> Config:
    models = {"a": {"path": "a.gguf", **a}, "b": {"path": "b.gguf"}}
    return parse_config({"router": router or {}, "models": models})


@pytest.fixture
async def start(nursery: trio.Nursery):
    """Start a dispatcher with two models that replace each other."""

    async def start(conf: Config) -> Dispatcher:
        dispatcher = Dispatcher(conf, FakeBackends())
        await nursery.start(dispatcher.run)
        return dispatcher

    return start


async def listening(dispatcher: Dispatcher, cuts: list[RouterError]) -> Lease:
    """Return a granted lease on ``a`` that is held only while its client sends."""
    lease = dispatcher.lease(A)
    await lease.granted()
    lease.cut = cuts.append
    lease.hold_while_sending()
    return lease


async def test_a_silent_client_holds_nothing(start, autojump_clock) -> None:
    """Its model's idle time runs from then on; it is told when the model is stopped."""
    cuts: list[RouterError] = []
    dispatcher = await start(config(ttl_s=30))
    with await listening(dispatcher, cuts):
        await trio.sleep(HOLD_S - 0.1)
        assert dispatcher.statistics()[A].in_flight == 1
        await trio.sleep(0.2)
        assert dispatcher.statistics()[A].in_flight == 0
        await trio.sleep(29.5)
        assert (dispatcher.phase(A), cuts) == (Phase.READY, [])
        await trio.sleep(1)
        assert dispatcher.phase(A) is Phase.STOPPED
        assert [type(error) for error in cuts] == [ModelUnloadedError]


async def test_a_client_that_sends_holds_its_model_without_a_gap(start, autojump_clock) -> None:
    """For as long as no other model waits."""
    dispatcher = await start(config(ttl_s=1))
    with await listening(dispatcher, []) as lease:
        for _ in range(30):
            await trio.sleep(HOLD_S - 1)
            lease.client_sent()
            assert dispatcher.statistics()[A].in_flight == 1
        await trio.sleep(HOLD_S + 0.1)
        assert dispatcher.statistics()[A].in_flight == 0


async def test_a_client_that_sends_for_ever_makes_way_at_the_end_of_its_turn(
    start, autojump_clock
) -> None:
    """Another model waits for it as long as for requests in a row: ``max_dwell_s``."""
    cuts: list[RouterError] = []
    dispatcher = await start(config({"max_dwell_s": 20}))
    with await listening(dispatcher, cuts) as lease:
        began_s = trio.current_time()
        with dispatcher.lease(B) as other:
            while other.granted_nowait() is None:
                lease.client_sent()
                await trio.sleep(1)
        assert 20 <= trio.current_time() - began_s <= 20 + HOLD_S + 1
        assert [type(error) for error in cuts] == [ModelUnloadedError]


async def test_an_open_connection_does_not_wait_for_a_slot(start, autojump_clock) -> None:
    """It cannot: its backend would take its silence for the end. New requests wait for it."""
    dispatcher = await start(config(max_in_flight=1))
    with await listening(dispatcher, []) as lease:
        await trio.sleep(HOLD_S + 1)
        with dispatcher.lease(A) as chat:
            await chat.granted()
            lease.client_sent()
            assert dispatcher.statistics()[A].in_flight == 2
        with dispatcher.lease(A) as chat:
            assert chat.granted_nowait() is None
            await chat.granted()
            assert dispatcher.statistics()[A].in_flight == 1


async def test_a_backend_that_leaves_is_not_held_again(start, autojump_clock) -> None:
    """Nor is the next one of its model: the connection is not to that."""
    dispatcher = await start(config())
    with await listening(dispatcher, []) as lease:
        await trio.sleep(HOLD_S + 1)
        with dispatcher.lease(B) as other:
            await other.granted()
            lease.client_sent()
            assert dispatcher.statistics()[A].in_flight == 0
        with dispatcher.lease(A) as other:
            await other.granted()
            lease.client_sent()
            assert dispatcher.statistics()[A].in_flight == 1


@pytest.mark.parametrize("silent", [True, False])
async def test_a_lease_that_is_over_leaves_nothing(start, autojump_clock, silent) -> None:
    """Whether it was held in the end or not."""
    cuts: list[RouterError] = []
    dispatcher = await start(config())
    with await listening(dispatcher, cuts):
        await trio.sleep(HOLD_S * 2 if silent else 0)
    assert dispatcher.statistics()[A].in_flight == 0
    await trio.sleep(HOLD_S * 2)
    await dispatcher.unload(A, force=True)
    assert (dispatcher._listening, dispatcher._leases, cuts) == ({}, {}, [])


@pytest.mark.parametrize("silent_s", [0, HOLD_S * 2])
async def test_a_response_with_a_known_end_holds_its_model_to_that(
    start, autojump_clock, silent_s
) -> None:
    """Also if its lease was let go before its head came."""
    dispatcher = await start(config(ttl_s=1000))
    with await listening(dispatcher, []) as lease:
        await trio.sleep(silent_s)
        lease.hold_to_end()
        await trio.sleep(900)
        assert dispatcher.statistics()[A].in_flight == 1
    assert dispatcher.statistics()[A].in_flight == 0


async def test_at_the_end_of_the_router_silent_clients_are_told_at_once(
    start, autojump_clock
) -> None:
    """And those that had just sent something when their hold is over."""
    cuts: list[RouterError] = []
    dispatcher = await start(config())
    with await listening(dispatcher, cuts):
        await trio.sleep(HOLD_S + 1)
        with await listening(dispatcher, cuts) as lease:
            dispatcher.shut_down()
            assert [type(error) for error in cuts] == [ShuttingDownError]
            lease.client_sent()
            await trio.sleep(HOLD_S + 1)
            assert set(map(type, cuts)) == {ShuttingDownError}
            assert dispatcher.statistics()[A].in_flight == 0


async def test_a_silent_client_can_be_ended_by_the_operator(start, autojump_clock) -> None:
    """By the number of its request, as before."""
    cuts: list[RouterError] = []
    dispatcher = await start(config())
    with await listening(dispatcher, cuts) as lease:
        await trio.sleep(HOLD_S + 1)
        assert dispatcher.find_lease(lease.request) is lease
        assert dispatcher.cancel(lease.request)
        assert len(cuts) == 1


async def test_a_client_of_a_backend_that_hangs_hears_that(start, autojump_clock) -> None:
    """Whether it holds its lease or not."""
    cuts: list[RouterError] = []
    dispatcher = await start(config())
    with await listening(dispatcher, cuts) as lease:
        assert lease.backend is not None
        error = BackendHungError("it hangs")
        dispatcher._health._replace(lease.backend, error)
        await wait_all_tasks_blocked()
        assert cuts == [error]
