"""Models that services serve: the health of a service, and the requests for a model."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config.config import Config
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.core.config.specs import Priority
from llama_router.core.scheduling.events import Arrived, Grant, Refuse
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.core.services.health import (
    MAX_FAILS,
    TRANSITIONS,
    Finding,
    Health,
    ServiceHealth,
)
from llama_router.core.services.models import Action, Ask, ServiceModels
from llama_router.errors.backends import ServiceDownError

A, B = ModelId("a"), ModelId("b")
URL = "http://127.0.0.1:8000"


def config(router: dict[str, Any] | None = None, **models: dict[str, Any]) -> Config:
    tables = {name: {"url": URL, **table} for name, table in models.items()}
    return parse_config({"router": router or {}, "models": tables})


def served(router: dict[str, Any] | None = None, **table: Any) -> ServiceModels:
    """Return one model whose service serves."""
    models = ServiceModels(config(router, a=table))
    models.asked(A)
    models.serves(A, 0.0)
    return models


def arrived(models: ServiceModels, request: int, now_s: float = 0.0, **fields: Any) -> list[Action]:
    return models.arrived(Arrived(request, A, **fields), now_s)


def down(models: ServiceModels, now_s: float = 0.0) -> list[Action]:
    error = ServiceDownError("it is down")
    return models.fails(A, error, failures=1, retry_at_s=now_s + 3, now_s=now_s)


def codes(actions: list[Action]) -> list[str]:
    return [action.error.code for action in actions if isinstance(action, Refuse)]


# --- Health --------------------------------------------------------------------------


def test_the_table_has_a_row_for_every_finding() -> None:
    """No health leaves a finding open, and one success is enough from each."""
    for health in Health:
        assert TRANSITIONS[health].keys() == set(Finding)
        assert TRANSITIONS[health][Finding.SERVES] is Health.UP


def after(*findings: Finding) -> ServiceHealth:
    health = ServiceHealth()
    for finding in findings:
        health = health.after(finding)
    return health


@pytest.mark.parametrize("finding", [Finding.REFUSES, Finding.FAILS])
def test_the_first_answer_decides(finding: Finding) -> None:
    """A service of which nothing is known is down with the first answer that says so."""
    assert after(finding).state is Health.DOWN


def test_one_that_served_may_be_slow() -> None:
    """It takes several failures in a row, and one success clears them."""
    assert after(Finding.SERVES, *[Finding.FAILS] * (MAX_FAILS - 1)).state is Health.SUSPECT
    assert after(Finding.SERVES, *[Finding.FAILS] * MAX_FAILS).state is Health.DOWN
    mixed = [Finding.FAILS, Finding.SERVES] * MAX_FAILS
    assert after(Finding.SERVES, *mixed).state is Health.UP


def test_a_refusal_counts_at_once() -> None:
    """Nothing listens there: no request can succeed."""
    assert after(Finding.SERVES, Finding.REFUSES).state is Health.DOWN


def test_one_that_is_down_is_asked_again_soon_and_then_at_its_period() -> None:
    """The pauses double, up to the period."""
    pauses = [after(*[Finding.REFUSES] * n).pause_s(5) for n in range(1, 8)]
    assert pauses == [0.25, 0.5, 1, 2, 4, 5, 5]
    assert after(Finding.SERVES).pause_s(5) == 5
    assert after(Finding.SERVES, Finding.FAILS).pause_s(5) == 1


@given(st.lists(st.sampled_from(Finding)), st.floats(0.01, 1e6))
def test_a_pause_is_never_longer_than_the_period(findings: list[Finding], period_s: float) -> None:
    """Whatever was found, and however often."""
    assert 0 < after(*findings).pause_s(period_s) <= period_s


# --- Requests ------------------------------------------------------------------------


def test_a_request_asks_a_service_that_was_not_asked() -> None:
    """It waits for the answer, and is granted with it."""
    models = ServiceModels(config(a={}))
    assert arrived(models, 1) == [Ask(A)]
    assert models.phase(A) is Phase.STARTING
    assert models.wait_of(1) is not None
    assert models.serves(A, 1.0) == [Grant(1, A)]
    assert models.phase(A) is Phase.READY
    assert models.moves == [(A, Phase.STARTING), (A, Phase.READY)]


def test_a_request_that_may_load_nothing_asks_no_service() -> None:
    """As with a process: `autoload = false` waits for a person."""
    models = ServiceModels(config(a={}))
    assert codes(arrived(models, 1, may_load=False)) == ["model_not_loaded"]


def test_while_it_is_down_requests_are_refused_at_once() -> None:
    """Those that wait, and later ones; each with the reason and the time of the next question."""
    models = ServiceModels(config(a={}))
    arrived(models, 1)
    assert codes(down(models)) == ["service_down"]
    assert models.phase(A) is Phase.FAILED
    (refusal,) = arrived(models, 2, now_s=1.0)
    assert isinstance(refusal, Refuse)
    assert str(refusal.error) == "it is down"
    assert refusal.error.retry_after_s == 2.0
    assert models.statistics_of(A).retry_at_s == 3.0
    assert not models.has(1)
    assert not models.has(2)


def test_it_serves_again() -> None:
    """The next good answer is all that it takes."""
    models = served()
    down(models)
    models.serves(A, 5.0)
    assert arrived(models, 1, now_s=5.0) == [Grant(1, A)]
    assert models.statistics_of(A).failures == 0


def test_streams_outlive_a_failed_check() -> None:
    """A request in flight is not cut, and its end is taken in."""
    models = served()
    arrived(models, 1)
    assert down(models) == []
    assert models.statistics_of(A).in_flight == 1
    assert models.finished(1, 9.0) == []
    assert models.statistics_of(A).in_flight == 0


def test_the_limit_of_requests() -> None:
    """Those over `max_in_flight` wait, those without a slot do not."""
    models = served(max_in_flight=1)
    assert arrived(models, 1) == [Grant(1, A)]
    assert arrived(models, 2) == []
    assert arrived(models, 3, takes_slot=False) == [Grant(3, A)]
    assert models.finished(3, 1.0) == []
    assert models.finished(1, 1.0) == [Grant(2, A)]


def test_waiting_requests_take_turns() -> None:
    """One request of a client waits for one of the other client, and a higher class goes first."""
    models = served(max_in_flight=1)
    arrived(models, 1, client="x")
    for request in (2, 3, 4):
        arrived(models, request, client="x")
    arrived(models, 5, client="y")
    arrived(models, 6, client="z", priority=Priority.INTERACTIVE)
    order = []
    current = 1
    for _ in range(5):
        (grant,) = models.finished(current, 1.0)
        assert isinstance(grant, Grant)
        order.append(current := grant.request)
    assert order[0] == 6
    assert order.index(5) < order.index(3)


def test_a_full_queue_refuses() -> None:
    """With the limit of the model."""
    models = served(max_in_flight=1, max_queued=1)
    arrived(models, 1, client="x")
    arrived(models, 2, client="x")
    assert codes(arrived(models, 3, client="x")) == ["queue_full"]


def test_a_request_waits_no_longer_than_it_may() -> None:
    """`max_queue_wait_s` holds, and time in which the router stood still does not count."""
    models = served({"max_queue_wait_s": 10}, max_in_flight=1)
    arrived(models, 1)
    arrived(models, 2, now_s=1.0)
    assert models.wake_s == 11.0
    models.held_up(5.0)
    assert models.time_out(11.0) == []
    assert models.wake_s == 16.0
    assert codes(models.time_out(16.0)) == ["queue_timeout"]
    assert models.wake_s == float("inf")
    assert models.finished(1, 17.0) == []


def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    """What it waited for goes to the next one."""
    models = served(max_in_flight=1)
    arrived(models, 1)
    arrived(models, 2)
    arrived(models, 3)
    assert models.finished(2, 1.0) == []
    assert models.finished(1, 1.0) == [Grant(3, A)]


def test_unloading_leaves_the_service_alone() -> None:
    """What waits is refused; the next request asks again."""
    models = served(max_in_flight=1)
    arrived(models, 1)
    arrived(models, 2)
    assert codes(models.unloaded(A)) == ["model_not_loaded"]
    assert models.phase(A) is Phase.STOPPED
    assert models.statistics_of(A).in_flight == 1
    assert down(models) == []
    assert models.phase(A) is Phase.STOPPED
    assert arrived(models, 3) == [Ask(A)]


def test_a_load_asks_again() -> None:
    """Also while it is down: its requests wait for the answer then."""
    models = served()
    down(models)
    assert models.asked(A) == [Ask(A)]
    assert arrived(models, 1) == []
    assert models.serves(A, 1.0) == [Grant(1, A)]


def test_shutting_down_refuses() -> None:
    """What waits, and what comes."""
    models = served(max_in_flight=1)
    arrived(models, 1)
    arrived(models, 2)
    assert codes(models.shut_down()) == ["shutting_down"]
    assert codes(arrived(models, 3)) == ["shutting_down"]


# --- Reloads -------------------------------------------------------------------------


def test_a_changed_url_is_asked_first() -> None:
    """New requests wait for the answer there; those in flight stay where they are."""
    models = served()
    arrived(models, 1)
    assert models.reconfigured(config(a={"url": "http://127.0.0.1:9"}), 1.0) == [Ask(A)]
    assert models.phase(A) is Phase.STARTING
    assert arrived(models, 2) == []
    assert models.serves(A, 2.0) == [Grant(2, A)]
    assert models.statistics_of(A).in_flight == 2


def test_another_limit_holds_at_once() -> None:
    """No question is needed for that."""
    models = served(max_in_flight=1)
    arrived(models, 1)
    arrived(models, 2)
    assert models.reconfigured(config(a={"max_in_flight": 2}), 1.0) == [Grant(2, A)]


def test_a_removed_model_ends_with_its_last_request() -> None:
    """It is unknown at once, and its requests in flight are taken to their ends."""
    models = served(max_in_flight=1)
    arrived(models, 1)
    arrived(models, 2)
    actions = models.reconfigured(config(b={}), 1.0)
    assert codes(actions) == ["model_not_found"]
    assert Ask(B) in actions
    assert A not in models
    assert B in models
    assert models.has(1)
    assert models.finished(1, 2.0) == []
    assert list(models.statistics()) == [B]


def test_a_model_that_comes_back_is_asked_anew() -> None:
    """Nothing that was known of it counts."""
    models = served()
    arrived(models, 1)
    models.reconfigured(config(b={}), 1.0)
    assert models.reconfigured(config(a={}), 2.0) == [Ask(A)]
    assert models.phase(A) is Phase.STARTING
    models.serves(A, 3.0)
    assert models.finished(1, 4.0) == []
    assert A in models


OPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 9), st.booleans()),
        st.tuples(st.just("finish"), st.integers(1, 9), st.none()),
        st.sampled_from([("up", 0, None), ("down", 0, None), ("unload", 0, None)]),
        st.sampled_from([("load", 0, None), ("tick", 0, None), ("reload", 0, None)]),
    ),
    max_size=40,
)


@given(OPS, st.integers(1, 3))
def test_every_request_has_one_end(  # noqa: C901 -- a case for each operation
    ops: list[tuple[str, int, Any]], limit: int
) -> None:
    """Whatever happens: one grant or refusal each, never over the limit, nothing is left over."""
    models = ServiceModels(config({"max_queue_wait_s": 5}, a={"max_in_flight": limit}))
    waiting, held, now_s = set[int](), set[int](), 0.0
    slotless = set[int]()

    def take(actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Ask):
                continue
            assert action.request in waiting
            waiting.discard(action.request)
            if isinstance(action, Grant):
                held.add(action.request)
        assert len(held - slotless) <= limit

    for op, request, flag in ops:
        now_s += 1.0
        match op:
            case "arrive" if request not in waiting | held:
                waiting.add(request)
                (slotless.discard if flag else slotless.add)(request)
                take(arrived(models, request, now_s, takes_slot=flag))
            case "finish" if models.has(request):
                waiting.discard(request)
                held.discard(request)
                take(models.finished(request, now_s))
            case "up" if models.phase(A) is not Phase.STOPPED:
                take(models.serves(A, now_s))
            case "down":
                take(down(models, now_s))
            case "unload":
                take(models.unloaded(A))
            case "load":
                take(models.asked(A))
            case "tick":
                take(models.time_out(now_s))
            case "reload":
                other = config(a={"max_in_flight": limit, "url": f"http://h:{int(now_s)}"})
                take(models.reconfigured(other, now_s))
        assert waiting == {r for r in range(1, 10) if models.wait_of(r) is not None}
        assert waiting | held == {r for r in range(1, 10) if models.has(r)}
        assert models.phase(A) is not Phase.READY or not waiting or len(held) >= limit
    take(models.shut_down())
    assert not waiting
    for request in tuple(held):
        assert models.finished(request, now_s) == []
    assert models.statistics_of(A).in_flight == 0
