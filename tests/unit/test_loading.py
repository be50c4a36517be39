"""How far a load is, from what the router reports."""

from __future__ import annotations

from llama_router.cli.loading import LoadState


def status(phase: str, **fields: object) -> list[dict[str, object]]:
    model = {"id": "big", "aliases": ["gpt"], "phase": phase, "waits_for": None}
    return [model | {"load_left_s": None} | fields]


def test_what_the_backend_reports_counts_most() -> None:
    """Progress of its own, then the time of the last load, then the time that has passed."""
    state = LoadState("gpt", started_s=0.0)
    assert state.words(2.0) == "2 s"
    state.take_status(status("starting", load_left_s=6.0))
    assert state.words(2.0) == "25%, 6 s left"
    state.take_event("progress", {"id": "other", "progress": 0.9})
    state.take_event("progress", {"id": "big", "progress": 0.5})
    assert state.words(2.0) == "50%, 6 s left"


def test_why_it_waits_stands_in_place_of_figures() -> None:
    """Until it is being loaded."""
    state = LoadState("big", started_s=0.0)
    state.take_status(status("stopped", waits_for="Waiting for model 'a' to finish"))
    assert state.words(9.0) == "Waiting for model 'a' to finish"
    state.take_event("snapshot", {"models": status("starting", waits_for="Loading model 'big'...")})
    assert state.words(9.0) == "9 s"


def test_a_new_start_begins_anew() -> None:
    """After a failure the progress of the former process does not count."""
    state = LoadState("big", started_s=0.0)
    state.take_status(status("starting"))
    state.take_event("progress", {"id": "big", "progress": 0.5})
    state.take_event("model", {"id": "big", "phase": "backoff"})
    assert state.part(1.0) is None
