"""Requests and tokens per minute."""

from __future__ import annotations

from llama_router.core.apis.usage import Usage
from llama_router.dispatch import activity_log
from llama_router.dispatch.activity_log import ActivityLog
from llama_router.dispatch.request_log import Outcome, RequestLog
from llama_router.dispatch.traffic import KEPT_MINUTES, Traffic


def end(activity: ActivityLog, at: float, outcome: Outcome = Outcome.OK, tokens: int = 0) -> None:
    """Let a request end at the time *at*, in seconds since 1970."""
    record = RequestLog("POST", "/v1/chat/completions", began_s=0.0)
    activity.begin(record)
    record.began_at, record.outcome, record.usage = at - 5.0, outcome, Usage(3, tokens)
    record.write(now_s=5.0)


async def test_each_minute_has_its_requests_and_tokens() -> None:
    """Also those without any."""
    activity = ActivityLog()
    now = 600.0
    traffic = Traffic(activity, lambda: now)
    end(activity, 480.0, tokens=7)
    end(activity, 539.9, tokens=1)
    end(activity, 599.0, Outcome.CUT)
    end(activity, 600.0, Outcome.REFUSED)
    found = [
        (at, minute.requests, minute.refused, minute.failed, minute.completion_tokens)
        for at, minute in traffic.since(150)
    ]
    assert found == [
        (420, 0, 0, 0, 0),
        (480, 2, 0, 0, 8),
        (540, 1, 0, 1, 0),
        (600, 1, 1, 0, 0),
    ]


async def test_more_requests_than_are_kept_are_counted(monkeypatch) -> None:
    """In batches, as they are pushed out."""
    activity = ActivityLog()
    traffic = Traffic(activity, lambda: 60.0)
    for _ in range(activity_log.KEPT * 2):
        end(activity, 60.0)
    assert traffic.since(0)[0][1].requests == activity_log.KEPT * 2


async def test_old_minutes_are_forgotten() -> None:
    """After some hours."""
    activity = ActivityLog()
    now = 0.0
    traffic = Traffic(activity, lambda: now)
    for minute in range(KEPT_MINUTES * 3):
        now = minute * 60.0
        end(activity, now)
        traffic.since(60)
    assert len(traffic._minutes) <= 2 * KEPT_MINUTES
    assert all(each.requests for _, each in traffic.since((KEPT_MINUTES - 1) * 60))
