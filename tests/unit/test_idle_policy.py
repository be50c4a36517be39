"""Models that come and go without being asked for: ttl_s, keep_loaded, home_model, unload."""

from __future__ import annotations

import math

from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.scheduling.causes import was_idle
from llama_router.core.scheduling.events import (
    Action,
    Arrived,
    Changed,
    Finished,
    Grant,
    Keep,
    Reconfigured,
    Refuse,
    Start,
    Stop,
    Tick,
    Unload,
)
from llama_router.core.scheduling.lifecycle import Phase, Signal
from llama_router.core.scheduling.scheduler import Scheduler
from llama_router.errors.backends import BackendExitedError
from llama_router.errors.requests import ModelNotLoadedError

A, B, C = map(ModelId, "abc")


def config(*, router: dict | None = None, **models: dict) -> Config:
    document = {m: {"path": f"{m}.gguf", **fields} for m, fields in models.items()}
    return parse_config({"router": router or {}, "models": document})


def begun(conf: Config) -> tuple[Scheduler, list[Action]]:
    """Return a scheduler and what it does without being asked for anything."""
    s = Scheduler(conf)
    return s, s.handle(Tick(), now_s=0)


def used(s: Scheduler, model: ModelId, request: int, *, from_s: float, to_s: float) -> None:
    """Bring *model* up for one request; what it takes the place of is idle."""
    for action in s.handle(Arrived(request, model), now_s=from_s):
        if isinstance(action, Stop):
            s.handle(Changed(action.model, Signal.EXITED), now_s=from_s)
    if s.phase(model) is Phase.STARTING:
        assert s.handle(Changed(model, Signal.PROBE_OK), now_s=from_s) == [Grant(request, model)]
    s.handle(Finished(request), now_s=to_s)


def stopped(actions: list[Action]) -> list[ModelId]:
    return [action.model for action in actions if isinstance(action, Stop)]


def test_an_idle_model_is_stopped_after_its_ttl() -> None:
    """The time counts from the end of the last request."""
    s, _ = begun(config(a={"ttl_s": 10}))
    used(s, A, 1, from_s=0, to_s=5)
    assert s.wake_s == 15
    used(s, A, 2, from_s=6, to_s=8)
    assert s.handle(Tick(), now_s=17.9) == []
    assert stopped(s.handle(Tick(), now_s=s.wake_s)) == [A]


def test_a_model_without_a_request_is_idle_from_ready_on() -> None:
    """Its request left while it was loading."""
    s, _ = begun(config(a={"ttl_s": 10}))
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    s.handle(Finished(1), now_s=1)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=7)
    assert s.wake_s == 17


def test_a_busy_model_does_not_expire() -> None:
    """However long its request takes."""
    s, _ = begun(config(a={"ttl_s": 10}))
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=1)
    assert s.handle(Tick(), now_s=1000) == []
    s.handle(Finished(1), now_s=1001)
    assert s.wake_s == 1011


def test_a_ttl_of_the_router_is_inherited_and_zero_means_never() -> None:
    """A model's own value comes first."""
    conf = config(router={"ttl_s": 5}, a={}, b={"ttl_s": 0}, c={"ttl_s": 9})
    assert [conf.models[m].ttl_s for m in (A, B, C)] == [5, 0, 9]


def test_a_kept_model_is_there_from_the_start_and_comes_back() -> None:
    """It is restarted after a crash, without a request."""
    s, actions = begun(config(a={"keep_loaded": True}))
    assert actions == [Start(A)]
    s.handle(Changed(A, Signal.PROBE_OK), now_s=1)
    s.handle(Changed(A, Signal.EXITED, BackendExitedError("a", 1)), now_s=2)
    assert s.handle(Tick(), now_s=s.wake_s) == [Start(A)]


def test_a_kept_model_comes_back_after_its_pause() -> None:
    """When it failed too often it is tried again after the cool-down, not before."""
    s, _ = begun(config(router={"max_restarts": 0, "cooldown_s": 30}, a={"keep_loaded": True}))
    s.handle(Changed(A, Signal.EXITED, BackendExitedError("a", 1)), now_s=2)
    assert s.phase(A) is Phase.FAILED
    assert s.wake_s == 32
    assert s.handle(Tick(), now_s=32) == [Start(A)]


def test_a_kept_model_and_the_others_do_not_meet() -> None:
    """Others swap beside it; it neither leaves for them nor drives them out."""
    s, _ = begun(config(a={}, b={}, c={"keep_loaded": True}))
    s.handle(Changed(C, Signal.PROBE_OK), now_s=0)
    assert s.handle(Arrived(1, ModelId("a")), now_s=1) == [Start(A)]
    s.handle(Changed(A, Signal.PROBE_OK), now_s=2)
    s.handle(Finished(1), now_s=3)
    assert stopped(s.handle(Arrived(2, ModelId("b")), now_s=4)) == [A]
    assert s.handle(Arrived(3, ModelId("c")), now_s=5) == [Grant(3, C)]
    assert s.handle(Changed(A, Signal.EXITED), now_s=6) == [Start(B)]


def test_home_comes_back_when_all_others_have_been_idle() -> None:
    """Not while one of them is used, and not before home_after_s."""
    s, actions = begun(config(router={"home_model": "a", "home_after_s": 20}, a={}, b={}))
    assert actions == [Start(A)]
    s.handle(Changed(A, Signal.PROBE_OK), now_s=0)
    used(s, B, 1, from_s=1, to_s=10)
    assert s.wake_s == 30
    assert stopped(s.handle(Tick(), now_s=30)) == [B]
    assert s.handle(Changed(B, Signal.EXITED), now_s=31) == [Start(A)]


def test_home_does_not_come_before_the_startup_model() -> None:
    """Else it would be loaded only to make way."""
    router = {"home_model": "a", "home_after_s": 20, "startup_model": "b"}
    s, actions = begun(config(router=router, a={}, b={}))
    assert actions == []
    used(s, B, 1, from_s=0, to_s=1)
    assert s.wake_s == 21


def test_home_does_not_expire() -> None:
    """Else it would come and go for ever."""
    s, _ = begun(config(router={"home_model": "a", "ttl_s": 5}, a={}))
    s.handle(Changed(A, Signal.PROBE_OK), now_s=0)
    assert s.handle(Tick(), now_s=100) == []


def test_unload_waits_for_requests() -> None:
    """The model drains; with force it stops at once."""
    s, _ = begun(config(a={}))
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=1)
    assert s.handle(Unload(A, force=False), now_s=2) == []
    assert s.phase(A) is Phase.DRAINING
    assert stopped(s.handle(Unload(A, force=True), now_s=3)) == [A]


def test_unload_refuses_the_requests_that_wait() -> None:
    """They would load the model again at once; one in flight is served, and a later one loads."""
    s, _ = begun(config(a={"max_in_flight": 1}))
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=1)
    s.handle(Arrived(2, ModelId("a")), now_s=1)
    (refused,) = s.handle(Unload(A, force=False), now_s=2)
    assert isinstance(refused, Refuse)
    assert (refused.request, type(refused.error)) == (2, ModelNotLoadedError)
    assert stopped(s.handle(Finished(1), now_s=3)) == [A]
    assert s.handle(Changed(A, Signal.EXITED), now_s=4) == []
    assert s.handle(Arrived(3, A), now_s=5) == [Start(A)]


def test_unload_ends_a_load() -> None:
    """The requests that wait for it are refused, and nothing starts it again."""
    s, _ = begun(config(a={}))
    assert s.handle(Arrived(1, A), now_s=0) == [Start(A)]
    actions = s.handle(Unload(A, force=False), now_s=1)
    assert [a.request for a in actions if isinstance(a, Refuse)] == [1]
    assert stopped(actions) == [A]
    assert s.handle(Changed(A, Signal.EXITED), now_s=2) == []


def test_an_unloaded_model_stays_away_until_it_is_asked_for() -> None:
    """Even if it is to be kept loaded."""
    s, _ = begun(config(a={"keep_loaded": True}))
    s.handle(Changed(A, Signal.PROBE_OK), now_s=0)
    assert stopped(s.handle(Unload(A, force=False), now_s=1)) == [A]
    assert s.handle(Changed(A, Signal.EXITED), now_s=2) == []
    assert s.handle(Tick(), now_s=1000) == []
    assert s.handle(Arrived(1, ModelId("a")), now_s=1001) == [Start(A)]


def test_unload_gives_a_failed_model_another_chance() -> None:
    """It counts as stopped, without failures."""
    s, _ = begun(config(router={"max_restarts": 0}, a={}))
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    s.handle(Changed(A, Signal.EXITED, BackendExitedError("a", 1)), now_s=1)
    assert s.phase(A) is Phase.FAILED
    s.handle(Unload(A, force=False), now_s=2)
    assert s.statistics()[A].failures == 0
    assert s.handle(Arrived(2, ModelId("a")), now_s=3) == [Start(A)]


def test_a_request_says_how_long_the_model_stays() -> None:
    """Its time counts instead of ttl_s, from the end of the last request on."""
    s, _ = begun(config(a={"ttl_s": 5}))
    used(s, A, 1, from_s=0, to_s=1)
    assert s.handle(Keep(A, 60), now_s=1) == []
    assert s.handle(Tick(), now_s=60) == []
    assert s.wake_s == 61
    (stop,) = s.handle(Tick(), now_s=61)
    assert stop == Stop(A, was_idle(60, "keep_alive"))


def test_a_model_without_ttl_goes_at_once_if_told_to() -> None:
    """As soon as no request uses it."""
    s, _ = begun(config(a={}))
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=1)
    assert s.handle(Keep(A, 0), now_s=1) == []
    assert [type(action) for action in s.handle(Finished(1), now_s=2)] == [Stop]


def test_for_ever_is_longer_than_ttl() -> None:
    """An infinite time keeps a model that has a ttl_s; taking it back ends that."""
    s, _ = begun(config(a={"ttl_s": 5}))
    used(s, A, 1, from_s=0, to_s=1)
    s.handle(Keep(A, math.inf), now_s=1)
    assert s.handle(Tick(), now_s=1000) == []
    assert s.statistics_of(A).stays_s == math.inf
    assert [type(action) for action in s.handle(Keep(A, None), now_s=1001)] == [Stop]


def test_what_a_request_said_ends_with_the_process() -> None:
    """The next process has the time of its settings again, also after a reload."""
    conf = config(a={})
    s, _ = begun(conf)
    used(s, A, 1, from_s=0, to_s=1)
    s.handle(Keep(A, 0), now_s=1)
    s.handle(Changed(A, Signal.EXITED), now_s=2)
    used(s, A, 2, from_s=3, to_s=4)
    assert s.handle(Tick(), now_s=1000) == []
    assert s.handle(Keep(B, 0), now_s=1000) == []  # a model that is not there


def test_a_reload_keeps_what_a_request_said() -> None:
    """A change elsewhere in the file does not forget it."""
    s, _ = begun(config(a={}))
    used(s, A, 1, from_s=0, to_s=1)
    s.handle(Keep(A, 60), now_s=1)
    s.handle(Reconfigured(config(a={}, b={})), now_s=2)
    assert [type(action) for action in s.handle(Tick(), now_s=61)] == [Stop]


def test_kept_models_stay_whatever_a_request_says() -> None:
    """The operator's keep_loaded and home_model count more than a client's keep_alive."""
    s, _ = begun(config(router={"home_model": "b"}, a={"keep_loaded": True}, b={}))
    s.handle(Changed(A, Signal.PROBE_OK), now_s=0)
    s.handle(Changed(B, Signal.PROBE_OK), now_s=0)
    for model in (A, B):
        s.handle(Keep(model, 0), now_s=1)
    assert s.handle(Tick(), now_s=2) == []
