"""The latest events of the log, in memory."""

from __future__ import annotations

import io
import json
import threading

from llama_router.logs import recent
from llama_router.logs.events import log
from llama_router.logs.output import configure
from llama_router.logs.recent import RecentEvents


def test_the_latest_events_are_kept(monkeypatch) -> None:
    """With their numbers, so that a reader goes on where it was."""
    monkeypatch.setattr(recent, "KEPT", 3)
    events = RecentEvents()
    for number in range(5):
        events.keep("info", "a.happened", {"n": number}, 10)
    assert [event.fields["n"] for event in events.after(0)] == [2, 3, 4]
    assert [event.number for event in events.after(4)] == [5]
    assert events.after(5) == []


def test_their_size_is_limited(monkeypatch) -> None:
    """Long values are cut: a client may have made them up."""
    monkeypatch.setattr(recent, "KEPT_BYTES", 10_000)
    events = RecentEvents()
    for _ in range(10):
        events.keep("info", "request.refused", {"path": "/x" * 50_000, "status": 404}, 100_000)
    kept = events.after(0)
    assert len(kept) == 2
    assert len(kept[0].fields["path"]) < 1000
    assert kept[0].fields["status"] == 404


def test_threads_do_not_lose_events() -> None:
    """Each has a number of its own."""
    events = RecentEvents()

    def write() -> None:
        for _ in range(500):
            events.keep("info", "a.happened", {}, 1)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event.number for event in events.after(0)] == list(range(1, 2001))


def test_what_is_written_is_kept_and_nothing_else() -> None:
    """By the level of the output; an exception as its traceback."""
    stream = io.StringIO()
    before = log.recent.last
    with configure(level="info", format="json", stream=stream):
        log.debug("a.decided")
        log.info("a.happened", n=1)
        try:
            raise RuntimeError("no")  # noqa: TRY301 -- to have a traceback
        except RuntimeError:
            log.exception("a.failed")
    kept = log.recent.after(before)
    assert [(event.level, event.name) for event in kept] == [
        ("info", "a.happened"),
        ("error", "a.failed"),
    ]
    assert "RuntimeError: no" in kept[1].fields["traceback"]
    assert "RuntimeError: no" in json.loads(stream.getvalue().splitlines()[1])["traceback"]
