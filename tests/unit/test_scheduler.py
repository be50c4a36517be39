"""The scheduler, driven by hand: no Trio, no clock, no processes."""

import attrs
import pytest

from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.memory.devices import Device, DeviceId, DeviceKind
from llama_router.core.memory.footprint import UNKNOWN, Footprint, Source
from llama_router.core.memory.view import DeviceState, MemoryView
from llama_router.core.scheduling.causes import HANGS
from llama_router.core.scheduling.events import (
    Arrived,
    Changed,
    ExplicitLoad,
    FileRestored,
    Finished,
    Grant,
    Hung,
    MemoryChanged,
    Reconfigured,
    Refuse,
    ShutDown,
    Start,
    Stop,
    Tick,
    Unload,
)
from llama_router.core.scheduling.lifecycle import Phase, Signal
from llama_router.core.scheduling.scheduler import Scheduler
from llama_router.errors.admission import (
    QueueFullError,
    QueueTimeoutError,
    ShuttingDownError,
    UnknownModelError,
)
from llama_router.errors.backends import (
    BackendExitedError,
    BackendFailedError,
    BackendHungError,
    FileMissingError,
    SpawnError,
)

A, B, C, D = map(ModelId, "abcd")


def config(*, router: dict | None = None, scheduler: dict | None = None, **models: dict) -> Config:
    """Build a configuration; each keyword is a model and its settings."""
    document = {
        "router": router or {},
        "scheduler": scheduler or {},
        "models": {m: {"path": f"{m}.gguf", **fields} for m, fields in models.items()},
    }
    return parse_config(document)


def ready(s: Scheduler, model: ModelId, now_s: float):
    return s.handle(Changed(model, Signal.PROBE_OK), now_s=now_s)


def gone(s: Scheduler, model: ModelId, now_s: float, error=None):
    return s.handle(Changed(model, Signal.EXITED, error), now_s=now_s)


def running(s: Scheduler, model: ModelId, request: int, now_s: float) -> None:
    """Bring *model* up with one request in flight."""
    assert s.handle(Arrived(request, model), now_s=now_s) == [Start(model)]
    assert ready(s, model, now_s) == [Grant(request, model)]


def stops(actions) -> list[ModelId]:
    return [a.model for a in actions if isinstance(a, Stop)]


def test_swap_waits_for_the_victim_to_exit() -> None:
    """The target is not started until the victim's memory is really free."""
    s = Scheduler(config(a={}, b={}))
    running(s, A, 1, 0)
    assert s.handle(Arrived(2, ModelId("b")), now_s=2) == []  # a is busy
    assert stops(s.handle(Finished(1), now_s=3)) == [A]
    assert gone(s, A, 4) == [Start(B)]


def test_an_idle_model_makes_way_at_once() -> None:
    """No request needs it, so none waits for its end."""
    s = Scheduler(config(a={}, b={}))
    running(s, A, 1, 0)
    s.handle(Finished(1), now_s=0.1)
    assert stops(s.handle(Arrived(2, ModelId("b")), now_s=0.2)) == [A]


def test_requests_for_one_loading_model_share_one_load() -> None:
    """Three requests, one Start, three grants."""
    s = Scheduler(config(a={}))
    assert s.handle(Arrived(1, ModelId("a")), now_s=0) == [Start(A)]
    assert s.handle(Arrived(2, ModelId("a")), now_s=0) == []
    assert s.handle(Arrived(3, ModelId("a")), now_s=0) == []
    assert ready(s, A, 1) == [Grant(1, A), Grant(2, A), Grant(3, A)]


def test_one_group_runs_side_by_side() -> None:
    """A model of the same group starts beside the one that runs."""
    s = Scheduler(config(a={"group": "g"}, b={"group": "g"}))
    running(s, A, 1, 0)
    assert s.handle(Arrived(2, ModelId("b")), now_s=1) == [Start(B)]


def test_a_whole_group_leaves_for_another() -> None:
    """Both idle members are stopped; the target starts after the second exit."""
    s = Scheduler(config(a={"group": "g"}, b={"group": "g"}, c={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("b")), now_s=0)
    ready(s, B, 0)
    s.handle(Finished(1), now_s=1)
    assert (
        s.handle(Arrived(3, ModelId("c")), now_s=1) == []
    )  # b is busy: stopping a would gain nothing
    assert sorted(stops(s.handle(Finished(2), now_s=2))) == [A, B]
    assert gone(s, A, 3) == []
    assert gone(s, B, 3) == [Start(C)]


def test_an_explicit_group_is_not_a_model_name() -> None:
    """Group "b" and the model "b" have nothing to do with each other."""
    s = Scheduler(config(a={"group": "b"}, b={}))
    running(s, A, 1, 0)
    s.handle(Finished(1), now_s=0)
    assert stops(s.handle(Arrived(2, ModelId("b")), now_s=0)) == [A]


def test_a_busy_model_goes_on_while_its_dwell_lasts() -> None:
    """Others wait, but the ready model is still granted: no request waits behind a stranger."""
    s = Scheduler(config(router={"max_dwell_s": 30}, a={}, b={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("b")), now_s=10)
    assert s.handle(Arrived(3, ModelId("a")), now_s=39.9) == [Grant(3, A)]


def test_a_busy_model_is_not_granted_after_its_dwell() -> None:
    """At max_dwell_s it drains, leaves, and its late requests get the next turn."""
    s = Scheduler(config(router={"max_dwell_s": 30}, a={}, b={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("b")), now_s=10)
    assert s.wake_s == 40
    assert s.handle(Arrived(3, ModelId("a")), now_s=40) == []
    assert stops(s.handle(Finished(1), now_s=41)) == [A]
    assert gone(s, A, 42) == [Start(B)]
    assert ready(s, B, 43) == [Grant(2, B)]
    assert stops(s.handle(Finished(2), now_s=44)) == [B]
    assert gone(s, B, 45) == [Start(A)]


def test_an_older_queue_does_not_win_its_place_back() -> None:
    """A model that made way queues behind its successor, however old its requests are."""
    s = Scheduler(config(router={"max_dwell_s": 5}, a={"max_in_flight": 1}, b={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("a")), now_s=1)  # waits for a slot of a, longer than b's request
    s.handle(Arrived(3, ModelId("b")), now_s=2)
    s.handle(Tick(), now_s=7)
    assert stops(s.handle(Finished(1), now_s=8)) == [A]
    assert gone(s, A, 9) == [Start(B)]


def test_a_fresh_model_is_kept_for_its_residency_if_it_has_work() -> None:
    """With no dwell at all, a loaded model still serves for min_residency_s."""
    s = Scheduler(config(router={"max_dwell_s": 0, "min_residency_s": 2}, a={}, b={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("b")), now_s=1)
    assert s.handle(Arrived(3, ModelId("a")), now_s=1.9) == [Grant(3, A)]
    assert s.handle(Arrived(4, ModelId("a")), now_s=2) == []


def test_a_load_is_never_for_nothing() -> None:
    """Even with neither dwell nor residency, a request that waited for the load is granted."""
    s = Scheduler(config(router={"max_dwell_s": 0, "min_residency_s": 0}, a={}, b={}))
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    s.handle(Arrived(2, ModelId("b")), now_s=0)
    assert ready(s, A, 5) == [Grant(1, A)]


def test_a_swap_does_not_stall_a_third_model_of_the_running_group() -> None:
    """While c waits for busy a, b of a's group still starts and is granted."""
    s = Scheduler(config(a={"group": "g"}, b={"group": "g"}, c={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("c")), now_s=1)
    assert s.handle(Arrived(3, ModelId("b")), now_s=2) == [Start(B)]
    assert ready(s, B, 3) == [Grant(3, B)]


def test_no_model_joins_a_group_after_its_dwell() -> None:
    """Otherwise a group could prolong itself for ever."""
    s = Scheduler(config(router={"max_dwell_s": 5}, a={"group": "g"}, b={"group": "g"}, c={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("c")), now_s=1)
    assert s.handle(Arrived(3, ModelId("b")), now_s=6) == []
    assert stops(s.handle(Finished(1), now_s=7)) == [A]
    assert gone(s, A, 8) == [Start(C)]


def test_a_client_that_leaves_while_queued_is_forgotten() -> None:
    """Its model is not loaded when the room becomes free."""
    s = Scheduler(config(a={}, b={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("b")), now_s=1)
    s.handle(Finished(2), now_s=2)
    assert s.handle(Finished(1), now_s=3) == []
    assert s.phase(B) is Phase.STOPPED


def test_a_load_without_a_request_makes_way() -> None:
    """The client left during the load; another one wants the room."""
    s = Scheduler(config(a={}, b={}))
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    assert s.handle(Finished(1), now_s=1) == []  # no other request waits: let it finish
    assert stops(s.handle(Arrived(2, ModelId("b")), now_s=2)) == [A]


def test_max_in_flight_queues_the_rest() -> None:
    """The second request is granted when the first is finished."""
    s = Scheduler(config(a={"max_in_flight": 1}))
    running(s, A, 1, 0)
    assert s.handle(Arrived(2, ModelId("a")), now_s=1) == []
    assert s.handle(Finished(1), now_s=2) == [Grant(2, A)]


def test_what_takes_no_slot_needs_none() -> None:
    """It is granted beside a full model and past its queue, and does not count for the limit."""
    s = Scheduler(config(a={"max_in_flight": 1, "max_queued": 1}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, A), now_s=1)
    assert s.handle(Arrived(3, A, takes_slot=False), now_s=2) == [Grant(3, A)]
    assert s.handle(Finished(1), now_s=3) == [Grant(2, A)]


def test_what_takes_no_slot_is_granted_first_after_a_load() -> None:
    """When the model is ready, it passes those that wait for a slot."""
    s = Scheduler(config(a={"max_in_flight": 1}))
    s.handle(Arrived(1, A), now_s=0)
    s.handle(Arrived(2, A), now_s=0)
    s.handle(Arrived(3, A, takes_slot=False), now_s=0)
    assert ready(s, A, 1) == [Grant(3, A), Grant(1, A)]


def test_what_takes_no_slot_keeps_the_model() -> None:
    """The model is not swapped away under it, but closed to more of it once others wait."""
    s = Scheduler(config(router={"max_dwell_s": 5, "min_residency_s": 0}, a={}, b={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, A, takes_slot=False), now_s=0)
    s.handle(Finished(1), now_s=0)
    assert s.handle(Arrived(3, B), now_s=1) == []
    assert s.handle(Arrived(4, A, takes_slot=False), now_s=10) == []
    assert stops(s.handle(Finished(2), now_s=11)) == [A]


def test_a_full_model_does_not_hold_up_another() -> None:
    """A request waits for a slot of a; ready b of the same group is granted at once."""
    s = Scheduler(config(a={"group": "g", "max_in_flight": 1}, b={"group": "g"}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("b")), now_s=0)
    ready(s, B, 0)
    s.handle(Arrived(3, ModelId("a")), now_s=1)
    assert s.handle(Arrived(4, ModelId("b")), now_s=2) == [Grant(4, B)]


def test_unknown_model() -> None:
    """The refusal names what there is."""
    (refusal,) = Scheduler(config(a={})).handle(Arrived(1, ModelId("nope")), now_s=0)
    assert isinstance(refusal.error, UnknownModelError)
    assert "'nope'" in str(refusal.error)
    assert "'a'" in str(refusal.error)


def test_aliases_name_the_model() -> None:
    """A request by alias is granted by id."""
    s = Scheduler(config(a={"aliases": ["gpt-4o"]}))
    model = s.config.resolve("gpt-4o")
    assert model is not None
    assert s.handle(Arrived(1, model), now_s=0) == [Start(A)]


def test_queue_cap() -> None:
    """The request over max_queued is refused with a time to come back."""
    s = Scheduler(config(a={"max_queued": 2}))
    for request in (1, 2):
        s.handle(Arrived(request, ModelId("a")), now_s=0)
    (refusal,) = s.handle(Arrived(3, ModelId("a")), now_s=0)
    assert isinstance(refusal.error, QueueFullError)
    assert refusal.error.retry_after_s


def test_requests_that_a_slot_waits_for_do_not_fill_the_queue() -> None:
    """While a model loads, max_in_flight requests may wait beside max_queued others."""
    s = Scheduler(config(a={"max_queued": 1, "max_in_flight": 2}))
    for request in (1, 2, 3):
        assert not any(isinstance(a, Refuse) for a in s.handle(Arrived(request, A), now_s=0))
    (refusal,) = s.handle(Arrived(4, A), now_s=0)
    assert isinstance(refusal.error, QueueFullError)
    granted = s.handle(Changed(A, Signal.PROBE_OK), now_s=1)
    assert [action.request for action in granted if isinstance(action, Grant)] == [1, 2]
    (refusal,) = s.handle(Arrived(5, A), now_s=1)
    assert isinstance(refusal.error, QueueFullError)


def test_queue_timeout_says_what_it_waited_for() -> None:
    """After max_queue_wait_s the refusal names the busy model in the way."""
    s = Scheduler(config(router={"max_queue_wait_s": 600, "max_dwell_s": 1e6}, a={}, b={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("b")), now_s=1)
    assert s.wake_s == 601
    (refusal,) = s.handle(Tick(), now_s=601)
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, QueueTimeoutError)
    assert "'a'" in str(refusal.error)
    assert refusal.error.retry_after_s
    assert s.statistics()[B].queued == 0


def test_time_in_which_the_router_stood_still_is_not_waited() -> None:
    """It counts for those that waited then, not for later requests."""
    s = Scheduler(config(router={"max_queue_wait_s": 10, "max_dwell_s": 1e6}, a={}, b={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, B), now_s=1)
    s.held_up(300, now_s=305)
    s.handle(Arrived(3, B), now_s=306)
    assert s.wake_s == 311
    assert [a.request for a in s.handle(Tick(), now_s=311) if isinstance(a, Refuse)] == [2]
    assert s.wake_s == 316
    assert [a.request for a in s.handle(Tick(), now_s=316) if isinstance(a, Refuse)] == [3]


def died(model: ModelId) -> BackendExitedError:
    return BackendExitedError(model, 3, ("boom",))


def test_crash_loop_ends_in_failed_and_keeps_counting_when_ready() -> None:
    """Being ready for a moment resets nothing: 4 failures in a row, then the reason."""
    s = Scheduler(config(a={}))
    running(s, A, 1, 0)
    now_s = 0.0
    for request, pause_s in ((2, 0.5), (3, 1), (4, 2)):
        assert gone(s, A, now_s, died(A)) == []
        assert s.phase(A) is Phase.BACKOFF
        assert s.handle(Arrived(request, ModelId("a")), now_s=now_s) == []
        assert s.wake_s == now_s + pause_s
        now_s += pause_s
        assert s.handle(Tick(), now_s=now_s) == [Start(A)]
        if request < 4:
            assert ready(s, A, now_s) == [Grant(request, A)]
    (refusal,) = gone(s, A, now_s, died(A))
    assert s.phase(A) is Phase.FAILED
    assert refusal.request == 4
    assert "exited with code 3" in str(refusal.error)
    assert "boom" in str(refusal.error)


def test_failed_refuses_until_the_cool_down_is_over() -> None:
    """Then one attempt is made; if it fails, the model is failed again at once."""
    s = Scheduler(config(router={"cooldown_s": 30}, a={}))
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    (refusal,) = gone(s, A, 0, SpawnError("no such program"))
    assert isinstance(refusal.error, SpawnError)
    (refusal,) = s.handle(Arrived(2, ModelId("a")), now_s=10)
    assert isinstance(refusal.error, BackendFailedError)
    assert refusal.error.retry_after_s == 20
    assert "no such program" in str(refusal.error)
    assert s.handle(Arrived(3, ModelId("a")), now_s=30) == [Start(A)]
    (refusal,) = gone(s, A, 31, died(A))
    assert refusal.request == 3
    assert s.phase(A) is Phase.FAILED


def test_a_changed_configuration_ends_the_cool_down() -> None:
    """The user mended the command: the next request starts it."""
    old = config(a={})
    s = Scheduler(old)
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    gone(s, A, 0, SpawnError("no such program"))
    s.handle(Reconfigured(config(a={"args": ["--mended"]})), now_s=1)
    assert s.handle(Arrived(2, ModelId("a")), now_s=2) == [Start(A)]


def test_a_crashing_model_stops_no_other() -> None:
    """While b is in backoff, a keeps running beside b's waiting request."""
    s = Scheduler(config(router={"max_dwell_s": 0, "min_residency_s": 0}, a={}, b={}))
    s.handle(Arrived(1, ModelId("b")), now_s=0)
    gone(s, B, 0, died(B))
    assert s.handle(Arrived(2, ModelId("a")), now_s=0.1) == [Start(A)]
    assert ready(s, A, 0.2) == [Grant(2, A)]
    assert s.handle(Arrived(3, ModelId("a")), now_s=0.3) == [Grant(3, A)]


def test_an_unreapable_process_keeps_its_place() -> None:
    """No exit is reported, so nothing of another group starts, however long it takes."""
    s = Scheduler(config(a={}, b={}))
    running(s, A, 1, 0)
    s.handle(Finished(1), now_s=0)
    assert stops(s.handle(Arrived(2, ModelId("b")), now_s=0)) == [A]
    assert s.handle(Tick(), now_s=500) == []
    assert s.phase(A) is Phase.STOPPING


def test_reload_restarts_a_changed_model_after_its_requests() -> None:
    """The old process drains; the request that came meanwhile gets the new one."""
    s = Scheduler(config(a={}))
    running(s, A, 1, 0)
    assert s.handle(Reconfigured(config(a={"args": ["--x"]})), now_s=1) == []
    assert s.phase(A) is Phase.DRAINING
    assert s.handle(Arrived(2, ModelId("a")), now_s=2) == []
    assert stops(s.handle(Finished(1), now_s=3)) == [A]
    assert gone(s, A, 4) == [Start(A)]
    assert s.spec(A).spawn.args[-1] == "--x"


def test_reload_leaves_the_unchanged_alone() -> None:
    """A new model beside it, a changed time-out of its own: no restart."""
    old = config(a={})
    s = Scheduler(old)
    running(s, A, 1, 0)
    assert s.handle(Reconfigured(config(a={"max_queued": 7}, b={})), now_s=1) == []
    assert s.phase(A) is Phase.READY
    assert s.handle(Arrived(2, ModelId("a")), now_s=2) == [Grant(2, A)]


def test_a_model_has_a_dwell_time_after_a_reload_changed_its_group() -> None:
    """It counts from when the model was ready, so that others do not wait for ever."""
    router = {"max_dwell_s": 10}
    s = Scheduler(config(router=router, a={}, b={}))
    running(s, A, 1, 0)
    s.handle(Reconfigured(config(router=router, a={"group": "g"}, b={})), now_s=1)
    s.handle(Arrived(2, B), now_s=2)
    assert s.handle(Arrived(3, A), now_s=11.9) == [Grant(3, A)]
    assert s.handle(Arrived(4, A), now_s=12) == []


def test_reload_stops_an_outdated_load_at_once() -> None:
    """It serves no request yet; the new settings are loaded instead."""
    s = Scheduler(config(a={}))
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    assert stops(s.handle(Reconfigured(config(a={"args": ["--x"]})), now_s=1)) == [A]
    assert gone(s, A, 2) == [Start(A)]


def test_a_removed_model_refuses_and_drains() -> None:
    """Its queue is told so, its request in flight goes on, then it is gone."""
    s = Scheduler(config(a={"max_in_flight": 1}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("a")), now_s=0)
    (refusal,) = s.handle(Reconfigured(config(b={})), now_s=1)
    assert (refusal.request, type(refusal.error)) == (2, UnknownModelError)
    assert stops(s.handle(Finished(1), now_s=2)) == [A]
    gone(s, A, 3)
    assert set(s.statistics()) == {B}


def test_a_model_removed_and_added_again_starts_after_the_old_one_left() -> None:
    """Two processes of one model never overlap."""
    s = Scheduler(config(a={}))
    running(s, A, 1, 0)
    s.handle(Reconfigured(config(b={})), now_s=1)
    s.handle(Reconfigured(config(a={}, b={})), now_s=2)
    assert s.handle(Arrived(2, ModelId("a")), now_s=3) == []
    assert stops(s.handle(Finished(1), now_s=4)) == [A]
    assert gone(s, A, 5) == [Start(A)]


def test_shutdown_refuses_queued_requests_and_spares_those_in_flight() -> None:
    """Nothing is started or stopped by the scheduler any more."""
    s = Scheduler(config(a={}, b={}))
    running(s, A, 1, 0)
    s.handle(Arrived(2, ModelId("b")), now_s=1)
    (refusal,) = s.handle(ShutDown(), now_s=2)
    assert (refusal.request, type(refusal.error)) == (2, ShuttingDownError)
    (refusal,) = s.handle(Arrived(3, ModelId("a")), now_s=3)
    assert isinstance(refusal.error, ShuttingDownError)
    assert s.handle(Finished(1), now_s=4) == []


def test_finishing_twice_is_harmless() -> None:
    """A refused or unknown request holds nothing."""
    s = Scheduler(config(a={}))
    s.handle(Arrived(1, ModelId("zzz")), now_s=0)
    assert s.handle(Finished(1), now_s=1) == []
    assert s.handle(Finished(77), now_s=1) == []


@pytest.mark.parametrize("models", [3, 5])
def test_alternating_requests_all_succeed(models: int) -> None:
    """200 requests, one after the other, to exclusive models: each is granted."""
    names = "abcde"[:models]
    s = Scheduler(config(**{m: {} for m in names}))
    now_s, resident = 0.0, None
    for request in range(200):
        model = ModelId(names[request % models])
        actions = s.handle(Arrived(request, model), now_s=now_s)
        if resident is not None:
            assert stops(actions) == [resident]
            actions = gone(s, resident, now_s)
        assert actions == [Start(model)]
        assert ready(s, model, now_s) == [Grant(request, model)]
        assert s.handle(Finished(request), now_s=now_s) == []
        resident = model
        now_s += 0.1


def test_specs_are_values() -> None:
    """Two equal configurations compare equal, so a reload of the same file changes nothing."""
    assert attrs.asdict(config(a={}).models[A]) == attrs.asdict(config(a={}).models[A])


def test_a_timeout_names_no_other_models_where_keys_are_limited_to_some() -> None:
    """The client's key may be one of those."""
    models = {"a": {"path": "a.gguf"}, "secret": {"path": "s.gguf"}}
    key = {"key": "sk-0123456789", "models": ["a"]}
    router = {"max_queue_wait_s": 10}
    document = {"router": router, "models": models, "api_keys": {"bob": key}}
    for words in ([], ["secret"]):
        if words:
            del document["api_keys"]
        s = Scheduler(parse_config(document))
        running(s, ModelId("secret"), 1, 0)
        s.handle(Arrived(2, ModelId("a")), now_s=0)
        (refusal,) = s.handle(Tick(), now_s=10)
        assert isinstance(refusal.error, QueueTimeoutError)
        assert ("secret" in str(refusal.error)) == bool(words)


def broken(model: ModelId) -> BackendExitedError:
    """Return the failure of a start that no repetition cures."""
    error = BackendExitedError(model, 1, cause="broken_model")
    error.retryable = False
    return error


def broken_beside_another(s: Scheduler) -> None:
    """Let the start of B fail for good at 0 s, then let A run idle."""
    s.handle(Arrived(1, B), now_s=0)
    gone(s, B, 0, broken(B))
    running(s, A, 2, 1)
    s.handle(Finished(2), now_s=2)


def test_a_broken_model_evicts_nothing_after_its_cool_down() -> None:
    """Each try would unload a model that works."""
    s = Scheduler(config(router={"cooldown_s": 30}, a={}, b={}))
    broken_beside_another(s)
    (refusal,) = s.handle(Arrived(3, B), now_s=100)
    assert isinstance(refusal, Refuse)
    assert refusal.error.permanent
    assert refusal.error.retry_after_s is None
    assert "llama-router load b" in str(refusal.error)
    assert (s.phase(A), s.phase(B)) == (Phase.READY, Phase.FAILED)


def test_a_broken_model_is_tried_where_it_is_in_no_place_but_its_own() -> None:
    """A library may have been installed: after the cool-down, a try costs nothing."""
    s = Scheduler(config(router={"cooldown_s": 30}, a={}, b={}))
    s.handle(Arrived(1, B), now_s=0)
    gone(s, B, 0, broken(B))
    assert s.handle(Arrived(2, B), now_s=30) == [Start(B)]


def test_a_broken_model_does_not_wait_for_the_place_of_another() -> None:
    """It had a place when its request came; when another model takes it, the wait ends."""
    router = {"cooldown_s": 30, "max_dwell_s": 10, "min_residency_s": 0}
    s = Scheduler(config(router=router, a={"group": "g"}, b={"group": "g"}, c={}))
    s.handle(Arrived(1, B), now_s=0)
    gone(s, B, 0, broken(B))
    running(s, A, 2, 1)
    s.handle(Arrived(3, C), now_s=2)
    assert s.handle(Arrived(4, B), now_s=40) == []  # beside a, but it is the turn of c
    assert stops(s.handle(Finished(2), now_s=41)) == [A]
    started, refusal = gone(s, A, 42)
    assert started == Start(C)
    assert isinstance(refusal, Refuse)
    assert refusal.request == 4


@pytest.mark.parametrize(
    "mend",
    [
        ExplicitLoad(B),
        FileRestored(B),
        Reconfigured(config(a={}, b={"args": ["--mended"]})),
        Unload(B, force=False),
    ],
    ids=["load", "file", "settings", "unload"],
)
def test_a_mended_model_evicts_again(mend) -> None:
    """Its file or its settings changed, or its breaker was closed by request."""
    s = Scheduler(config(a={}, b={}))
    broken_beside_another(s)
    s.handle(mend, now_s=3)
    assert stops(s.handle(Arrived(3, B), now_s=4)) == [A]


def test_a_model_that_was_ready_again_evicts_again() -> None:
    """Its breaker is still open, but its start is no longer known to fail."""
    s = Scheduler(config(router={"cooldown_s": 30}, a={}, b={}))
    s.handle(Arrived(1, B), now_s=0)
    gone(s, B, 0, broken(B))
    running(s, B, 2, 40)
    s.handle(Finished(2), now_s=41)
    assert stops(s.handle(Arrived(3, A), now_s=42)) == [B]
    assert gone(s, B, 43) == [Start(A)]
    ready(s, A, 44)
    s.handle(Finished(3), now_s=45)
    assert stops(s.handle(Arrived(4, B), now_s=46)) == [A]


def test_a_broken_home_model_evicts_nothing() -> None:
    """It would do so after each cool-down, without any request."""
    router = {"cooldown_s": 30, "home_model": "b", "home_after_s": 5}
    s = Scheduler(config(router=router, a={}, b={}))
    broken_beside_another(s)
    assert s.handle(Tick(), now_s=100) == []
    assert s.phase(B) is Phase.FAILED


def test_an_explicit_load_does_not_wait_for_the_cool_down() -> None:
    """A person has mended something, and says so."""
    s = Scheduler(config(router={"cooldown_s": 30}, a={}))
    s.handle(Arrived(1, A), now_s=0)
    gone(s, A, 0, SpawnError("no such program"))
    s.handle(ExplicitLoad(A), now_s=1)
    assert s.handle(Arrived(2, A), now_s=1) == [Start(A)]


def test_an_explicit_load_does_not_wait_for_the_backoff() -> None:
    """The pause between two restarts is for requests only."""
    s = Scheduler(config(a={}))
    running(s, A, 1, 0)
    gone(s, A, 0, died(A))
    s.handle(ExplicitLoad(A), now_s=0.1)
    assert s.handle(Arrived(2, A), now_s=0.1) == [Start(A)]


def test_an_explicit_load_of_a_model_without_its_file_is_refused() -> None:
    """It would unload another model in vain."""
    s = Scheduler(config(a={}))
    s.handle(Arrived(1, A), now_s=0)
    gone(s, A, 0, FileMissingError("a", "a.gguf"))
    s.handle(ExplicitLoad(A), now_s=1)
    (refusal,) = s.handle(Arrived(2, A), now_s=1)
    assert isinstance(refusal.error, FileMissingError)


def hung() -> BackendHungError:
    return BackendHungError("it was silent")


def test_a_hung_backend_is_replaced_for_the_next_request() -> None:
    """It is stopped with its requests, and started again without a pause once it is gone."""
    s = Scheduler(config(a={}))
    running(s, A, 1, 0)
    error = hung()
    assert s.handle(Hung(A, error), now_s=700) == [Stop(A, HANGS, error)]
    assert s.handle(Arrived(2, A), now_s=701) == []
    assert gone(s, A, 702) == [Start(A)]
    assert s.statistics()[A].failures == 1


def test_a_backend_that_hangs_again_and_again_is_given_up() -> None:
    """Each load costs minutes, and serves nothing."""
    s = Scheduler(config(router={"max_restarts": 0, "cooldown_s": 30}, a={}))
    running(s, A, 1, 0)
    s.handle(Hung(A, hung()), now_s=1)
    s.handle(Arrived(2, A), now_s=2)
    (refusal,) = gone(s, A, 3)
    assert isinstance(refusal, Refuse)
    assert "it was silent" in str(refusal.error)
    assert s.phase(A) is Phase.FAILED
    assert s.handle(Arrived(3, A), now_s=40) == [Start(A)]


def test_a_backend_that_left_meanwhile_is_not_replaced() -> None:
    """The check of its health took a while."""
    s = Scheduler(config(a={}))
    running(s, A, 1, 0)
    s.handle(Unload(A, force=True), now_s=1)
    assert s.handle(Hung(A, hung()), now_s=2) == []


def test_a_crash_while_idle_leaves_a_trace_until_the_next_start() -> None:
    """The model is stopped like any other one, but not because it was told to."""
    s = Scheduler(config(a={}))
    running(s, A, 1, 0)
    s.handle(Finished(1), now_s=1)
    gone(s, A, 5, died(A))
    s.handle(Tick(), now_s=60)
    stats = s.statistics()[A]
    assert (stats.phase, stats.crashed, stats.failed_s) == (Phase.STOPPED, True, 5)
    s.handle(Arrived(2, A), now_s=61)
    assert not s.statistics()[A].crashed


def test_an_unloaded_model_has_not_crashed() -> None:
    """An operator who unloads it has seen the trace."""
    s = Scheduler(config(a={}))
    running(s, A, 1, 0)
    s.handle(Finished(1), now_s=1)
    gone(s, A, 5, died(A))
    s.handle(Unload(A, force=False), now_s=6)
    assert not s.statistics()[A].crashed


def test_a_model_that_is_asked_again_soon_is_kept_for_its_share_of_a_swap() -> None:
    """Two clients that ask in turns do not cause a swap per request; its load took 10 s."""
    s = asked_each_second_until_14({"swap_patience": 0.5})
    s.handle(Arrived(4, B, client="rival"), now_s=14)
    assert s.handle(Finished(3), now_s=15) == []
    assert s.wake_s == 17
    assert s.handle(Arrived(5, A), now_s=16) == [Grant(5, A)]
    # The next request is expected until 20; the other one has waited for half a swap at 19.
    assert [type(action) for action in s.handle(Finished(5), now_s=18)] == [Stop]


def test_the_more_clients_wait_the_sooner_a_swap_is_worth_it() -> None:
    """Two of them have waited for half a swap together after half of the time."""
    s = asked_each_second_until_14({"swap_patience": 0.5})
    s.handle(Arrived(4, B, client="rival"), now_s=14)
    s.handle(Arrived(5, B, client="other"), now_s=14)
    assert [type(action) for action in s.handle(Finished(3), now_s=15)] == [Stop]


def test_no_request_is_expected_that_could_not_end_within_the_dwell_time() -> None:
    """A large patience does not lengthen a wait beyond it."""
    s = asked_each_second_until_14({"swap_patience": 100})
    s.handle(Arrived(4, B, client="rival"), now_s=14)
    assert s.handle(Finished(3), now_s=34) == []  # expected until 36; the dwell time ends at 44
    assert s.handle(Arrived(5, A), now_s=35) == [Grant(5, A)]
    assert [type(action) for action in s.handle(Finished(5), now_s=35)] == [Stop]


def asked_each_second_until_14(settings: dict[str, object]) -> Scheduler:
    """Return a scheduler with the model a, loaded from 0 to 10, with pauses of one second."""
    s = Scheduler(config(router={"min_residency_s": 0}, scheduler=settings, a={}, b={}))
    s.handle(Arrived(1, A), now_s=0)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=10)
    for request, at_s in ((2, 12), (3, 14)):
        s.handle(Finished(request - 1), now_s=at_s - 1)
        s.handle(Arrived(request, A), now_s=at_s)
    return s


def test_without_patience_an_idle_model_leaves_at_once() -> None:
    """`swap_patience = 0` is how it was."""
    s = Scheduler(config(scheduler={"swap_patience": 0}, a={}, b={}))
    s.handle(Arrived(1, A), now_s=0)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=10)
    s.handle(Finished(1), now_s=11)
    s.handle(Arrived(2, A), now_s=12)
    s.handle(Arrived(3, ModelId("b")), now_s=12)
    assert [type(action) for action in s.handle(Finished(2), now_s=13)] == [Stop]


def test_out_of_memory_is_tried_once_more_where_figures_are_learned() -> None:
    """The figure is raised in between; a third start would be as pointless as the second."""
    s = Scheduler(config(scheduler={"policy": "memory"}, a={}))
    s.handle(MemoryChanged(MemoryView(footprints={A: UNKNOWN})), now_s=0)
    assert s.handle(Arrived(1, A), now_s=0) == [Start(A)]
    for now_s in (1, 2):
        error = BackendExitedError(A, 1)
        error.cause = "gpu_out_of_memory"
        actions = s.handle(Changed(A, Signal.EXITED, error), now_s=now_s)
        if now_s == 1:
            assert actions == []
            assert [type(action) for action in s.handle(Tick(), now_s=1.5)] == [Start]
    assert [type(action) for action in actions] == [Refuse]
    assert s.phase(A) is Phase.FAILED


def test_a_model_does_not_return_into_memory_that_another_one_waits_for() -> None:
    """While its old memory is being freed, there seems to be room beside it: the other one goes."""
    gpu = Device(id=DeviceId("gpu"), kind=DeviceKind.SIMULATED, capacity_mib=24000)

    def view(freeing_mib: int) -> MemoryView:
        return MemoryView(
            devices={gpu.id: DeviceState(device=gpu, freeing_mib=freeing_mib)},
            footprints={
                A: Footprint(source=Source.ESTIMATED, gpu_mib=11000),
                ModelId("b"): Footprint(source=Source.ESTIMATED, gpu_mib=15000),
            },
        )

    memory = {"policy": "memory"}
    s = Scheduler(config(scheduler=memory, a={}, b={}))
    s.handle(MemoryChanged(view(0)), now_s=0)
    s.handle(Arrived(1, A), now_s=0)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=5)
    s.handle(Arrived(2, ModelId("b")), now_s=6)
    s.handle(Reconfigured(config(scheduler=memory, a={"args": ["-x"]}, b={})), now_s=7)
    s.handle(Finished(1), now_s=8)
    s.learn(view(11000))
    assert s.handle(Changed(A, Signal.EXITED), now_s=9) == []
    (started,) = s.handle(MemoryChanged(view(0)), now_s=9.1)
    assert started == Start(ModelId("b"), {gpu.id: 15000})
