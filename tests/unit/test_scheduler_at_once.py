"""The shortcuts of the scheduler against the way that everything else goes."""

from __future__ import annotations

import copy

import attrs
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.scheduling.events import (
    Action,
    Arrived,
    Changed,
    Event,
    Finished,
    Grant,
    ShutDown,
    Start,
    Stop,
    Unload,
)
from llama_router.core.scheduling.lifecycle import Phase, Signal
from llama_router.core.scheduling.scheduler import Scheduler

NAMES = ("a", "b", "c", "unknown")


def scheduler() -> Scheduler:
    """Return one with two groups, a model that serves one request at a time, and no timers."""
    models = {
        "a": {"path": "a.gguf", "group": "together"},
        "b": {"path": "b.gguf", "group": "together", "max_in_flight": 1},
        "c": {"path": "c.gguf"},
    }
    return Scheduler(parse_config({"models": models}))


def twin(scheduler: Scheduler) -> Scheduler:
    """Return a copy that goes its own way."""
    config = scheduler.config
    return copy.deepcopy(scheduler, {id(each): each for each in (config, *config.models.values())})


def seen(scheduler: Scheduler) -> object:
    """Return what can be seen of *scheduler*, but for when it wants a tick."""
    models = scheduler.statistics().values()
    # An error is like no other one, its words may be.
    told = [(attrs.evolve(m, last_error=None), repr(m.last_error)) for m in models]
    return told, scheduler.take_moves()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from(NAMES)),
        st.tuples(st.just("look"), st.sampled_from(NAMES)),
        st.tuples(st.just("finish"), st.integers(0, 5)),
        st.tuples(st.just("ready"), st.none()),
        st.tuples(st.just("exit"), st.sampled_from(NAMES[:3])),
        st.tuples(st.just("unload"), st.sampled_from(NAMES[:3])),
        st.tuples(st.just("end"), st.none()),
    ),
    max_size=30,
)


class Story:
    """Plays steps, and tries each shortcut on a copy first."""

    def __init__(self) -> None:
        self.scheduler = scheduler()
        self.now_s = 0.0
        self.holders: list[int] = []
        self.alive: list[ModelId] = []
        self.last_request = 0

    def feed(self, what: Event) -> list[Action]:
        """Let *what* happen."""
        self.now_s += 1
        actions = self.scheduler.handle(what, now_s=self.now_s)
        for action in actions:
            if isinstance(action, Start):
                self.alive.append(action.model)
            elif isinstance(action, Stop):
                self.alive.remove(action.model)
                self.feed(Changed(action.model, Signal.EXITED))
        return actions

    def look(self, name: str) -> None:
        """Let a request arrive that takes no slot."""
        self.arrive(name, takes_slot=False)

    def arrive(self, name: str, *, takes_slot: bool = True) -> None:
        """Let a request arrive."""
        self.last_request += 1
        request = self.last_request
        other, before = twin(self.scheduler), seen(twin(self.scheduler))
        admitted = other.admit_at_once(
            request, ModelId(name), self.now_s + 1, takes_slot=takes_slot
        )
        actions = self.feed(Arrived(request, ModelId(name), takes_slot=takes_slot))
        self.holders.append(request)
        if not admitted:
            assert seen(other) == before
        else:
            assert actions == [Grant(request, ModelId(name))]
            assert seen(other) == seen(twin(self.scheduler))
            assert other.wake_s <= self.scheduler.wake_s, "a tick too early does no harm"

    def finish(self, at: int) -> None:
        """Let one of the requests end."""
        if not self.holders:
            return
        request = self.holders.pop(at % len(self.holders))
        other, before = twin(self.scheduler), seen(twin(self.scheduler))
        done = other.finish_at_once(request, self.now_s + 1)
        actions = self.feed(Finished(request))
        if done:
            assert actions == []
            assert seen(other) == seen(twin(self.scheduler))
            assert other.wake_s <= self.scheduler.wake_s, "a tick too early does no harm"
        else:
            assert seen(other) == before

    def ready(self, _: None) -> None:
        """Let every starting backend become ready."""
        for model in list(self.alive):
            if model in self.alive and self.scheduler.phase(model) is Phase.STARTING:
                self.feed(Changed(model, Signal.PROBE_OK))

    def exit(self, name: str) -> None:
        """Let a backend crash."""
        model = ModelId(name)
        if model in self.alive:
            self.alive.remove(model)
            self.feed(Changed(model, Signal.EXITED))

    def unload(self, name: str) -> None:
        """Unload a model."""
        self.feed(Unload(ModelId(name), force=False))

    def end(self, _: None) -> None:
        """Let the router be shut down."""
        self.feed(ShutDown())


@given(steps)
def test_the_shortcuts_change_nothing(story) -> None:
    """Each either does exactly what `handle` does, or nothing at all."""
    state = Story()
    for name, argument in story:
        getattr(state, name)(argument)


def test_the_shortcuts_are_taken() -> None:
    """One request after another to a ready model needs nothing else."""
    state = Story()
    state.arrive("a")
    state.ready(None)
    state.finish(0)
    assert state.scheduler.admit_at_once(9, ModelId("a"), 99.0)
    assert state.scheduler.finish_at_once(9, 100.0)
