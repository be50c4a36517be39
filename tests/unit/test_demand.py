"""Demand: counted grants that fade, and the usual pause between requests."""

import math

import pytest

from llama_router.core.scheduling.demand import HALF_LIFE_S, Demand


def test_a_grant_of_ten_minutes_ago_is_half_a_grant() -> None:
    """The count fades, and never ends."""
    demand = Demand()
    demand.granted(0.0)
    demand.granted(0.0)
    assert demand.at(0.0) == 2.0
    assert demand.at(HALF_LIFE_S) == pytest.approx(1.0)
    demand.granted(HALF_LIFE_S)
    assert demand.at(2 * HALF_LIFE_S) == pytest.approx(1.0)


def test_the_pause_is_from_the_end_of_a_request_to_the_next_arrival() -> None:
    """Each new one counts for a quarter; without any, it is infinite."""
    demand = Demand()
    demand.arrived(0.0)
    assert demand.pause_s == math.inf
    demand.ended(5.0)
    demand.arrived(7.0)
    assert demand.pause_s == 2.0
    demand.ended(10.0)
    demand.arrived(14.0)
    assert demand.pause_s == 2.5


def test_an_arrival_without_an_end_before_it_is_no_pause() -> None:
    """The earlier request was cancelled while it waited, for example."""
    demand = Demand()
    demand.ended(1.0)
    demand.arrived(2.0)
    demand.arrived(50.0)
    assert demand.pause_s == 1.0
