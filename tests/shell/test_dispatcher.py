"""The dispatcher with fake backends and a virtual clock: hours in milliseconds."""

from collections.abc import Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.backends.backend import (
    Backend,
    BackendReady,
    LaunchEvent,
    LoadExpected,
    LoadProgress,
)
from llama_router.core.apis.notices import sentence_about
from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import ModelSpec
from llama_router.core.memory.fit import Fit
from llama_router.core.scheduling.events import Hung
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.dispatch.dispatcher import Dispatcher
from llama_router.dispatch.lease import Lease
from llama_router.errors.admission import (
    QueueTimeoutError,
    ShuttingDownError,
    UnknownModelError,
)
from llama_router.errors.backends import BackendExitedError, SpawnError
from llama_router.errors.requests import NoModelRunningError
from llama_router.event_feed import LoadProgressed
from tests.policies import AtMost

A, B = ModelId("a"), ModelId("b")


class FakeCache:
    """A prompt cache that takes save_s seconds to save; notes when each save ended."""

    awaits_answer = False

    def __init__(self, save_s: float) -> None:
        self.save_s = save_s
        self.saved_s: list[float] = []
        self.idle_only: list[bool] = []

    def note_answer(self, tail: bytes) -> None:
        """Nothing waits for it."""

    async def save(self, *, idle_only: bool) -> None:
        self.idle_only.append(idle_only)
        await trio.sleep(self.save_s)
        self.saved_s.append(trio.current_time())


class FakeBackends:
    """Loads for load_s seconds; crashes when told to; takes stop_s seconds to stop."""

    def __init__(self, load_s: float = 0.0, stop_s: float = 0.0) -> None:
        self.load_s = load_s
        self.stop_s = stop_s
        self.started: list[tuple[float, ModelId]] = []
        self.alive: set[ModelId] = set()
        self.crash: dict[ModelId, trio.Event] = {}
        self.fails: dict[ModelId, list[Exception]] = {}
        self.reports: dict[ModelId, Callable[[LaunchEvent], None]] = {}
        self.squeezed: set[ModelId] = set()
        self.fit: Fit | None = None
        self.cache: FakeCache | None = None

    async def __call__(self, spec: ModelSpec, report: Callable[[LaunchEvent], None]) -> None:
        model = spec.id
        self.reports[model] = report
        spawned_s = trio.current_time()
        self.started.append((spawned_s, model))
        self.alive.add(model)
        self.crash[model] = crash = trio.Event()
        try:
            await trio.sleep(self.load_s)
            if self.fails.get(model):
                raise self.fails[model].pop(0)
            backend = Backend(
                model=model,
                spec=spec,
                host="127.0.0.1",
                port=1,
                pid=1,
                spawned_s=spawned_s,
                ready_s=trio.current_time(),
                squeezed=model in self.squeezed,
                fit=self.fit,
                unsqueezed_mib=10_000 if model in self.squeezed else 0,
                cache=self.cache,
            )
            report(BackendReady(backend))
            await crash.wait()
            raise BackendExitedError(model, -11)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.stop_s)
            self.alive.discard(model)


def config(router: dict | None = None, **models: dict) -> Config:
    return parse_config(
        {
            "router": router or {},
            "models": {m: {"path": f"{m}.gguf", **f} for m, f in models.items()},
        }
    )


async def start(nursery: trio.Nursery, conf: Config, fake: FakeBackends) -> Dispatcher:
    dispatcher = Dispatcher(conf, fake)
    await nursery.start(dispatcher.run)
    return dispatcher


def phase(dispatcher: Dispatcher, model: ModelId) -> Phase:
    return dispatcher.statistics()[model].phase


async def use(dispatcher: Dispatcher, name: str) -> Backend:
    with dispatcher.lease(ModelId(name)) as lease:
        backend = await lease.granted()
        assert isinstance(backend, Backend)
        return backend


async def test_a_ready_model_is_granted_without_waiting(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The second request has its backend at once, without a checkpoint."""
    d = await start(nursery, config(a={}), FakeBackends())
    await use(d, "a")
    with d.lease(A) as lease:
        assert lease.granted_nowait() is not None


async def test_swap_under_virtual_time(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """b starts only when a, which takes 5 s to stop, is really gone."""
    fake = FakeBackends(load_s=90, stop_s=5)
    d = await start(nursery, config(a={}, b={}), fake)
    await use(d, "a")
    assert trio.current_time() == 90
    await use(d, "b")
    assert fake.started == [(0, A), (95, B)]
    assert trio.current_time() == 185


async def test_queue_and_load_times_add_up(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Waiting for another's exit is queue_s, waiting for one's own load is load_s."""
    d = await start(nursery, config(a={}, b={}), FakeBackends(load_s=90, stop_s=5))
    await use(d, "a")
    with d.lease(B) as lease:
        await lease.granted()
        assert (lease.queue_s, lease.load_s) == (5, 90)


async def test_a_crash_is_contained(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """The sibling of the same group stays ready; the crashed one comes back on demand."""
    fake = FakeBackends()
    d = await start(nursery, config(a={"group": "g"}, b={"group": "g"}), fake)
    with d.lease(A) as first, d.lease(B) as second:
        backend = await first.granted()
        await second.granted()
        fake.crash[A].set()
        await wait_all_tasks_blocked()
        assert phase(d, A) is Phase.BACKOFF
        assert phase(d, B) is Phase.READY
        assert backend.gone.is_set()
        assert isinstance(backend.error, BackendExitedError)
    assert (await use(d, "a")) is not backend


async def test_crash_loop_gives_up_with_the_reason(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Starts at 0, 0.5, 1.5 and 3.5 s, then the queued request hears why."""
    fake = FakeBackends()
    fake.fails[A] = [BackendExitedError(A, 1, ("bad flag",)) for _ in range(9)]
    d = await start(nursery, config(a={}), fake)
    with pytest.raises(BackendExitedError, match="bad flag"):
        await use(d, "a")
    assert [t for t, _ in fake.started] == [0, 0.5, 1.5, 3.5]
    assert phase(d, A) is Phase.FAILED


async def test_a_program_that_does_not_exist_is_not_tried_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The first failure is the answer; half-open after the cool-down."""
    fake = FakeBackends()
    fake.fails[A] = [SpawnError("no such program")]
    d = await start(nursery, config({"cooldown_s": 30}, a={}), fake)
    with pytest.raises(SpawnError):
        await use(d, "a")
    assert len(fake.started) == 1
    await trio.sleep(30)
    await use(d, "a")
    assert len(fake.started) == 2


async def test_a_client_that_left_leaves_no_trace(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its place in the queue is free, and the load goes on for the next one."""
    d = await start(nursery, config(a={}), FakeBackends(load_s=90))
    with trio.move_on_after(1):
        await use(d, "a")
    stats = d.statistics()[A]
    assert (stats.queued, stats.in_flight, d._leases) == (0, 0, {})


async def test_a_queue_timeout_fires_by_itself(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """No other event is needed: the dispatcher wakes up for it."""
    d = await start(nursery, config({"max_queue_wait_s": 7}, a={}), FakeBackends(load_s=90))
    with pytest.raises(QueueTimeoutError, match="not become ready"):
        await use(d, "a")
    assert trio.current_time() == 7


async def test_a_router_that_stood_still_refuses_nothing_for_it(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    """Whatever event comes first after that; the rest of the limit is waited."""
    d = await start(nursery, config({"max_queue_wait_s": 7}, a={}), FakeBackends(load_s=900))
    refused = trio.Event()

    async def wait() -> None:
        with pytest.raises(QueueTimeoutError):
            await use(d, "a")
        refused.set()

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    mock_clock.jump(300)  # nothing runs meanwhile
    d.keep(A, None)
    await wait_all_tasks_blocked()
    assert not refused.is_set()
    for _ in range(5):
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
    assert not refused.is_set()
    mock_clock.jump(1)
    await refused.wait()


async def test_a_busy_model_yields_after_its_dwell(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Requests for a overlap without end; b is served all the same."""
    d = await start(nursery, config({"max_dwell_s": 30}, a={}, b={}), FakeBackends())

    async def keep_busy() -> None:
        while True:
            with d.lease(A) as lease:
                await lease.granted()
                await trio.sleep(2)

    for offset_s in (0, 1):
        nursery.start_soon(keep_busy)
        await trio.sleep(offset_s)
    begun_s = trio.current_time()
    await use(d, "b")
    assert 30 <= trio.current_time() - begun_s <= 32


async def test_a_bug_in_a_backend_task_is_not_swallowed(autojump_clock: MockClock) -> None:
    """Only BackendError is contained; anything else stops the router loudly."""
    fake = FakeBackends()
    fake.fails[A] = [TypeError("a bug")]
    with pytest.RaisesGroup(TypeError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            d = await start(nursery, config(a={}), fake)
            await use(d, "a")


async def test_shutdown_refuses_queued_requests(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The queued request is refused, a new one too."""
    d = await start(nursery, config(a={}), FakeBackends(load_s=90))
    nursery.start_soon(trio.sleep, 1)
    with d.lease(A) as lease:
        d.shut_down()
        with pytest.raises(ShuttingDownError):
            await lease.granted()
    with d.lease(A) as late, pytest.raises(ShuttingDownError):
        late.granted_nowait()


async def test_watching_never_loads(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """`running` knows ready backends only, the last spawned one by default."""
    fake = FakeBackends()
    d = await start(nursery, config(a={"group": "g"}, b={"group": "g"}), fake)
    with pytest.raises(NoModelRunningError, match="no models running"):
        d.running(None)
    with pytest.raises(NoModelRunningError, match="'a' is not running"):
        d.running(A)
    with pytest.raises(UnknownModelError):
        d.running(ModelId("zzz"))
    backend_a, backend_b = await use(d, "a"), await use(d, "b")
    assert (d.running(A), d.running(None)) == (backend_a, backend_b)
    fake.crash[B].set()
    await wait_all_tasks_blocked()
    assert d.running(None) is backend_a


async def test_reload_restarts_only_what_changed(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """a gets new arguments and a new process; b keeps its own."""
    group = {"group": "g"}
    fake = FakeBackends()
    d = await start(nursery, config(a=group, b=group), fake)
    old_a, old_b = await use(d, "a"), await use(d, "b")
    d.reconfigure(config(a={**group, "args": ["--new"]}, b=group))
    await wait_all_tasks_blocked()
    assert old_a.gone.is_set()
    new_a = await use(d, "a")
    assert new_a.spec.spawn.args[-1] == "--new"
    assert await use(d, "b") is old_b


async def test_a_placement_policy_reaches_the_backends(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Two models without a group run side by side, because the policy lets them."""
    fake = FakeBackends()
    policy = AtMost(limit=2)
    d = Dispatcher(config(a={}, b={}), fake, placement_for=lambda _: policy)
    await nursery.start(d.run)
    await use(d, "a")
    await use(d, "b")
    assert fake.alive == {A, B}


async def test_cancelling_the_dispatcher_ends_every_backend(autojump_clock: MockClock) -> None:
    """Nothing is alive after run() has ended."""
    fake = FakeBackends(stop_s=3)
    async with trio.open_nursery() as nursery:
        d = await start(nursery, config(a={"group": "g"}, b={"group": "g"}), fake)
        await use(d, "a")
        await use(d, "b")
        assert fake.alive == {A, B}
        nursery.cancel_scope.cancel()
    assert fake.alive == set()


async def test_a_watched_wait_reports_each_step(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Phases, progress and the grant; nothing after the block, and the progress is of this load."""
    d = await start(nursery, config(a={}, b={}), FakeBackends(load_s=10, stop_s=5))
    await use(d, "a")
    d.waits.note_progress(B, 0.9)  # the last word of an earlier load
    seen: list[tuple[Phase, float | None] | None] = []
    with d.lease(B) as lease:

        def look() -> None:
            wait = lease.waits_for()
            seen.append(None if wait is None else (wait.phase, wait.progress))

        with d.waits.watch(lease, B, look):
            await trio.sleep(7)
            d.waits.note_progress(A, 0.5)  # of no interest here
            d.waits.note_progress(B, 0.5)
            await lease.granted()
        d.waits.note_progress(B, 1.0)
    assert seen[:3] == [(Phase.STARTING, None), (Phase.STARTING, 0.5), None]
    assert set(seen[2:]) == {None}


async def test_the_progress_that_a_launch_reports_is_that_of_the_wait(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It comes on the same path as the report that the backend is ready."""
    fake = FakeBackends(load_s=10)
    d = await start(nursery, config(a={}), fake)
    with d.lease(A) as lease:
        await trio.sleep(1)
        fake.reports[A](LoadProgress(A, 0.25))
        wait = lease.waits_for()
        assert wait is not None
        assert wait.progress == 0.25


async def test_the_time_left_of_a_launch_is_that_of_the_wait(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It counts down, and is unknown once the load takes longer; the next one begins anew."""
    fake = FakeBackends(load_s=10)
    d = await start(nursery, config(a={}), fake)
    seen: list[float | None] = []

    def look(lease: Lease) -> None:
        wait = lease.waits_for()
        assert wait is not None
        seen.append(wait.left_s)

    with d.lease(A) as lease:
        await trio.sleep(1)
        look(lease)
        fake.reports[A](LoadExpected(A, trio.current_time() + 4))
        look(lease)
        await trio.sleep(3)
        look(lease)
        await trio.sleep(3)
        look(lease)
    assert seen == [None, 4.0, 1.0, None]


async def test_a_squeezed_model_is_told(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """When it is ready, so that it can be loaded again when there is room; others are not."""
    fake = FakeBackends()
    fake.squeezed = {A}
    told: list[ModelId] = []
    d = Dispatcher(config(a={"group": "g"}, b={"group": "g"}), fake, on_squeezed=told.append)
    await nursery.start(d.run)
    for model in (A, B):
        with d.lease(model) as lease:
            await lease.granted()
    assert told == [A]


async def test_progress_is_news_once_per_percent(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A backend that reports every tensor does not fill the board."""
    d = await start(nursery, config(a={}), FakeBackends(load_s=10))
    number = d.feed.last
    for thousandth in range(20):
        d.waits.note_progress(A, thousandth / 1000)
    items = d.feed.after(number) or []
    assert [item.event for item in items] == [LoadProgressed(A, 0.01)]


async def test_a_grant_is_news_for_the_same_queue_only(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The wait for another model is not woken by it."""
    d = await start(
        nursery, config(a={"group": "g", "max_in_flight": 1}, b={"group": "g"}), FakeBackends()
    )
    await use(d, "b")
    news: list[str] = []
    with d.lease(A) as first:
        await first.granted()
        with (
            d.lease(A) as second,
            d.lease(A) as third,
            d.waits.watch(third, A, lambda: news.append("third")),
        ):
            await use(d, "b")
            assert news == []
            d.release(first.request)
            assert second.settled
            assert news == ["third"]


async def test_a_load_tries_a_failed_model_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The router's own pause is for requests that come by themselves."""
    fake = FakeBackends()
    fake.fails[A] = [SpawnError("no such program")]
    d = await start(nursery, config({"cooldown_s": 1e6}, a={}), fake)
    with pytest.raises(SpawnError):
        await use(d, "a")
    with d.load(A) as lease:
        assert (await lease.granted()).model == A


@pytest.mark.usefixtures("autojump_clock")
class TestNotes:
    """The log of a model says what the router did to its backend, and why."""

    async def noting(
        self, nursery: trio.Nursery, conf: Config, fake: FakeBackends
    ) -> tuple[Dispatcher, list[tuple[ModelId, str]]]:
        notes: list[tuple[ModelId, str]] = []
        dispatcher = Dispatcher(conf, fake, note=lambda *note: notes.append(note))
        await nursery.start(dispatcher.run)
        return dispatcher, notes

    async def test_an_eviction(self, nursery: trio.Nursery) -> None:
        """It names the other model."""
        d, notes = await self.noting(nursery, config(a={}, b={}), FakeBackends())
        await use(d, "a")
        await use(d, "b")
        assert notes == [(A, "the router ends it: model 'b' takes its place")]

    async def test_idleness(self, nursery: trio.Nursery) -> None:
        """It names the setting."""
        d, notes = await self.noting(nursery, config(a={"ttl_s": 5}), FakeBackends())
        await use(d, "a")
        await trio.sleep(6)
        assert notes == [(A, "the router ends it: it was idle for 5 s (ttl_s)")]

    async def test_a_failed_start(self, nursery: trio.Nursery) -> None:
        """There may be no output that says it."""
        fake = FakeBackends()
        fake.fails[A] = [SpawnError("no such program")]
        d, notes = await self.noting(nursery, config(a={}), fake)
        with pytest.raises(SpawnError):
            await use(d, "a")
        assert notes == [(A, "no such program")]

    async def test_the_shutdown(self, nursery: trio.Nursery) -> None:
        """Only models with a backend are concerned."""
        d, notes = await self.noting(nursery, config(a={}, b={}), FakeBackends())
        await use(d, "a")
        d.shut_down()
        assert notes == [(A, "the router is shutting down, and ends it after its requests")]


async def test_a_prompt_cache_is_saved_before_the_swap(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The next model starts after it, and its request is told what it waits for."""
    fake = FakeBackends(load_s=10)
    fake.cache = FakeCache(save_s=3)
    d = await start(nursery, config(a={}, b={}), fake)
    await use(d, "a")
    with d.lease(B) as lease:
        await trio.sleep(1)
        wait = lease.waits_for()
        assert wait is not None
        assert sentence_about(wait) == (
            "Saving the prompt cache of model 'a', then unloading it..."
        )
        assert fake.alive == {A}
        await lease.granted()
    assert fake.cache.saved_s == [13]
    assert fake.started == [(0, A), (13, B)]


async def test_idle_slots_are_saved_while_others_drain(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """An unload waits for the requests in flight; what can be saved is saved meanwhile."""
    fake = FakeBackends()
    fake.cache = FakeCache(save_s=3)
    d = await start(nursery, config(a={}), fake)
    with d.lease(A) as lease:
        await lease.granted()
        nursery.start_soon(partial(d.unload, A, force=False))
        await trio.sleep(5)
        assert fake.cache.saved_s == [3]
        assert phase(d, A) is Phase.DRAINING
    await trio.sleep(5)
    assert fake.cache.saved_s == [3, 8]
    assert fake.cache.idle_only == [True, False]
    assert phase(d, A) is Phase.STOPPED


async def test_a_backend_that_dies_while_it_saves_was_stopped(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its end is no failure, and the rest of the time is not waited for."""
    fake = FakeBackends()
    fake.cache = FakeCache(save_s=100)
    d = await start(nursery, config(a={}, b={}), fake)
    await use(d, "a")
    with d.lease(B) as lease:
        await trio.sleep(1)
        fake.crash[A].set()
        await lease.granted()
    assert fake.started == [(0, A), (1, B)]
    assert d.statistics()[A].failures == 0
    await use(d, "a")


async def test_a_backend_that_hangs_saves_nothing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """It would not answer that either."""
    fake = FakeBackends()
    fake.cache = FakeCache(save_s=100)
    d = await start(nursery, config(a={}), fake)
    await use(d, "a")
    d.submit(Hung(A, BackendExitedError(A, 1)))
    await trio.sleep(1)
    assert fake.cache.saved_s == []
    assert fake.alive == set()


async def test_caches_are_saved_at_the_end_until_that_is_cut_short(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A second signal ends all grace."""
    fake = FakeBackends()
    fake.cache = FakeCache(save_s=3)
    d = await start(nursery, config(a={}), fake)
    await use(d, "a")
    await d.save_caches(trio.Event())
    assert fake.cache.saved_s == [3]
    forced = trio.Event()
    forced.set()
    await d.save_caches(forced)
    assert trio.current_time() == 3
