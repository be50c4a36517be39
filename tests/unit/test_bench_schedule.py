"""The simulation of the schedule benchmark, the rules of peers, the figures and the goals."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import attrs
import pytest

from bench.schedule import command, decisions
from bench.schedule.command import simulate
from bench.schedule.figures import Figures, covered_s, figures_of, jain_index, quantile
from bench.schedule.goals import SUBJECT, judge
from bench.schedule.peers import (
    PEERS,
    Groups,
    LruByCount,
    LruByMemory,
    StrictFifo,
    groups_that_fit,
    most_that_always_fit,
    place,
)
from bench.schedule.router import Router
from bench.schedule.simulation import (
    Granted,
    RuleError,
    Simulation,
    Started,
    Stopped,
)
from bench.schedule.traces import Client, Machine, Model, Reload, Step, Taken, Trace
from bench.schedule.workloads import WORKLOADS, trace_of

#: A load of 1000 MiB takes 1 s from the disk and 0.5 s from the page cache, an exit 0.25 s.
MACHINE = Machine(
    gpus=(1500,), disk_mib_s=1000, cache_mib_s=2000, cache_mib=9999, begin_s=0.0, stop_s=0.25
)
A = Model(name="a", size_mib=1000)
B = Model(name="b", size_mib=1000)


def client(name: str, *steps: Step, begins_s: float = 0.0, open_loop: bool = False) -> Client:
    return Client(name=name, steps=steps, begins_s=begins_s, open_loop=open_loop)


def trace(
    *clients: Client,
    models: tuple[Model, ...] = (A, B),
    incidents: tuple[Taken | Reload, ...] = (),
) -> Trace:
    return Trace(machine=MACHINE, models=models, clients=clients, incidents=incidents)


def alternating() -> Trace:
    """Return a trace in which two clients want two models that do not fit together."""
    return trace(
        client("one", Step(model="a", service_s=2.0), Step(model="a", service_s=2.0, pause_s=0.5)),
        client("two", Step(model="b", service_s=1.0), begins_s=0.5),
    )


def test_a_small_trace_by_hand() -> None:
    """Loads, exits, the page cache and pauses take as long as the machine says."""
    record = Simulation(alternating(), StrictFifo(alternating())).run()
    # a loads until 1, serves until 3, exits at 3.25; b loads until 4.25, serves until 5.25, exits
    # at 5.5; the next request for a arrived at 3.5, and its load from the cache lasts until 6.
    assert [(each.served_s, each.ended_s) for each in record.requests] == [
        (1.0, 3.0),
        (4.25, 5.25),
        (6.0, 8.0),
    ]
    assert record.loads == ["a", "b", "a"]


def test_the_figures_of_the_small_trace() -> None:
    """Waits are from arrival to service; a swap is a load that is not the first of its model."""
    figures = figures_of(Simulation(alternating(), StrictFifo(alternating())).run())
    assert (figures.swaps, figures.makespan_s, figures.failed) == (1, 8.0, 0)
    assert (figures.wait_p50_s, figures.longest_wait_s) == (2.5, 3.75)
    assert figures.clients["one"].served_share == pytest.approx(4.0 / 7.5)
    assert figures.clients["two"].served_share == pytest.approx(1.0 / 4.75)


def test_equal_traces_give_equal_records() -> None:
    """A workload depends on its seed only, and so does what a rule makes of it."""

    def figures() -> Figures:
        mixed = trace_of(WORKLOADS[2], gpus=1, rounds=3, seed=7)
        return figures_of(Simulation(mixed, Router(mixed)).run())

    assert figures() == figures()


def test_a_backend_serves_as_many_requests_at_once_as_it_has_slots() -> None:
    """The third of three requests waits inside of a backend with two slots."""
    model = Model(name="a", size_mib=1000, slots=2)
    steps = [Step(model="a", service_s=1.0)] * 3
    burst = trace(client("one", *steps, open_loop=True), models=(model,))
    record = Simulation(burst, LruByCount(burst)).run()
    assert [each.served_s for each in record.requests] == [1.0, 1.0, 2.0]


def test_a_request_aside_does_not_hold_up_its_client() -> None:
    """The pause of the next request begins when that of the request aside did."""
    title = Step(model="a", service_s=5.0, pause_s=0.5, aside=True)
    chat = client("one", Step(model="a", service_s=1.0), title, Step(model="a", service_s=1.0))
    one = trace(chat, models=(Model(name="a", size_mib=1000, slots=9),))
    record = Simulation(one, StrictFifo(one)).run()
    assert [each.arrived_s for each in record.requests] == [0.0, 2.5, 2.5]


def test_a_client_that_leaves_frees_its_slot() -> None:
    """Its wait or service ends at that time, and that is no failure."""
    one = trace(
        client("one", Step(model="a", service_s=9.0, leaves_after_s=3.0)),
        client("two", Step(model="a", service_s=1.0), begins_s=0.1),
    )
    record = Simulation(one, StrictFifo(one)).run()
    assert [(each.served_s, each.left, each.failed) for each in record.requests] == [
        (1.0, True, False),
        (3.0, False, False),
    ]


def test_a_process_that_is_stopped_fails_its_requests() -> None:
    """They are counted, and so is the process."""
    one = trace(
        client("one", Step(model="a", service_s=9.0)), incidents=(Reload(at_s=2.0, changed="b"),)
    )
    figures = figures_of(Simulation(one, Groups(one)).run())
    assert (figures.failed, figures.evicted_busy) == (1, 1)


def test_overcommit_is_counted_while_it_lasts() -> None:
    """A rule that does not look at the memory of others loads a model into it."""
    one = trace(
        client("one", Step(model="a", service_s=1.0), begins_s=1.0),
        incidents=(Taken(0.5, 0, 700), Taken(1.75, 0, 0)),
    )
    assert figures_of(Simulation(one, LruByCount(one)).run()).overcommit_s == 0.75


def test_others_take_only_what_is_free() -> None:
    """A program that comes later does not overcommit a GPU by itself."""
    one = trace(client("one", Step(model="a", service_s=3.0)), incidents=(Taken(0.5, 0, 1400),))
    assert figures_of(Simulation(one, LruByCount(one)).run()).overcommit_s == 0.0


def test_what_never_ends_is_counted_as_failed() -> None:
    """At the end of the time, requests that wait or were not sent have failed."""

    class Idle(StrictFifo):
        def _next(self) -> list:
            return []

    one = trace(client("one", Step(model="a", service_s=1.0), Step(model="a", service_s=1.0)))
    assert figures_of(Simulation(one, Idle(one), limit_s=60.0).run()).failed == 2


@pytest.mark.parametrize("order", [Granted(0), Stopped("a"), Started("a", {0: 1000})])
def test_impossible_orders_are_errors(order: object) -> None:
    """A rule cannot grant without a process, stop nothing, or start a second process."""

    class Wrong(StrictFifo):
        def _next(self) -> list:
            return [Started("a", {}), order] if isinstance(order, Started) else [order]

    one = trace(client("one", Step(model="a", service_s=1.0)))
    with pytest.raises(RuleError):
        Simulation(one, Wrong(one)).run()


def test_every_tick_is_delivered() -> None:
    """Ollama's rule stops an idle model after five minutes, by its own timer."""
    one = trace(
        client("one", Step(model="a", service_s=1.0), Step(model="a", service_s=1.0, pause_s=400))
    )
    assert Simulation(one, LruByMemory(one)).run().loads == ["a", "a"]
    assert Simulation(one, LruByCount(one)).run().loads == ["a"]


def test_a_model_that_does_not_fit_one_gpu_is_split() -> None:
    """Each further GPU costs a part more; what does not fit is not placed."""
    model = Model(name="a", size_mib=1000, split_mib=100)
    assert place(model, [1200, 1000]) == {1: 1000}
    assert place(model, [600, 600]) == {0: 550, 1: 550}
    assert place(model, [600, 400]) is None


def test_peers_are_configured_as_large_as_possible() -> None:
    """As many models as fit in any combination, and groups as large as fit."""
    models = tuple(Model(name=n, size_mib=mib) for n, mib in (("a", 900), ("b", 800), ("c", 500)))
    assert most_that_always_fit(MACHINE, models) == 1
    assert groups_that_fit(MACHINE, models) == {"a": 0, "b": 1, "c": 0}


def test_jains_index() -> None:
    """Equal shares give 1; one of four clients that gets all gives a quarter."""
    assert jain_index([0.5, 0.5]) == 1.0
    assert jain_index([1.0, 0.0, 0.0, 0.0]) == 0.25


def test_overlapping_spans_count_once() -> None:
    """A client with many requests at once is not served for longer than the time that passes."""
    assert covered_s([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0), (5.5, 5.75)]) == 4.0


def test_quantiles_are_values_that_were_measured() -> None:
    """The 99th percentile of few values is the largest one."""
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.99) == 4.0


def figures(**values: Any) -> Figures:
    nothing = Figures(
        swaps=0,
        makespan_s=0.0,
        wait_p50_s=0.0,
        wait_p99_s=0.0,
        longest_wait_s=0.0,
        jain=1.0,
        failed=0,
        overcommit_s=0.0,
        evicted_busy=0,
        crashes=0,
        clients={},
    )
    return attrs.evolve(nothing, **values)


def test_the_best_peer_is_the_one_with_the_fewest_swaps() -> None:
    """Half of its swaps is enough, if its p99 wait is not exceeded."""
    runs = {
        "many": [figures(swaps=9, wait_p99_s=1.0)],
        "few": [figures(swaps=8, wait_p99_s=5.0)],
        SUBJECT: [figures(swaps=4, wait_p99_s=5.0)],
    }
    assert all(each.met for each in judge(runs, has_goal=True))
    runs[SUBJECT] = [figures(swaps=5, wait_p99_s=5.1)]
    assert [each.met for each in judge(runs, has_goal=True)][-2:] == [False, False]


def test_each_zero_is_a_goal_of_every_workload() -> None:
    """One failed request in one of many runs misses the goal."""
    runs = {SUBJECT: [figures(), figures(failed=1)]}
    assert [each.met for each in judge(runs, has_goal=False)] == [False, True, True]


@pytest.mark.parametrize("gpus", [1, 3])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: each.name)
def test_every_workload_with_every_rule(workload, gpus: int) -> None:
    """With llama-router no request fails, no GPU is overcommitted, no busy model is stopped."""
    runs = simulate(workload, gpus=gpus, rounds=4, seeds=[1])
    assert set(runs) == {SUBJECT, *(peer.name for peer in PEERS)}
    (own,) = runs[SUBJECT]
    assert (own.failed, own.overcommit_s, own.evicted_busy) == (0, 0.0, 0)
    assert all(math.isfinite(each.makespan_s) for some in runs.values() for each in some)


def test_decisions_are_measured_while_requests_wait() -> None:
    """The number that wait is kept up, and nothing is refused."""
    measured = decisions.measure(models=30, waiting=50, steps=20, clock=iter(range(999)).__next__)
    assert measured.count > 40
    assert measured.waiting >= 45
    assert measured.longest_ms == 1000.0


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_the_report_has_every_rule_and_every_goal(tmp_path: Path, capsys) -> None:
    """A row for each rule, the waits of each client, and the same figures as JSON."""
    path = tmp_path / "figures.json"
    words = ("--quick", "--only", "burst", "--gpus", "1", "--clients", "--json", str(path))
    assert command.run(options(*words)) == 0
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in (SUBJECT, *(peer.name for peer in PEERS)))
    assert "indexer" in shown
    assert "3 goals met, 0 missed" in shown
    document = json.loads(path.read_text())
    assert document["runs"]["burst, 1"][SUBJECT][0]["failed"] == 0
    assert [each["met"] for each in document["goals"]["burst, 1"]] == [True, True, True]


def test_a_chart_of_the_workloads_with_goals(tmp_path: Path) -> None:
    """It is a PNG with the panels of the GPUs that were simulated."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "chart.png"
    words = ("--quick", "--only", "titles", "--gpus", "1", "--chart", str(path))
    command.run(options(*words, "--json", str(tmp_path / "figures.json")))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_an_unknown_workload_is_refused(capsys) -> None:
    """The error names those that there are."""
    assert command.run(options("--only", "nothing")) == 2
    assert "there are alternating" in capsys.readouterr().err
