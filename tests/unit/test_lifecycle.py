"""The tables of phases and intents, and the policy of restarts."""

import pytest

from llama_router.core.scheduling.lifecycle import (
    INTENTS,
    RESIDENT,
    TRANSITIONS,
    Cue,
    IllegalTransitionError,
    Intent,
    Phase,
    Signal,
    advance,
)
from llama_router.core.scheduling.restart import CLOSED, Breaker, after_failure


def test_every_phase_has_a_way_out() -> None:
    """No phase is a dead end."""
    assert set(TRANSITIONS) == set(Phase)
    assert all(TRANSITIONS[phase] for phase in Phase)


def test_every_way_leads_back_to_stopped() -> None:
    """From any phase, STOPPED can be reached."""
    reach = {Phase.STOPPED}
    for _ in Phase:
        reach |= {p for p in Phase if reach & set(TRANSITIONS[p].values())}
    assert reach == set(Phase)


def test_memory_is_free_only_after_the_exit() -> None:
    """STOPPING, which is left on EXITED alone, still counts as resident."""
    assert Phase.STOPPING in RESIDENT
    assert TRANSITIONS[Phase.STOPPING] == {Signal.EXITED: Phase.STOPPED}


def test_an_unknown_transition_is_a_bug() -> None:
    """A move that the table lacks is an assertion, not an error to handle."""
    with pytest.raises(IllegalTransitionError, match="no transition from ready on start"):
        advance(Phase.READY, Signal.START)


def fail(breaker: Breaker, *, now_s: float, ready_for_s: float = 0, retryable: bool = True):
    return after_failure(
        breaker,
        now_s=now_s,
        ready_for_s=ready_for_s,
        retryable=retryable,
        max_restarts=3,
        stable_after_s=60,
        cooldown_s=30,
    )


def test_pauses_double_until_the_breaker_opens() -> None:
    """Three restarts after 0.5, 1 and 2 s; the fourth failure opens the breaker."""
    breaker, pauses = CLOSED, []
    for _ in range(3):
        breaker = fail(breaker, now_s=100)
        pauses.append(breaker.retry_at_s - 100)
    assert pauses == [0.5, 1, 2]
    assert fail(breaker, now_s=100) == Breaker(failures=4, retry_at_s=130, open=True)


def test_being_ready_for_a_moment_forgives_nothing() -> None:
    """A backend that becomes ready and crashes soon after still counts up."""
    breaker = fail(fail(CLOSED, now_s=0), now_s=10, ready_for_s=59)
    assert breaker.failures == 2


def test_being_stable_forgives() -> None:
    """After `stable_after_s` of being ready the count starts again."""
    breaker = fail(fail(CLOSED, now_s=0), now_s=100, ready_for_s=60)
    assert breaker.failures == 1


def test_half_open_is_one_attempt() -> None:
    """After the cool-down, one failure opens the breaker again."""
    opened = fail(CLOSED, now_s=0, retryable=False)
    assert opened.open
    assert fail(opened, now_s=40) == Breaker(failures=2, retry_at_s=70, open=True)
    assert not fail(opened, now_s=40, ready_for_s=60).open


def test_failures_are_those_that_happened() -> None:
    """One that opens the breaker at once counts as one."""
    assert fail(CLOSED, now_s=0, retryable=False).failures == 1


def test_every_intent_can_be_left_and_reached() -> None:
    """The table of intents has no dead end but the removal, which an addition takes back."""
    rows = [row for table in INTENTS.values() for row in table.items()]
    assert {before for before, _ in rows} == set(Intent)
    assert {after for _, after in rows} == set(Intent)
    assert INTENTS.keys() == set(Cue)


def test_only_an_addition_takes_a_removal_back() -> None:
    """Nothing that happens to a leaving model makes it stay."""
    assert [cue for cue, table in INTENTS.items() if Intent.REMOVED in table] == [Cue.ADDED]


def test_a_cue_changes_something_wherever_it_is_listed() -> None:
    """A row that leaves an intent as it is would be noise."""
    assert all(before is not after for t in INTENTS.values() for before, after in t.items())
