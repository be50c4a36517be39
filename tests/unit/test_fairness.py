"""Turns of clients, by account, weight and class: in a queue, and for starts."""

from __future__ import annotations

import math
from itertools import count, cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_router.core.access.caller import Caller
from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import Priority
from llama_router.core.scheduling.events import (
    Arrived,
    Changed,
    Finished,
    Grant,
    Refuse,
    Start,
    Stop,
    Tick,
)
from llama_router.core.scheduling.fairness import RANKS, Line
from llama_router.core.scheduling.lifecycle import Phase, Signal
from llama_router.core.scheduling.scheduler import Scheduler
from llama_router.core.scheduling.waits import Behind
from llama_router.errors.admission import QueueFullError
from llama_router.errors.config import ConfigError

A, B, C = map(ModelId, "abc")
HIGH, MIDDLE, LOW = (RANKS[each] for each in Priority)


def config(*, router: dict | None = None, scheduler: dict | None = None, **models: dict) -> Config:
    document = {
        "router": router or {},
        "scheduler": scheduler or {},
        "models": {name: {"path": "x.gguf", **fields} for name, fields in models.items()},
    }
    return parse_config(document)


def line_of(*requests: tuple[str, int], weights: dict[str, float] | None = None) -> Line:
    """Return a line in which requests with numbers from 0 wait: client and rank of each."""
    line = Line()
    for number, (client, rank) in enumerate(requests):
        line.add(number, client, rank, (weights or {}).get(client, 1.0), 0.0)
    return line


def granted(line: Line, *, count: float = math.inf, now_s: float = 0.0) -> list[int]:
    return line.take(count, now_s, 60.0)


def test_a_person_waits_for_one_request_of_an_agent_not_for_all() -> None:
    """The 500 that came before are served after it, but for one."""
    line = line_of(*[("agent", MIDDLE)] * 500, ("person", MIDDLE))
    assert granted(line)[:3] == [0, 500, 1]


def test_a_newcomer_does_not_wait_until_what_others_had_is_made_up_for() -> None:
    """Nor does it go before all of them: it starts where the others are."""
    line = line_of(*[("agent", MIDDLE)] * 10)
    granted(line, count=5)
    for number in (10, 11, 12):
        line.add(number, "person", MIDDLE, 1.0, 0.0)
    assert granted(line, count=6) == [5, 10, 6, 11, 7, 12]


def test_a_weight_of_two_is_two_requests_for_one() -> None:
    """Over some rounds, whoever was first."""
    requests = [("one", MIDDLE)] * 6 + [("two", MIDDLE)] * 6
    line = line_of(*requests, weights={"two": 2.0})
    clients = [requests[number][0] for number in granted(line, count=9)]
    assert (clients.count("one"), clients.count("two")) == (3, 6)


def test_the_longer_requests_of_one_client_count_as_more() -> None:
    """A client with requests of four seconds gets fewer of them than one with one second."""
    line = line_of(*[("long", MIDDLE)] * 20, *[("short", MIDDLE)] * 20)
    now_s, counts = 0.0, {"long": 0, "short": 0}
    for _ in range(20):
        (number,) = granted(line, count=1, now_s=now_s)
        client = "long" if number < 20 else "short"
        counts[client] += 1
        now_s += 4.0 if client == "long" else 1.0
        line.settle(number, now_s)
    assert counts["short"] >= 3 * counts["long"]


def test_a_request_waits_for_a_few_short_ones_of_another_client() -> None:
    """Though many of them take no longer than one usual request."""
    line = line_of(*[("short", MIDDLE)] * 200)
    line.usual_s = 10.0
    granted(line, count=1)
    line.settle(0, 0.1)
    line.add(200, "person", MIDDLE, 1.0, 0.1)
    before = 0
    while (number := granted(line, count=1, now_s=1.0)[0]) != 200:
        line.usual_s = 10.0
        line.settle(number, 1.1)
        before += 1
    assert before <= 5


def test_a_higher_class_goes_first() -> None:
    """Whichever came first, and whoever it is from."""
    line = line_of(("x", LOW), ("x", MIDDLE), ("y", LOW), ("x", HIGH))
    assert granted(line) == [3, 1, 0, 2]


def test_a_lower_class_has_one_turn_after_it_has_yielded_for_long() -> None:
    """One only: then it waits again."""
    line = line_of(("x", LOW), ("x", LOW), *[("y", HIGH)] * 3)
    assert granted(line, count=2, now_s=59.0) == [2, 3]
    assert granted(line, count=2, now_s=60.0) == [0, 4]


def test_a_lower_class_does_not_go_first_twice_however_long_requests_take() -> None:
    """Else the higher one would starve where each takes longer than `max_yield_s`."""
    line = line_of(("x", LOW), ("x", LOW), ("y", HIGH), ("y", HIGH))
    assert [granted(line, count=1, now_s=100.0 * each)[0] for each in range(1, 5)] == [0, 2, 1, 3]


def test_lower_classes_that_come_again_and_again_do_not_keep_out_the_highest() -> None:
    """Each of them goes first once, and then not before a higher one did."""
    line = line_of(("x", HIGH), ("x", HIGH))
    seen = []
    for number in range(2, 12):
        line.add(number, "y", MIDDLE if number % 2 else LOW, 1.0, 100.0 * number)
        seen += granted(line, count=1, now_s=100.0 * number + 99)
    assert seen.index(0) < seen.index(1) <= 6


def test_the_place_in_the_queue_is_that_of_the_turn() -> None:
    """It is what notices call the requests ahead."""
    line = line_of(*[("agent", MIDDLE)] * 5, ("person", MIDDLE), ("person", HIGH))
    assert [line.place(number) for number in (6, 0, 5, 4)] == [0, 1, 2, 6]


def ready(s: Scheduler, model: ModelId, now_s: float, slots: int | None = None):
    return s.handle(Changed(model, Signal.PROBE_OK, slots=slots), now_s=now_s)


def starts_until(s: Scheduler, last: ModelId, request: int) -> list[ModelId]:
    """Let loads succeed and requests end at once, until *last* starts; return all that started.

    The model that loads now becomes ready, and *request*, for which it does, ends.
    """
    started: list[ModelId] = []
    now_s = 1.0
    (loading,) = (m for m, stats in s.statistics().items() if stats.phase is Phase.STARTING)
    pending = [*ready(s, loading, now_s), *s.handle(Finished(request), now_s=now_s)]
    while last not in started:
        now_s = max(now_s + 1, s.wake_s if not pending and s.wake_s < math.inf else 0)
        assert now_s < 1000, started
        actions, pending = pending or s.handle(Tick(), now_s=now_s), []
        for action in actions:
            match action:
                case Start(model):
                    started.append(model)
                    pending += ready(s, model, now_s)
                case Grant(granted) if granted != request:
                    pending += s.handle(Finished(granted), now_s=now_s)
                case Stop(model):
                    pending += s.handle(Changed(model, Signal.EXITED), now_s=now_s)
    return started


def test_a_model_that_a_person_waits_for_starts_after_one_that_an_agent_does() -> None:
    """Not after the nine that the agent waits for, too."""
    names = [f"m{number}" for number in range(10)]
    s = Scheduler(config(**{name: {} for name in (*names, "c")}))
    for request, name in enumerate(names):
        s.handle(Arrived(request, ModelId(name), client="agent"), now_s=0)
    s.handle(Arrived(99, C, client="person"), now_s=0.5)
    assert starts_until(s, C, 0) == [ModelId("m1"), C]


def test_a_model_for_a_higher_class_takes_the_next_place() -> None:
    """Though others wait for longer, and without the dwell of a model for lower ones."""
    s = Scheduler(config(router={"min_residency_s": 0}, a={"max_in_flight": 1}, b={}, c={}))
    s.handle(Arrived(1, A), now_s=0)
    ready(s, A, 1)
    s.handle(Arrived(2, A), now_s=1)
    s.handle(Arrived(3, B), now_s=1)
    s.handle(Arrived(4, C, priority=Priority.INTERACTIVE), now_s=2)
    assert [type(each) for each in s.handle(Finished(1), now_s=3)] == [Stop]
    assert s.handle(Changed(A, Signal.EXITED), now_s=4) == [Start(C)]


def test_a_lower_class_waits_for_a_busy_model_for_its_time_of_yielding() -> None:
    """A model of the same class would wait for `max_dwell_s`."""
    s = Scheduler(config(router={"min_residency_s": 0}, a={"max_in_flight": 1}, b={}))
    s.handle(Arrived(1, A), now_s=0)
    ready(s, A, 0)
    s.handle(Arrived(2, A), now_s=1)
    s.handle(Arrived(3, A), now_s=1)
    s.handle(Arrived(4, B, priority=Priority.BACKGROUND), now_s=1)
    assert s.handle(Finished(1), now_s=50) == [Grant(2, A)]
    assert [type(each) for each in s.handle(Finished(2), now_s=61)] == [Stop]


def test_two_clients_in_turns_do_not_swap_for_each_request_with_groups() -> None:
    """A model whose next request is expected soon is kept for its share of time."""
    s = Scheduler(config(router={"min_residency_s": 0}, a={}, b={}))
    s.handle(Arrived(1, A, client="x"), now_s=0)
    ready(s, A, 10)  # a load of ten seconds
    s.handle(Finished(1), now_s=11)
    s.handle(Arrived(2, A, client="x"), now_s=11.5)  # after half a second, as usual
    s.handle(Arrived(3, B, client="y"), now_s=12)
    assert s.handle(Finished(2), now_s=13) == []
    assert s.handle(Arrived(4, A, client="x"), now_s=13.5) == [Grant(4, A)]


def test_a_full_queue_makes_room_for_a_client_with_fewer_requests() -> None:
    """The latest request of the client with the most is refused."""
    s = Scheduler(config(a={"max_queued": 3, "max_in_flight": 1}))
    s.handle(Arrived(1, A, client="agent"), now_s=0)
    ready(s, A, 1)
    for request in (2, 3, 4):
        s.handle(Arrived(request, A, client="agent"), now_s=2)
    (refused,) = s.handle(Arrived(5, A, client="person"), now_s=2)
    assert isinstance(refused, Refuse)
    assert (refused.request, type(refused.error)) == (4, QueueFullError)
    (refused,) = s.handle(Arrived(6, A, client="agent"), now_s=2)
    assert isinstance(refused, Refuse)
    assert refused.request == 6


def test_a_backend_gets_as_many_requests_as_it_has_slots() -> None:
    """Unless the settings say how many."""
    for fields, expected in ({}, 2), ({"max_in_flight": 3}, 3):
        s = Scheduler(config(a=fields))
        for request in range(5):
            s.handle(Arrived(request, A), now_s=0)
        assert len(ready(s, A, 1, slots=2)) == expected
        assert s.statistics_of(A).limit == expected


def test_the_slots_of_a_new_process_count() -> None:
    """The old ones are those of other arguments."""
    s = Scheduler(config(a={}))
    s.handle(Arrived(1, A), now_s=0)
    ready(s, A, 1, slots=2)
    s.handle(Finished(1), now_s=2)
    s.handle(Changed(A, Signal.EXITED, None), now_s=3)
    s.handle(Arrived(2, A), now_s=5)
    s.handle(Tick(), now_s=5)
    ready(s, A, 6)
    assert s.statistics_of(A).limit is None


def test_a_wait_says_that_another_client_or_a_higher_class_goes_first() -> None:
    """In the queue of a model that serves."""
    s = Scheduler(config(a={"max_in_flight": 1}))
    s.handle(Arrived(1, A, client="x"), now_s=0)
    ready(s, A, 1)
    s.handle(Arrived(2, A, client="x"), now_s=2)
    s.handle(Arrived(3, A, client="y"), now_s=2)
    behind = s.wait_of(2), s.wait_of(3)
    assert [each and each.behind for each in behind] == [None, Behind.CLIENT]
    s.handle(Arrived(4, A, client="y", priority=Priority.INTERACTIVE), now_s=2)
    behind = s.wait_of(2), s.wait_of(4)
    assert [each and each.behind for each in behind] == [Behind.CLASS, None]


def test_a_wait_says_whose_turn_it_is_where_models_take_each_others_place() -> None:
    """As in the queue of one model."""
    s = Scheduler(config(a={}, b={}, c={}))
    s.handle(Arrived(1, A, client="x"), now_s=0)
    ready(s, A, 1)
    s.handle(Arrived(2, B, client="x"), now_s=2)
    s.handle(Arrived(3, C, client="y"), now_s=3)
    behind = s.wait_of(2), s.wait_of(3)
    assert {each and each.behind for each in behind} == {None, Behind.CLIENT}
    s.handle(Arrived(4, C, client="y", priority=Priority.INTERACTIVE), now_s=3)
    behind = s.wait_of(2), s.wait_of(4)
    assert [each and each.behind for each in behind] == [Behind.CLASS, None]


@pytest.mark.parametrize(
    ("asked", "key", "model", "expected"),
    [
        (None, None, None, "normal"),
        (None, None, "background", "background"),
        (None, "interactive", None, "interactive"),
        (None, "interactive", "background", "background"),
        (None, "background", "interactive", "background"),
        ("interactive", None, "background", "interactive"),
        ("interactive", "normal", None, "normal"),
        ("background", "interactive", None, "background"),
    ],
)
def test_the_class_of_a_request(
    asked: str | None, key: str | None, model: str | None, expected: str
) -> None:
    """What the request asks for, else that of its model; never above that of its key."""
    spec = config(a={} if model is None else {"priority": model}).models[A]
    caller = Caller(
        asked=None if asked is None else Priority(asked),
        priority=None if key is None else Priority(key),
    )
    assert caller.priority_at(spec) == expected


def test_a_template_has_a_class_for_its_models() -> None:
    """A model can have its own."""
    document = {
        "templates": {"jobs": {"priority": "background"}},
        "models": {
            "a": {"path": "x.gguf", "template": "jobs"},
            "b": {"path": "x.gguf", "template": "jobs", "priority": "normal"},
        },
    }
    models = parse_config(document).models
    assert [models[each].priority for each in (A, B)] == [Priority.BACKGROUND, Priority.NORMAL]


@pytest.mark.parametrize("fields", [{"weight": 0}, {"weight": -1.0}, {"priority": "high"}])
def test_a_key_with_a_wrong_share_or_class_is_refused(fields: dict) -> None:
    """With the path of the mistake."""
    with pytest.raises(ConfigError) as caught:
        parse_config({"api_keys": {"x": {"key": "sk-123456789", **fields}}})
    assert str(caught.value).count("api_keys.x") == 1


WEIGHTS = (0.5, 1.0, 4.0)
YIELD_S = 10.0
arrivals = st.tuples(
    st.sampled_from(["x", "y", "new"]), st.sampled_from(range(3)), st.sampled_from(WEIGHTS)
)


@given(
    before=st.lists(arrivals, max_size=12),
    own=st.integers(0, 3),
    victim=st.tuples(st.sampled_from(range(3)), st.sampled_from(WEIGHTS)),
    stream=st.lists(arrivals, min_size=1, max_size=6),
    lengths_s=st.lists(st.sampled_from([0.05, 1.0, 40.0]), min_size=1, max_size=4),
)
@settings(max_examples=100, deadline=None)
def test_every_wait_is_bounded_whatever_keeps_arriving(
    before: list[tuple[str, int, float]],
    own: int,
    victim: tuple[int, float],
    stream: list[tuple[str, int, float]],
    lengths_s: list[float],
) -> None:
    """Clients old and new, of any class and weight, send as many as are served, for ever."""
    line, now_s, numbers = Line(), 0.0, count()
    rank, weight = victim

    def add(client: str, rank: int, weight: float) -> int:
        number = next(numbers)
        client = f"new {number}" if client == "new" else client
        line.add(number, client, rank, weight, now_s)
        return number

    for each in before:
        add(*each)
    clients = len(line.clients(rank))
    awaited = [add("victim", rank, weight) for _ in range(own + 1)][-1]
    # In its class: as many as weigh more, and short ones (a quarter), for each of its own, and of
    # each other client one turn.
    turns = 4 * (own + 1 + clients) * (max(WEIGHTS) / weight + 1) * max(WEIGHTS) / min(WEIGHTS)
    # And for each of them, one that is under way, and those of higher classes meanwhile.
    bound_s = turns * 2 * (YIELD_S + 2 * max(lengths_s)) + max(lengths_s)
    for each, length_s in zip(cycle(stream), cycle(lengths_s), strict=False):
        add(*each)
        (number,) = line.take(1, now_s, YIELD_S)
        if number == awaited:
            break
        now_s += length_s
        line.settle(number, now_s)
        assert now_s <= bound_s, "it starves"
