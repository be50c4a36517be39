"""The dispatcher with models that services serve: a scripted service and a virtual clock."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from llama_router.backends.service import Answer, Route
from llama_router.backends.upstream import Upstream
from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.reload import plan_reload
from llama_router.core.config.service import Service
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.core.services.health import Finding
from llama_router.dispatch.dispatcher import Dispatcher
from llama_router.errors.admission import UnknownModelError
from llama_router.errors.backends import ServiceDownError, UpstreamError
from tests.shell.test_dispatcher import FakeBackends

A, B, L = ModelId("a"), ModelId("b"), ModelId("local")
UP = Answer(Finding.SERVES, route=Route(host="127.0.0.1"))
REFUSED = Answer(Finding.REFUSES, "does not accept connections")


class FakeServices:
    """Answers questions about health as it is told, by URL; takes take_s seconds."""

    def __init__(self, take_s: float = 0.0) -> None:
        self.take_s = take_s
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[float, str]] = []

    async def __call__(self, service: Service, *, timeout_s: float) -> Answer:
        assert timeout_s == 5.0  # connection_timeout_s
        self.asked.append((trio.current_time(), service.url))
        await trio.sleep(self.take_s)
        return self.answers.get(service.url, UP)


def config(**models: dict[str, Any]) -> Config:
    return parse_config({"models": {m: {"url": "http://s", **t} for m, t in models.items()}})


async def start(nursery: trio.Nursery, conf: Config, fake: FakeServices) -> Dispatcher:
    dispatcher = Dispatcher(conf, FakeBackends(), ask_service=fake)
    await nursery.start(dispatcher.run)
    return dispatcher


def reload(d: Dispatcher, conf: Config) -> None:
    d.reconfigure(conf, plan_reload(d.config, conf))


def phase(d: Dispatcher, model: ModelId = A) -> Phase:
    return d.statistics()[model].phase


async def use(d: Dispatcher, model: ModelId = A) -> Upstream:
    with d.lease(model) as lease:
        return await lease.granted()


async def test_a_request_waits_for_the_first_answer(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """From then on it is granted without a wait, and the service is asked once per period."""
    fake = FakeServices(take_s=2)
    d = await start(nursery, config(a={"health_period_s": 5}), fake)
    upstream = await use(d)
    assert trio.current_time() == 2
    assert (upstream.host, upstream.port, upstream.authority) == ("127.0.0.1", 80, b"s")
    with d.lease(A) as lease:
        assert lease.granted_nowait() is upstream
    await trio.sleep(14)
    assert [at_s for at_s, _ in fake.asked] == [0, 7, 14]
    assert await use(d) is upstream


async def test_one_service_of_two_models_is_asked_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Its answer counts for both."""
    fake = FakeServices(take_s=1)
    d = await start(nursery, config(a={}, b={}), fake)
    await use(d, A)
    await use(d, B)
    assert len(fake.asked) == 1


async def test_it_is_refused_while_it_is_down_and_comes_back_by_itself(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The error says why; no request is needed for the next question."""
    fake = FakeServices()
    fake.answers["http://s"] = REFUSED
    d = await start(nursery, config(a={}), fake)
    with pytest.raises(ServiceDownError, match="'a' at http://s does not accept"):
        await use(d)
    assert phase(d) is Phase.FAILED
    del fake.answers["http://s"]
    await trio.sleep(1)
    assert phase(d) is Phase.READY
    await use(d)


async def test_a_service_that_went_down_takes_its_connections_along(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """An exchange that fails later has the reason; a failed request brings the question forward."""
    fake = FakeServices()
    d = await start(nursery, config(a={"health_period_s": 1000}), fake)
    upstream = await use(d)
    fake.answers["http://s"] = REFUSED
    d.note_outcome(upstream, status=0, error=UpstreamError("refused"))
    await wait_all_tasks_blocked()
    assert phase(d) is Phase.FAILED
    assert isinstance(await upstream.error_for("it broke"), ServiceDownError)
    assert d.failed() == {}


async def test_errors_of_requests_are_no_errors_of_the_service(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Only several in a row bring the question forward."""
    fake = FakeServices()
    d = await start(nursery, config(a={"health_period_s": 1000}), fake)
    upstream = await use(d)
    for _ in range(2):
        d.note_outcome(upstream, status=500, error=None)
    await wait_all_tasks_blocked()
    assert len(fake.asked) == 1
    d.note_outcome(upstream, status=500, error=None)
    await wait_all_tasks_blocked()
    assert len(fake.asked) == 2
    assert phase(d) is Phase.READY


async def test_a_load_is_a_question(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """It says what is found now, and ends what was found before."""
    fake = FakeServices()
    fake.answers["http://s"] = REFUSED
    d = await start(nursery, config(a={"health_period_s": 1000}), fake)
    await trio.sleep(2000)
    del fake.answers["http://s"]
    with d.load(A) as lease:
        await lease.granted()
    fake.answers["http://s"] = REFUSED
    await d.unload(A, force=False)
    with pytest.raises(ServiceDownError), d.load(A) as lease:
        await lease.granted()


async def test_an_unloaded_model_is_left_alone(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Until a request asks for it; a request in flight goes on, unless it is forced."""
    fake = FakeServices()
    d = await start(nursery, config(a={}), fake)
    with d.lease(A) as lease:
        await lease.granted()
        cut: list[str] = []
        lease.cut = lambda error: cut.append(error.code)
        await d.unload(A, force=False)
        assert cut == []
        assert phase(d) is Phase.STOPPED
        count = len(fake.asked)
        await trio.sleep(100)
        assert len(fake.asked) == count
        await d.unload(A, force=True)
        assert cut == ["model_unloaded"]
    await use(d)
    assert phase(d) is Phase.READY


async def test_a_changed_url_is_for_new_requests(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """They wait for its answer; those in flight keep what they have."""
    fake = FakeServices(take_s=1)
    d = await start(nursery, config(a={}), fake)
    with d.lease(A) as lease:
        old = await lease.granted()
        reload(d, config(a={"url": "http://t"}))
        new = await use(d)
        assert (old.authority, new.authority) == (b"s", b"t")
        assert d.statistics()[A].in_flight == 1
        await trio.sleep(100)
    assert {url for at_s, url in fake.asked if at_s > 1} == {"http://t"}


async def test_a_reload_between_a_process_and_a_service(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """The process is stopped and the service used, and the other way round."""
    local = parse_config({"models": {"a": {"path": "m.gguf"}, "local": {"path": "l.gguf"}}})
    fake = FakeServices()
    d = await start(nursery, local, fake)
    assert (await use(d)).pid == 1
    reload(d, config(a={}))
    assert (await use(d)).pid == 0
    with pytest.raises(UnknownModelError, match="'a'"):
        await use(d, L)
    reload(d, local)
    assert (await use(d)).pid == 1
    assert d.statistics().keys() == {A, L}


async def test_the_limit_holds_over_a_timeout(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """A request waits for a place, and no longer than it may."""
    conf = parse_config(
        {
            "router": {"max_queue_wait_s": 10},
            "models": {"a": {"url": "http://s", "max_in_flight": 1}},
        }
    )
    d = await start(nursery, conf, FakeServices())
    with d.lease(A) as first:
        await first.granted()
        with d.lease(A) as second:
            assert second.granted_nowait() is None
            wait = d.wait_of(second.request)
            assert wait is not None
            assert wait.phase is Phase.READY
            with pytest.raises(Exception, match="max_in_flight"):
                await second.granted()
    assert 10 <= trio.current_time() < 12
    await use(d)
