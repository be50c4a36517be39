"""The figures and the goal of the swap benchmark."""

from __future__ import annotations

from bench.results import Results
from bench.swap import report
from bench.swap.contestants import llama_swap_yaml


def swaps(**seconds: list[float]) -> Results:
    """Return the results of one workload; ``_`` in a name stands for ``-``."""
    results = Results()
    for name, values in seconds.items():
        for value in values:
            results.add("embedded, tiny", name.replace("_", "-"), {"swap_s": value})
    return results


def test_the_goal_is_about_paired_differences() -> None:
    """By hand the median is 0.3 s, and so it is here; but each swap took 0.1 s longer."""
    results = swaps(by_hand=[0.2, 0.3, 0.4], llama_router=[0.3, 0.4, 0.5])
    (outcome,) = report.judge(results)
    assert outcome.more_s is not None
    assert round(outcome.more_s.median, 6) == 0.1
    assert outcome.met is False


def test_a_swap_within_the_goal_meets_it() -> None:
    """15 ms more than by hand are allowed, and one slow swap does not matter."""
    results = swaps(by_hand=[0.2, 0.2, 0.2], llama_router=[0.21, 0.214, 0.9])
    (outcome,) = report.judge(results)
    assert outcome.met is True


def test_without_the_swap_by_hand_nothing_is_claimed() -> None:
    """The goal is not measured, and the report says so."""
    results = swaps(llama_router=[0.2])
    assert report.judge(results)[0].met is None
    assert any("not measured" in line for line in report.lines(results, {}, []))


def test_a_failed_swap_leaves_the_goal_unmeasured() -> None:
    """The report names the contestant that failed, and claims nothing."""
    results = swaps(by_hand=[0.2, 0.2], llama_router=[0.2])
    results.add("embedded, tiny", "llama-router", {})
    (outcome,) = report.judge(results)
    assert outcome.met is None
    lines = list(report.lines(results, {}, []))
    assert any(
        line.endswith("not measured: llama-router failed in 1 of 2 rounds") for line in lines
    )


def test_llama_swap_is_told_where_its_ports_begin() -> None:
    """Each command takes its port from there, and no model is limited to ten requests."""
    commands = {"a": ("server", "--port", "54321"), "b": ("server", "54321")}
    assert llama_swap_yaml(commands, first_port=4000) == [
        "healthCheckTimeout: 120",
        "startPort: 4000",
        "models:",
        "  a:",
        "    cmd: server --port ${PORT}",
        "    proxy: http://127.0.0.1:${PORT}",
        "    concurrencyLimit: 100000",
        "  b:",
        "    cmd: server ${PORT}",
        "    proxy: http://127.0.0.1:${PORT}",
        "    concurrencyLimit: 100000",
    ]


def test_the_report_has_what_is_missing_and_what_went_wrong() -> None:
    """Nothing is left out silently."""
    lines = list(report.lines(Results(), {"llama-swap": "not set"}, ["round 1: no answer"]))
    assert "not run: llama-swap: not set" in lines
    assert "problem: round 1: no answer" in lines
