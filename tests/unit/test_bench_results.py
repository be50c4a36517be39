"""The statistics and the goals of the proxy benchmark."""

from __future__ import annotations

import pytest

from bench.proxy import report
from bench.proxy.goals import DIRECT, GOALS, SUBJECT, Goal, Measure, Verdict, judge
from bench.proxy.workloads import WORKLOADS
from bench.results import Results, Spread, spread_of


def results_of(workload: str, figure: str, **series: list[float | None]) -> Results:
    """Return results with one figure; ``_`` in a contestant's name stands for ``-``."""
    results = Results()
    for name, values in series.items():
        for value in values:
            figures = {} if value is None else {figure: value}
            results.add(workload, name.replace("_", "-"), figures)
    return results


def goal(measure: Measure, limit: float, peer: str = "nginx") -> Goal:
    return Goal("title", "load", "cpu_us", limit, measure=measure, peer=peer)


def test_a_spread_is_the_middle_and_the_range() -> None:
    """One slow round moves the end of the range, not the median."""
    assert spread_of([3.0, 1.0, 100.0]) == Spread(3.0, 1.0, 100.0)


def test_missing_rounds_do_not_count() -> None:
    """A round that failed is left out, and nothing at all is None."""
    assert spread_of([None, 2.0, None]) == Spread(2.0, 2.0, 2.0)
    assert spread_of([None]) is None


def test_ratios_are_paired_within_a_round() -> None:
    """On a machine that gets slower, the ratio of the medians would be wrong."""
    results = results_of("load", "cpu_us", a=[2.0, 40.0, 6.0], b=[1.0, 20.0, 3.0])
    assert results.paired("load", "cpu_us", "a", "b") == Spread(2.0, 2.0, 2.0)


def test_a_failed_round_keeps_the_others_paired() -> None:
    """The second round of one is not compared with the third of the other."""
    results = results_of("load", "cpu_us", a=[2.0, None, 9.0], b=[1.0, 5.0, 3.0])
    assert results.paired("load", "cpu_us", "a", "b") == Spread(2.5, 2.0, 3.0)


def test_there_is_no_ratio_to_nothing() -> None:
    """A peer that used no CPU at all gives no figure, and no division by zero."""
    results = results_of("load", "cpu_us", a=[2.0], b=[0.0])
    assert results.paired("load", "cpu_us", "a", "b") is None


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (Measure.ITSELF, 10.0),
        (Measure.TIMES, 5.0),
        (Measure.MORE, 8.0),
        (Measure.ADDED_TIMES, 9.0),
    ],
)
def test_a_goal_takes_its_value_as_it_says(measure: Measure, expected: float) -> None:
    """Ours is 10, the peer's is 2, and direct is 1."""
    results = results_of("load", "cpu_us", llama_router=[10.0], nginx=[2.0], direct=[1.0])
    value = goal(measure, 1).value(results)
    assert value is not None
    assert value.median == expected


def verdicts(results: Results, monkeypatch: pytest.MonkeyPatch, *goals: Goal) -> list[Verdict]:
    monkeypatch.setattr("bench.proxy.goals.GOALS", goals)
    return [outcome.verdict for outcome in judge(results, ["load"])]


def test_the_limit_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 5 is met by 5, and missed by a bit more."""
    results = results_of("load", "cpu_us", llama_router=[10.0], nginx=[2.0])
    met, missed = goal(Measure.TIMES, 5), goal(Measure.TIMES, 4.99)
    assert verdicts(results, monkeypatch, met, missed) == [Verdict.MET, Verdict.MISSED]


def test_a_goal_without_its_peer_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts neither as met nor as missed."""
    results = results_of("load", "cpu_us", llama_router=[10.0])
    assert verdicts(results, monkeypatch, goal(Measure.TIMES, 5)) == [Verdict.NOT_MEASURED]


@pytest.mark.parametrize("name", [SUBJECT, "nginx", DIRECT])
def test_a_goal_with_errors_is_not_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong response of any contestant compared proves nothing, however good the figure."""
    results = results_of("load", "cpu_us", llama_router=[2.0], nginx=[9.0], direct=[1.0])
    results.rounds["load"][name][0]["errors"] = 3
    monkeypatch.setattr("bench.proxy.goals.GOALS", [goal(Measure.ADDED_TIMES, 5)])
    (outcome,) = judge(results, ["load"])
    assert outcome.verdict is Verdict.NOT_MEASURED
    assert outcome.reason == f"{name} had 3 errors"
    assert f"not measured: {name} had 3 errors" in list(report.goals([outcome]))[-1]


def test_errors_of_other_contestants_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A goal against nginx is measured although llama-swap refused requests."""
    results = results_of("load", "cpu_us", llama_router=[2.0], nginx=[9.0], llama_swap=[1.0])
    results.rounds["load"]["llama-swap"][0]["errors"] = 3
    assert verdicts(results, monkeypatch, goal(Measure.TIMES, 5)) == [Verdict.MET]


def test_a_goal_with_a_failed_round_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round without figures is a failure of the contestant, not a missing figure."""
    results = results_of("load", "cpu_us", llama_router=[2.0, 2.0], nginx=[9.0, None])
    monkeypatch.setattr("bench.proxy.goals.GOALS", [goal(Measure.TIMES, 5)])
    (outcome,) = judge(results, ["load"])
    assert outcome.verdict is Verdict.NOT_MEASURED
    assert outcome.reason == "nginx failed in 1 of 2 rounds"


def test_only_goals_of_what_ran_are_judged() -> None:
    """With --only, the goals of other workloads are not listed."""
    titles = [outcome.goal.workload for outcome in judge(Results(), ["sse-512"])]
    assert titles
    assert set(titles) == {"sse-512"}


def test_goals_are_about_workloads_that_exist() -> None:
    """A renamed workload would leave its goals unmeasured for ever."""
    assert {goal.workload for goal in GOALS} <= {workload.name for workload in WORKLOADS}


def test_the_table_has_median_range_and_paired_ratio() -> None:
    """A figure that is compared has a second line with the ratio."""
    results = results_of("load", "cpu_us", llama_router=[20.0, 30.0, 50.0], nginx=[10.0] * 3)
    lines = list(report.figures(results, {"load": "a load"}, ["llama-router", "nginx"]))
    text = [" ".join(line.split()) for line in lines]
    assert "CPU each, µs 30.0 (20.0..50.0) 10.0" in text
    assert "times nginx, paired 3.00 (2.00..5.00) -" in text


def test_a_disturbed_measurement_is_doubted() -> None:
    """The report names the workload and the share of other programs."""
    results = results_of("load", "others_share", llama_router=[0.4])
    (doubt,) = report.doubts(results)
    assert "load of llama-router (40%)" in doubt
