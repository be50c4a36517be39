"""Turns of models that wait to be started: classes, clients, ages, and what is kept of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llama_router.core.config.names import ModelId
from llama_router.core.scheduling.turn_order import TurnOrder

HIGH, MIDDLE, LOW = range(3)
YIELD_S = 60.0


def order_of(*models: tuple[str, int, float, str], now_s: float = 0.0) -> TurnOrder:
    """Return an order in which models wait: name, rank, age and client of each."""
    order = TurnOrder()
    for name, rank, turn_s, client in models:
        order.note(ModelId(name), rank, turn_s, {client: 1.0}, now_s)
    return order


def names(order: TurnOrder, *, now_s: float = 0.0, count: int | None = None) -> str:
    return "".join(order.first(count, now_s, YIELD_S))


def test_the_models_of_one_client_go_by_age() -> None:
    """As they did before there were clients."""
    order = order_of(("b", MIDDLE, 2, "x"), ("a", MIDDLE, 1, "x"), ("c", MIDDLE, 3, "x"))
    assert names(order) == "abc"


def test_clients_take_turns() -> None:
    """One with many models does not keep out one that came later."""
    agent = [(name, MIDDLE, 1, "agent") for name in "abcd"]
    order = order_of(*agent, ("p", MIDDLE, 9, "person"))
    assert names(order) == "apbcd"
    order.started(ModelId("a"), 10)
    assert names(order) == "pbcd"


def test_a_start_for_one_client_lets_another_one_go_first() -> None:
    """Also if the first has waited for longer with its next model."""
    order = order_of(("a", MIDDLE, 1, "x"), ("b", MIDDLE, 2, "x"), ("c", MIDDLE, 3, "y"))
    order.started(ModelId("a"), 4)
    assert names(order) == "cb"


def test_only_as_many_are_named_as_are_looked_at() -> None:
    """The rest costs nothing."""
    order = order_of(*[(name, MIDDLE, 1, f"client {name}") for name in "abcdef"])
    assert names(order, count=2) == "ab"


def test_a_higher_class_is_first_until_the_lower_one_has_yielded_for_long() -> None:
    """Then that has one start, and waits for one of the higher class before its next."""
    order = order_of(
        *[(name, LOW, 0, "x") for name in "lmn"], *[(name, HIGH, 5, "y") for name in "hij"]
    )
    assert names(order, now_s=59) == "hijlmn"
    assert order.until_s == 60
    assert names(order, now_s=60) == "lmnhij"
    order.started(ModelId("l"), 60)
    assert names(order, now_s=1000) == "hijmn"
    order.started(ModelId("h"), 1000)
    assert names(order, now_s=1000) == "mnij"


def test_a_lower_class_that_comes_again_and_again_does_not_keep_out_a_higher_one() -> None:
    """Though nothing else of it waits in between."""
    order = order_of(("h", HIGH, 0, "y"), ("l", LOW, 0, "x"))
    assert names(order, now_s=100) == "lh"
    order.started(ModelId("l"), 100)
    order.note(ModelId("m"), LOW, 101, {"x": 1.0}, 101)
    assert names(order, now_s=300) == "hm"


def test_a_model_that_several_clients_wait_for_has_the_turn_of_the_first_of_them() -> None:
    """And is named once."""
    order = order_of(("a", MIDDLE, 1, "x"), ("b", MIDDLE, 2, "x"))
    order.note(ModelId("b"), MIDDLE, 2, {"x": 1.0, "y": 1.0}, 3)
    assert names(order) == "ab"
    order.started(ModelId("a"), 4)
    order.note(ModelId("c"), MIDDLE, 1, {"x": 1.0}, 5)
    assert names(order) == "bc"


changes = st.lists(
    st.one_of(
        st.tuples(
            st.just("note"),
            st.sampled_from("abcdef"),
            st.sampled_from(range(3)),
            st.integers(0, 5),
            st.sets(st.sampled_from("xyz"), min_size=1),
        ),
        st.tuples(st.just("forget"), st.sampled_from("abcdef")),
        st.tuples(st.just("start"), st.sampled_from("abcdef")),
    ),
    max_size=40,
)


@given(changes)
@settings(max_examples=200, deadline=None)
def test_every_model_that_waits_is_named_once_and_no_other(steps: list) -> None:
    """Whatever was noted, replaced and forgotten; the highest class is first while none is due."""
    order = TurnOrder()
    waiting: dict[str, int] = {}
    for number, (what, name, *about) in enumerate(steps):
        if what == "note":
            rank, turn_s, clients = about
            order.note(ModelId(name), rank, turn_s, dict.fromkeys(clients, 1.0), number)
            waiting[name] = rank
        elif what == "forget":
            order.forget(ModelId(name))
            waiting.pop(name, None)
        else:
            order.started(ModelId(name), number)
            waiting.pop(name, None)
        named = [str(model) for model in order.first(None, number, 1e9)]
        assert sorted(named) == sorted(waiting)
        assert [waiting[model] for model in named] == sorted(waiting.values())


def test_a_model_that_another_one_was_stopped_for_is_next() -> None:
    """Before models whose clients have better turns, until it was started or waits no more."""
    order = TurnOrder()
    order.note(ModelId("a"), 0, 0.0, {"agent": 0.25}, 0.0)
    order.note(ModelId("d"), 0, 1.0, {"person": 8.0}, 1.0)
    assert order.first(None, 1.0, 60.0) == ["d", "a"]
    order.promise(ModelId("a"))
    assert order.until_s < 1.0
    order.note(ModelId("a"), 0, 0.0, {"agent": 0.25, "other": 1.0}, 1.0)  # it goes on waiting
    assert order.first(1, 1.0, 60.0) == ["a"]
    order.started(ModelId("a"), 1.0)
    order.note(ModelId("a"), 0, 2.0, {"agent": 0.25}, 2.0)
    assert order.first(None, 2.0, 60.0) == ["d", "a"]
    order.promise(ModelId("a"))
    order.forget(ModelId("a"))
    assert order.first(None, 2.0, 60.0) == ["d"]
