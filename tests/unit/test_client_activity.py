"""`ClientActivity`: which long-lived connections hold their leases. Times are plain numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.dispatch.activity import HOLD_S, RETRY_S, ClientActivity, HoldEnd, is_file


def test_a_silent_connection_holds_its_lease_for_a_while() -> None:
    """Its request counts as something that it sent."""
    activity = ClientActivity()
    activity.begin(1, 10.0)
    assert activity.next_s == 10.0 + HOLD_S
    assert activity.ended(10.0 + HOLD_S - 0.1) == []
    assert activity.ended(10.0 + HOLD_S) == [HoldEnd(1, silent=True)]
    assert activity.next_s == math.inf


def test_a_client_that_sends_is_no_silent_one() -> None:
    """At the end of its hold it may get another, which ends that long after what it sent."""
    activity = ClientActivity()
    activity.begin(1, 0.0)
    assert not activity.sent(1, 3.0), "it holds its lease already"
    assert activity.ended(HOLD_S) == [HoldEnd(1, silent=False)]
    activity.holds(1)
    assert activity.next_s == 3.0 + HOLD_S
    assert activity.ended(3.0 + HOLD_S) == [HoldEnd(1, silent=True)]


def test_a_client_that_sends_again_takes_its_lease_again() -> None:
    """At once, whatever the time."""
    activity = ClientActivity()
    activity.begin(1, 0.0)
    activity.ended(HOLD_S)
    assert activity.sent(1, 100.0)
    activity.holds(1)
    assert activity.ended(100.0 + HOLD_S) == [HoldEnd(1, silent=True)]


def test_a_connection_that_does_not_get_its_lease_asks_again_later() -> None:
    """Not with each piece that its client sends."""
    activity = ClientActivity()
    activity.begin(1, 0.0)
    activity.ended(HOLD_S)
    assert activity.sent(1, 10.0)
    assert not activity.sent(1, 10.0 + RETRY_S / 2)
    assert activity.sent(1, 10.0 + RETRY_S)


def test_a_connection_that_is_over_has_no_hold() -> None:
    """Nor does it come up later."""
    activity = ClientActivity()
    activity.begin(1, 0.0)
    activity.forget(1)
    assert not activity.sent(1, 1.0)
    assert activity.ended(HOLD_S) == []
    activity.forget(1)


@given(st.lists(st.tuples(st.integers(1, 3), st.floats(0.01, 4.0)), max_size=60))
def test_a_hold_never_outlasts_its_client_by_more(sends) -> None:
    """Whoever sends when: `HOLD_S` after the last of it no connection holds its lease."""
    activity, now_s = ClientActivity(), 0.0
    for request in (1, 2, 3):
        activity.begin(request, now_s)
    for request, pause_s in sends:
        now_s += pause_s
        for end in activity.ended(now_s):
            if not end.silent:
                activity.holds(end.request)
        if activity.sent(request, now_s):
            activity.holds(request)
        assert activity.next_s <= now_s + HOLD_S
    while activity.next_s < math.inf:
        for end in activity.ended(activity.next_s):
            if not end.silent:
                activity.holds(end.request)
        assert activity.next_s == math.inf or activity.next_s <= now_s + HOLD_S


@pytest.mark.parametrize(
    ("content_type", "disposition", "expected"),
    [
        (b"audio/wav", None, True),
        (b" Image/PNG; x=y", None, True),
        (b"text/html; charset=utf-8", None, True),
        (b"application/json", None, True),
        (b"application/octet-stream", b"attachment", True),
        (b"application/octet-stream", None, False),
        (b"text/event-stream", None, False),
        (b"text/plain", None, False),
        (b"multipart/x-mixed-replace; boundary=x", None, False),
        (b"application/x-ndjson", None, False),
        (b"application/json-seq", None, False),
        (b"application/jsonl", None, False),
        (None, None, False),
    ],
)
def test_files_have_an_end(
    content_type: bytes | None,
    disposition: bytes | None,
    expected: bool,  # noqa: FBT001 -- parametrized
) -> None:
    """What may go on for ever is no file."""
    assert is_file(content_type, disposition) is expected
