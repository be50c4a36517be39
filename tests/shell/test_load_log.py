"""The load log, and what the metrics make of it, with fake backends and a virtual clock."""

from __future__ import annotations

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families as parse
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.control.metrics.load_figures import LoadFigures
from llama_router.core.scheduling.causes import StartCause, StopCause
from llama_router.dispatch.dispatcher import Dispatcher
from tests.shell.test_dispatcher import A, B, FakeBackends, config, start, use


@pytest.fixture
def figures() -> LoadFigures:
    """Return figures that have seen nothing."""
    return LoadFigures()


def value(figures: LoadFigures, name: str, **labels: str) -> float:
    """Return the sum of the samples of that name and with those labels."""
    page = "".join(part() for part in figures.parts())
    return sum(
        sample.value
        for family in parse(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def watched(
    nursery: trio.Nursery, figures: LoadFigures, fake: FakeBackends, **models: dict
) -> Dispatcher:
    """Return a dispatcher whose loads *figures* counts."""
    dispatcher = await start(nursery, config(**models), fake)
    dispatcher.loads.listen(figures.note)
    return dispatcher


async def test_a_swap_is_two_loads_and_a_stop(
    nursery: trio.Nursery, autojump_clock: MockClock, figures: LoadFigures
) -> None:
    """Each record says why, and for which model; the swap counts from the first stop."""
    d = await watched(nursery, figures, FakeBackends(load_s=90, stop_s=5), a={}, b={})
    await use(d, "a")
    await use(d, "b")
    (first,) = d.loads.ended
    second = d.loads.running[B]
    assert (first.model, first.cause, first.stop_cause) == (A, StartCause.REQUEST, StopCause.SWAP)
    assert (first.for_model, first.reason) == (B, "model 'b' takes its place")
    assert (first.began_s, first.ready_s, first.stopping_s, first.ended_s) == (0, 90, 90, 95)
    assert (second.swap_s, second.ready_s) == (90, 185)
    assert value(figures, "llama_router_loads_total", cause="request") == 2
    assert value(figures, "llama_router_stops_total", model="a", cause="swap") == 1
    assert value(figures, "llama_router_load_duration_seconds_sum") == 180
    assert value(figures, "llama_router_swap_duration_seconds_sum", model="b") == 95
    assert value(figures, "llama_router_stop_duration_seconds_sum", model="a") == 5


async def test_a_model_that_comes_back_at_once_thrashes(
    nursery: trio.Nursery, autojump_clock: MockClock, figures: LoadFigures
) -> None:
    """Within a minute after it made way; later it is an ordinary load."""
    d = await watched(nursery, figures, FakeBackends(load_s=20), a={}, b={})
    for name in ("a", "b", "a"):
        await use(d, name)
    assert value(figures, "llama_router_thrashing_loads_total", model="a") == 1
    await trio.sleep(100)
    await use(d, "b")
    assert value(figures, "llama_router_thrashing_loads_total", model="b") == 0


async def test_a_start_after_a_crash_is_a_restart(
    nursery: trio.Nursery, autojump_clock: MockClock, figures: LoadFigures
) -> None:
    """The failure is counted by its cause."""
    fake = FakeBackends()
    d = await watched(nursery, figures, fake, a={})
    await use(d, "a")
    fake.crash[A].set()
    await wait_all_tasks_blocked()
    await use(d, "a")
    (first,) = d.loads.ended
    assert (first.failure, first.stop_cause) == ("unknown", None)
    assert value(figures, "llama_router_backend_failures_total", model="a", cause="unknown") == 1
    assert value(figures, "llama_router_restarts_total", model="a") == 1
    assert value(figures, "llama_router_thrashing_loads_total") == 0


async def test_the_causes_of_other_stops(
    nursery: trio.Nursery, autojump_clock: MockClock, figures: LoadFigures
) -> None:
    """A model that was idle, and one that was unloaded by request."""
    d = await watched(nursery, figures, FakeBackends(), a={"ttl_s": 30.0}, b={})
    await use(d, "a")
    await trio.sleep(31)
    await use(d, "b")
    await d.unload(B, force=False)
    assert [record.stop_cause for record in d.loads.ended] == [StopCause.IDLE, StopCause.UNLOAD]


async def test_a_model_that_nobody_waits_for_any_more_is_not_swapped_in(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its load an hour later is no swap of an hour."""
    d = await start(nursery, config(a={}, b={}), FakeBackends(load_s=1, stop_s=5))
    await use(d, "a")
    with d.lease(B):
        await trio.sleep(1)  # a is told to stop, then the client leaves
    await trio.sleep(3600)
    await use(d, "b")
    assert d.loads.running[B].swap_s is None
