"""The line that each finished request writes, the same for both planes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llama_router.core.apis.usage import Usage
from llama_router.dispatch.request_log import (
    Outcome,
    RequestLog,
    log_early_refusal,
    log_unread_refusal,
)
from llama_router.errors.backends import UpstreamError
from llama_router.errors.requests import RequestError
from tests.events import capture_logs

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "log-events.md"


@pytest.fixture
def log() -> RequestLog:
    """Return the record of a request that arrived at 1.0 s."""
    log = RequestLog("POST", "/v1/chat/completions", began_s=1.0)
    log.model = "a"
    return log


def written(log: RequestLog) -> dict[str, object]:
    """Return the line that *log* writes at 3.0 s, its fields in their order."""
    with capture_logs() as lines:
        log.write(now_s=3.0)
    (line,) = lines
    return dict(line)


def test_a_completed_request(log: RequestLog) -> None:
    """Its fields are complete, and in the documented order."""
    log.outcome, log.status, log.sent_bytes = Outcome.OK, 200, 7
    log.usage, log.request_id = Usage(3, 4), "req_1"
    assert list(written(log).items()) == [
        ("model", "a"),
        ("method", "POST"),
        ("path", "/v1/chat/completions"),
        ("duration_s", 2.0),
        ("status", 200),
        ("outcome", "ok"),
        ("sent_bytes", 7),
        ("prompt_tokens", 3),
        ("completion_tokens", 4),
        ("request_id", "req_1"),
        ("event", "request.completed"),
        ("log_level", "info"),
    ]


@pytest.mark.parametrize("outcome", [Outcome.OK, Outcome.CLIENT_GONE, Outcome.CUT])
def test_an_error_cuts(log: RequestLog, outcome: Outcome) -> None:
    """A response that an error ended was cut, even if its client then left."""
    log.outcome, log.error = outcome, UpstreamError("it closed")
    line = written(log)
    assert (line["outcome"], line["code"]) == ("cut", UpstreamError.code)
    assert line["reason"] == "it closed"


@pytest.mark.parametrize("request_id", [None, "req_1"])
def test_a_refused_request(log: RequestLog, request_id: str | None) -> None:
    """It is an event of its own, with the status that the client got."""
    log.status = 200
    log.refuse(RequestError("no"), request_id)
    line = written(log)
    assert line["event"] == "request.refused"
    assert (line["status"], line["reason"]) == (400, "no")
    assert line.get("request_id") == request_id
    assert "outcome" not in line


def test_the_outcomes_are_documented() -> None:
    """The page names each outcome of a completed request, and no other one."""
    text = PAGE.read_text()
    (entry,) = re.findall(r"^- `outcome`: (.*)", text, re.MULTILINE)
    assert set(re.findall(r"(?:^|; )`(\w+)`", entry)) == {*Outcome} - {Outcome.REFUSED}


def test_refusals_without_a_model() -> None:
    """They have the fields that are known."""
    with capture_logs() as lines:
        log_early_refusal(RequestError("no"), "POST", "/api/chat")
        log_unread_refusal(RequestError("no"), "req_1")
    early, unread = lines
    assert list(early) == [
        *("model", "method", "path", "code", "reason", "status"),
        *("event", "log_level"),
    ]
    assert list(unread) == ["code", "status", "reason", "request_id", "event", "log_level"]
