"""The line that ``systemctl status`` shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_router.core.config.reload import ReloadOutcome, ReloadReport
from llama_router.core.scheduling.lifecycle import Phase
from llama_router.errors.config import Problem
from llama_router.systemd.status_line import MAX_CHARACTERS, status_line


def test_running_models_are_named_first() -> None:
    """What runs, what loads, what failed; models that do nothing are only counted."""
    phases = {
        "a": Phase.STOPPED,
        "b": Phase.STARTING,
        "c": Phase.READY,
        "d": Phase.FAILED,
        "e": Phase.READY,
    }
    assert status_line(phases) == "5 models; running: c, e; loading: b; failed: d"


def test_nothing_running_is_said() -> None:
    """An idle router is not an empty line."""
    assert status_line({"a": Phase.STOPPED}) == "1 model; no model is running"
    assert status_line({}) == "0 models; no model is running"


@given(st.dictionaries(st.text(), st.sampled_from(Phase), max_size=80))
def test_it_is_one_short_line_whatever_models_are_called(phases: dict[str, Phase]) -> None:
    """A name cannot smuggle another field into the message, nor make it too long."""
    line = status_line(phases)
    assert len(line) <= MAX_CHARACTERS
    assert len(line.splitlines()) == 1
    assert "\n" not in line


def rejected(*lines: int | None) -> ReloadReport:
    problems = tuple(Problem(("router",), "is wrong", line) for line in lines)
    return ReloadReport(outcome=ReloadOutcome.REJECTED, at_s=0.0, problems=problems)


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (rejected(16), "configuration rejected (line 16)"),
        (rejected(20, 16, 16), "configuration rejected (lines 16, 20)"),
        (rejected(*range(1, 9)), "configuration rejected (lines 1, 2, 3, 4, 5, …)"),
        (rejected(None), "configuration rejected"),
        (
            ReloadReport(
                outcome=ReloadOutcome.APPLIED, at_s=0.0, needs_router_restart=("base_port",)
            ),
            "needs a restart of the router: base_port",
        ),
    ],
)
def test_a_file_that_is_not_in_force_comes_first(report: ReloadReport, words: str) -> None:
    """The lines with mistakes, or the settings that wait for a restart, stand before the models."""
    assert status_line({}, report) == f"{words}; 0 models; no model is running"
    many = {f"model-{number}" * 9: Phase.READY for number in range(90)}
    assert status_line(many, report).startswith(f"{words}; 90 models")


def test_an_applied_file_is_not_mentioned() -> None:
    """A configuration that is in force needs no words."""
    report = ReloadReport(outcome=ReloadOutcome.APPLIED, at_s=0.0)
    assert status_line({}, report) == status_line({})
