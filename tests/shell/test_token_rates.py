"""The rates at which models generate, from what requests did."""

from __future__ import annotations

from typing import Any

import pytest

from llama_router.core.apis.usage import Usage
from llama_router.dispatch.activity_log import ActivityLog
from llama_router.dispatch.lease import Lease
from llama_router.dispatch.request_log import Outcome, RequestLog
from llama_router.dispatch.token_rates import TokenRates


class Stream:
    """A request that is being served, and the bytes that have come."""

    def __init__(self, activity: ActivityLog, model: str, *, granted_s: float = 0.0) -> None:
        self.moved_bytes = 0
        self.record = RequestLog("POST", "/v1/chat/completions", began_s=granted_s)
        self.record.model, self.record.streamed = model, True
        activity.begin(self.record)
        nothing: Any = object()
        self.record.lease = lease = Lease(nothing, 1, None, granted_s)
        lease.backend, lease.granted_s = nothing, granted_s
        lease.moved_bytes = lambda: self.moved_bytes
        activity.granted(self.record)

    def end(self, *, tokens: int, now_s: float) -> None:
        self.record.usage = Usage(1, tokens)
        self.record.sent_bytes = self.moved_bytes
        self.record.outcome = Outcome.OK
        self.record.first_body_s = now_s - 1
        self.record.write(now_s=now_s)


@pytest.fixture
def activity() -> ActivityLog:
    """No request yet."""
    return ActivityLog()


async def test_bytes_tell_the_rate_of_a_stream_once_one_has_ended(activity) -> None:
    """Before, it is not known how many a token takes."""
    rates = TokenRates(activity)
    first = Stream(activity, "a")
    first.moved_bytes = 2000
    rates.refresh(10.0)
    assert rates.tokens_per_s("a") is None
    first.end(tokens=10, now_s=10.0)
    second = Stream(activity, "a", granted_s=10.0)
    rates.refresh(11.0)
    second.moved_bytes = 4000
    rates.refresh(12.0)
    assert rates.tokens_per_s("a") == 20.0
    assert rates.last_tokens_per_s("a") == 9.0
    rates.refresh(13.0)
    assert rates.tokens_per_s("a") is None


async def test_one_look_counts_from_the_grant(activity) -> None:
    """There is no earlier one for `ps`."""
    first = Stream(activity, "a")
    first.moved_bytes = 2000
    first.end(tokens=10, now_s=10.0)
    second = Stream(activity, "a", granted_s=10.0)
    second.moved_bytes = 4000
    rates = TokenRates(activity)
    rates.refresh(12.0)
    assert rates.tokens_per_s("a") == 10.0


async def test_streams_of_one_model_add_up(activity) -> None:
    """And two looks at nearly the same time are one."""
    first = Stream(activity, "a")
    first.moved_bytes = 2000
    first.end(tokens=10, now_s=1.0)
    streams = [Stream(activity, "a", granted_s=1.0) for _ in range(3)]
    rates = TokenRates(activity)
    rates.refresh(2.0)
    for stream in streams:
        stream.moved_bytes += 400
    rates.refresh(2.01)
    assert rates.tokens_per_s("a") is None
    rates.refresh(3.0)
    assert rates.tokens_per_s("a") == 6.0


async def test_a_model_that_served_was_used(activity) -> None:
    """A name that was refused is perhaps that of no model."""
    Stream(activity, "a").end(tokens=1, now_s=5.0)
    refused = RequestLog("POST", "/v1/chat/completions", began_s=0.0)
    refused.model = "none"
    activity.begin(refused)
    refused.write(now_s=1.0)
    rates = TokenRates(activity)
    rates.refresh(6.0)
    assert rates.used_at("a") is not None
    assert rates.used_at("none") is None
