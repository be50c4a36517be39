"""Models that get a new process because their settings changed: they come back."""

from __future__ import annotations

import math

import attrs

from llama_router.core.config.config import Config
from llama_router.core.config.file_needs import FileFault, FileKind, FileNeed
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.scheduling.events import (
    Action,
    Arrived,
    Changed,
    FileRestored,
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
from llama_router.errors.backends import FileMissingError, SpawnError

A, B, C = map(ModelId, "abc")


def config(router: dict | None = None, **models: dict) -> Config:
    document = {m: {"path": f"{m}.gguf", **fields} for m, fields in models.items()}
    return parse_config({"router": router or {}, "models": document})


def changed(model: str, **models: dict) -> Reconfigured:
    """Return the event of another command for *model*."""
    return Reconfigured(config(**{**models, model: {**models[model], "args": ["--other"]}}))


def running(models: dict[str, dict], *names: ModelId, busy: bool = False) -> Scheduler:
    """Return a scheduler with *names* ready; each serves the request of its number if *busy*."""
    s = Scheduler(config(**models))
    for number, name in enumerate(names, 1):
        assert s.handle(Arrived(number, name), now_s=0) == [Start(name)]
        assert ready(s, name, now_s=0) == [Grant(number, name)]
        if not busy:
            s.handle(Finished(number), now_s=0)
    return s


def ready(s: Scheduler, model: ModelId, now_s: float) -> list[Action]:
    return s.handle(Changed(model, Signal.PROBE_OK), now_s=now_s)


def gone(
    s: Scheduler, model: ModelId, now_s: float, error: SpawnError | None = None
) -> list[Action]:
    return s.handle(Changed(model, Signal.EXITED, error), now_s=now_s)


def stops(actions: list[Action]) -> list[ModelId]:
    return [action.model for action in actions if isinstance(action, Stop)]


def test_an_idle_model_comes_back_when_its_old_process_is_gone() -> None:
    """Without a request: it was there before, so it is there again."""
    models: dict[str, dict] = {"a": {}, "b": {}}
    s = running(models, A)
    assert stops(s.handle(changed("a", **models), now_s=1)) == [A]
    assert s.returning == {A}
    assert gone(s, A, 2) == [Start(A)]
    ready(s, A, 3)
    assert not s.returning


def test_a_busy_model_drains_first() -> None:
    """Its request in flight ends in its own time."""
    models: dict[str, dict] = {"a": {}}
    s = running(models, A, busy=True)
    assert s.handle(changed("a", **models), now_s=1) == []
    assert stops(s.handle(Finished(1), now_s=5)) == [A]
    assert gone(s, A, 6) == [Start(A)]


def test_the_unchanged_and_the_stopped_are_left_alone() -> None:
    """A changed model that did not run is loaded for the next request."""
    models: dict[str, dict] = {"a": {"group": "g"}, "b": {"group": "g"}}
    s = running(models, A)
    assert s.handle(changed("b", **models), now_s=1) == []
    assert not s.returning
    assert s.phase(A) is Phase.READY


def test_all_models_of_a_group_come_back_side_by_side() -> None:
    """The first one does not wait for the last old process."""
    models = {"a": {"group": "g"}, "b": {"group": "g"}}
    s = running(models, A, B)
    both = {name: {**fields, "args": ["--other"]} for name, fields in models.items()}
    assert set(stops(s.handle(Reconfigured(config(**both)), now_s=1))) == {A, B}
    assert gone(s, A, 2) == [Start(A)]
    assert gone(s, B, 3) == [Start(B)]


def test_another_model_with_a_request_goes_first_and_it_stays_away() -> None:
    """Demand counts more than that it was there before."""
    models: dict[str, dict] = {"a": {}, "b": {}}
    s = running(models, A)
    s.handle(changed("a", **models), now_s=1)
    assert s.handle(Arrived(9, ModelId("b")), now_s=1) == []
    assert gone(s, A, 2) == [Start(B)]
    assert not s.returning
    ready(s, B, 3)
    s.handle(Finished(9), now_s=4)
    assert s.phase(A) is Phase.STOPPED


def test_it_stops_no_other() -> None:
    """Its new settings put it into another group than the one that runs: that one stays."""
    models = {"a": {"group": "g"}, "b": {"group": "g"}}
    s = running(models, A, B)
    moved = config(a={"group": "h", "args": ["--other"]}, b={"group": "g"})
    assert stops(s.handle(Reconfigured(moved), now_s=1)) == [A]
    assert gone(s, A, 2) == []
    assert s.phase(B) is Phase.READY
    assert not s.returning


def test_it_waits_for_a_process_of_another_group_that_leaves_anyhow() -> None:
    """Both are replaced, and now belong to different groups: the first one to be free starts."""
    models = {"a": {"group": "g"}, "b": {"group": "g"}}
    s = running(models, A, B)
    apart = config(a={"group": "h", "args": ["--o"]}, b={"group": "g", "args": ["--o"]})
    s.handle(Reconfigured(apart), now_s=1)
    assert gone(s, A, 2) == []
    assert gone(s, B, 3) == [Start(A)]
    assert s.returning == {A}


def test_an_unload_by_request_counts_more() -> None:
    """An unloaded model is not wanted back."""
    models: dict[str, dict] = {"a": {}}
    s = running(models, A, busy=True)
    s.handle(changed("a", **models), now_s=1)
    s.handle(Unload(A, force=False), now_s=2)
    s.handle(Finished(1), now_s=3)
    assert gone(s, A, 4) == []


def test_a_removed_model_does_not_come_back() -> None:
    """Also if it was to be."""
    models: dict[str, dict] = {"a": {}, "b": {}}
    s = running(models, A, busy=True)
    s.handle(changed("a", **models), now_s=1)
    s.handle(Reconfigured(config(b={})), now_s=2)
    s.handle(Finished(1), now_s=3)
    assert gone(s, A, 4) == []
    assert not s.returning


def test_idle_time_counts_anew() -> None:
    """It is stopped ``ttl_s`` after it was ready again."""
    models = {"a": {"ttl_s": 10}}
    s = running(models, A)
    s.handle(changed("a", **models), now_s=9)
    assert gone(s, A, 9.5) == [Start(A)]
    ready(s, A, 11)
    assert s.wake_s == 21
    assert stops(s.handle(Tick(), now_s=21)) == [A]
    assert gone(s, A, 22) == []


def test_what_a_request_said_about_its_stay_still_counts() -> None:
    """Ollama's keep_alive is not forgotten with the process."""
    models: dict[str, dict] = {"a": {}}
    s = running(models, A)
    s.handle(Keep(A, 30), now_s=1)
    s.handle(changed("a", **models), now_s=2)
    assert gone(s, A, 3) == [Start(A)]
    ready(s, A, 4)
    assert s.wake_s == 34


def test_a_model_that_was_to_go_with_its_last_request_does_not_come_back() -> None:
    """keep_alive 0 means that it is not wanted afterwards."""
    models: dict[str, dict] = {"a": {}}
    s = running(models, A, busy=True)
    s.handle(Keep(A, 0), now_s=1)
    s.handle(changed("a", **models), now_s=2)
    s.handle(Finished(1), now_s=3)
    assert gone(s, A, 4) == []
    assert s.statistics_of(A).stays_s == float("inf")


def test_a_crash_on_the_way_back_is_tried_again() -> None:
    """As if a request waited for it."""
    models: dict[str, dict] = {"a": {}}
    s = running(models, A)
    s.handle(changed("a", **models), now_s=1)
    assert gone(s, A, 2) == [Start(A)]
    crash = SpawnError("no memory")
    crash.retryable = True
    assert gone(s, A, 3, crash) == []
    assert s.handle(Tick(), now_s=s.wake_s) == [Start(A)]


def test_given_up_with_a_mistake_it_comes_back_with_the_mended_settings() -> None:
    """A mistake in a running model's arguments, once corrected, costs only the time between."""
    models: dict[str, dict] = {"a": {}, "b": {}}
    s = running(models, A)
    s.handle(changed("a", **models), now_s=1)
    gone(s, A, 2)
    gone(s, A, 3, SpawnError("no such option"))
    assert s.phase(A) is Phase.FAILED
    assert not s.returning
    mended = Reconfigured(config(a={"args": ["--mended"]}, b={}))
    assert s.handle(mended, now_s=4) == [Start(A)]


def test_given_up_a_second_time_for_a_request_it_comes_back_for_requests_only() -> None:
    """What was tried again because of a request has nothing to return to."""
    models: dict[str, dict] = {"a": {}}
    s = running(models, A)
    s.handle(changed("a", **models), now_s=1)
    gone(s, A, 2)
    gone(s, A, 3, SpawnError("no such option"))
    assert s.handle(Arrived(2, A), now_s=1000) == [Start(A)]
    gone(s, A, 1001, SpawnError("no such option"))
    assert s.handle(FileRestored(A), now_s=1002) == []


def test_a_model_that_was_given_up_is_tried_again_when_its_fault_is_mended() -> None:
    """By the next request; by itself if it was to come back."""
    models: dict[str, dict] = {"a": {}}
    s = Scheduler(config(**models))
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    gone(s, A, 1, FileMissingError("a", "a.gguf"))
    assert isinstance(s.handle(Arrived(2, ModelId("a")), now_s=2)[0], Refuse)
    assert list(s.failed()) == [A]
    assert s.handle(FileRestored(A), now_s=3) == []
    assert not s.failed()
    assert s.handle(Arrived(3, ModelId("a")), now_s=4) == [Start(A)]
    ready(s, A, 5)
    s.handle(Finished(3), now_s=6)
    s.handle(changed("a", **models), now_s=7)
    gone(s, A, 8)
    gone(s, A, 9, FileMissingError("a", "a.gguf"))
    assert s.handle(FileRestored(A), now_s=10) == [Start(A)]
    assert s.handle(FileRestored(A), now_s=11) == []
    assert s.handle(FileRestored(B), now_s=11) == []


def test_the_home_model_waits_for_it() -> None:
    """Nothing runs for a moment, but that is no reason to go home."""
    models: dict[str, dict] = {"a": {}, "h": {}}
    s = Scheduler(config({"home_model": "h", "home_after_s": 60}, **models))
    assert s.handle(Arrived(1, ModelId("a")), now_s=0) == [Start(A)]
    ready(s, A, 0)
    s.handle(Finished(1), now_s=0)
    changed_a = config({"home_model": "h", "home_after_s": 60}, a={"args": ["--o"]}, h={})
    s.handle(Reconfigured(changed_a), now_s=1)
    assert gone(s, A, 2) == [Start(A)]


# -- Files that are missing when the configuration is read ------------------------------


def lacking(conf: Config, *models: str) -> Config:
    """Return *conf* as it is read while the files of *models* are missing."""
    faults = {
        ModelId(m): FileFault(FileNeed(f"{m}.gguf", FileKind.MODEL), "is not there") for m in models
    }
    return attrs.evolve(conf, file_faults=faults)


def test_a_model_without_its_file_is_failed_from_the_beginning() -> None:
    """It is refused with the reason, and what runs does not make way for it, however late."""
    s = Scheduler(lacking(config(a={}, b={}), "a"))
    assert list(s.failed()) == [A]
    assert s.take_moves() == []
    assert s.handle(Arrived(1, ModelId("b")), now_s=0) == [Start(B)]
    ready(s, B, 1)
    s.handle(Finished(1), now_s=2)
    (refused,) = s.handle(Arrived(2, ModelId("a")), now_s=10**6)
    assert isinstance(refused, Refuse)
    assert isinstance(refused.error, FileMissingError)
    assert refused.error.retry_after_s is None
    assert s.statistics_of(A).retry_at_s is None
    assert s.handle(Unload(A, force=False), now_s=10**6) == []
    assert list(s.failed()) == [A]


def test_what_comes_unasked_comes_when_its_file_does() -> None:
    """Not after every cool-down, but as soon as it is mended."""
    s = Scheduler(lacking(config({"home_model": "b"}, a={"keep_loaded": True}, b={}), "a", "b"))
    assert s.handle(Tick(), now_s=0) == []
    assert s.wake_s == math.inf
    assert s.handle(FileRestored(A), now_s=1) == [Start(A)]
    assert s.handle(FileRestored(B), now_s=2) == [Start(B)]


def test_a_reload_gives_up_whose_file_is_missing_and_takes_it_back() -> None:
    """What runs goes on; what waits for it is refused; a reload with the file is enough."""
    conf = config(a={}, b={}, c={})
    s = Scheduler(conf)
    s.handle(Arrived(1, ModelId("a")), now_s=0)
    ready(s, A, 1)
    s.handle(Arrived(2, ModelId("b")), now_s=2)
    actions = s.handle(Reconfigured(lacking(conf, "a", "b")), now_s=3)
    (refused,) = [action for action in actions if isinstance(action, Refuse)]
    assert refused.request == 2
    assert (s.phase(A), s.phase(B)) == (Phase.READY, Phase.FAILED)
    s.handle(Finished(1), now_s=4)
    s.handle(Reconfigured(conf), now_s=5)
    assert s.phase(B) is Phase.STOPPED
