"""Requests that may not load their model, in the scheduler."""

import pytest

from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.scheduling.events import (
    Arrived,
    Changed,
    Finished,
    Grant,
    Reconfigured,
    Refuse,
    Start,
)
from llama_router.core.scheduling.lifecycle import Signal
from llama_router.core.scheduling.scheduler import Scheduler
from llama_router.errors.backends import BackendExitedError
from llama_router.errors.requests import ModelNotLoadedError

A, B = map(ModelId, "ab")


def config(**models: dict) -> Config:
    """Build a configuration; each keyword is a model and its settings."""
    return parse_config({"models": {m: {"path": f"{m}.gguf"} | spec for m, spec in models.items()}})


def refused(actions: list) -> list[int]:
    """Return the requests that were refused because their model is not loaded."""
    found = [action for action in actions if isinstance(action, Refuse)]
    assert all(isinstance(action.error, ModelNotLoadedError) for action in found)
    return [action.request for action in found]


def test_a_model_that_does_not_run_is_not_loaded() -> None:
    """The request is refused at once."""
    s = Scheduler(config(a={}))
    assert refused(s.handle(Arrived(1, A, may_load=False), now_s=0)) == [1]


def test_a_model_that_runs_serves_it() -> None:
    """Without a wait."""
    s = Scheduler(config(a={}))
    s.handle(Arrived(1, A), now_s=0)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=1)
    assert s.handle(Arrived(2, A, may_load=False), now_s=2) == [Grant(2, A)]


def test_it_waits_for_a_load_under_way() -> None:
    """Another request began that."""
    s = Scheduler(config(a={}))
    s.handle(Arrived(1, A), now_s=0)
    assert s.handle(Arrived(2, A, may_load=False), now_s=1) == []
    assert s.handle(Changed(A, Signal.PROBE_OK), now_s=2) == [Grant(1, A), Grant(2, A)]


def test_it_does_not_wait_for_a_load_that_nothing_repeats() -> None:
    """If the load fails, and no other request waits, there is no second try for it."""
    s = Scheduler(config(a={}))
    s.handle(Arrived(1, A), now_s=0)
    s.handle(Arrived(2, A, may_load=False), now_s=0)
    s.handle(Finished(1), now_s=1)
    ended = Changed(A, Signal.EXITED, BackendExitedError(A, 1))
    assert refused(s.handle(ended, now_s=2)) == [2]


def test_a_model_that_left_for_another_is_not_brought_back() -> None:
    """The request in its queue is refused when it leaves."""
    s = Scheduler(config(a={"max_in_flight": 1}, b={}))
    s.handle(Arrived(1, A), now_s=0)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=0)
    s.handle(Arrived(2, A, may_load=False), now_s=1)  # its only slot is taken
    s.handle(Arrived(3, B), now_s=2)
    assert refused(s.handle(Finished(1), now_s=60)) == [2]
    assert s.handle(Changed(A, Signal.EXITED), now_s=61) == [Start(B)]


def test_a_replaced_model_that_does_not_return_is_not_loaded() -> None:
    """Its place was taken while its old process ended."""
    old, new = config(a={}, b={}), config(a={"args": ["-x"]}, b={})
    s = Scheduler(old)
    s.handle(Arrived(1, A), now_s=0)
    s.handle(Changed(A, Signal.PROBE_OK), now_s=0)
    s.handle(Reconfigured(new), now_s=1)  # it drains, and is to return
    assert s.handle(Arrived(2, A, may_load=False), now_s=2) == []
    s.handle(Arrived(3, B), now_s=3)
    s.handle(Finished(1), now_s=4)
    actions = s.handle(Changed(A, Signal.EXITED), now_s=5)
    assert Start(B) in actions
    assert refused([each for each in actions if isinstance(each, Refuse)]) == [2]


@pytest.mark.parametrize("kept", [False, True])
def test_a_kept_model_is_waited_for(kept) -> None:
    """It comes in any case, so a request need not load it."""
    s = Scheduler(config(a={"keep_loaded": kept}))
    assert refused(s.handle(Arrived(1, A, may_load=False), now_s=0)) == ([] if kept else [1])
