"""The figures of one simulation. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import attrs

from .simulation import Record, Request


@attrs.frozen(kw_only=True)
class Waits:
    """Waits of one client, in seconds: from arrival until served, or until it ended without.

    Attributes:
        p50_s: The median.
        p99_s: The 99th percentile.
        longest_s: The longest.
        served_share: Of the time in which the client had a request, the share in which one of
            its requests was being served.
    """

    p50_s: float
    p99_s: float
    longest_s: float
    served_share: float


@attrs.frozen(kw_only=True)
class Figures:
    """What one rule made of one trace.

    Attributes:
        swaps: Loads, less the first one of each model.
        makespan_s: Time at which the last request ended, in seconds.
        wait_p50_s: Median of all waits, in seconds.
        wait_p99_s: Their 99th percentile.
        longest_wait_s: The longest of them.
        jain: Jain's index of the clients' served shares.
        failed: Requests that failed although they could have been served.
        overcommit_s: Seconds in which a GPU was overcommitted.
        evicted_busy: Processes that were stopped while they had requests.
        crashes: Processes that ended by themselves.
        clients: The waits of each client.
    """

    swaps: int
    makespan_s: float
    wait_p50_s: float
    wait_p99_s: float
    longest_wait_s: float
    jain: float
    failed: int
    overcommit_s: float
    evicted_busy: int
    crashes: int
    clients: dict[str, Waits]


def figures_of(record: Record) -> Figures:
    """Return the figures of a simulation."""
    fair = [request for request in record.requests if not request.client.may_fail]
    by_client: dict[str, list[Request]] = {}
    for request in fair:
        by_client.setdefault(request.client.name, []).append(request)
    clients = {name: _waits(requests, record.end_s) for name, requests in by_client.items()}
    waits_s = sorted(_wait_s(request, record.end_s) for request in fair)
    return Figures(
        swaps=len(record.loads) - len(set(record.loads)),
        makespan_s=record.end_s,
        wait_p50_s=quantile(waits_s, 0.5),
        wait_p99_s=quantile(waits_s, 0.99),
        longest_wait_s=waits_s[-1],
        jain=jain_index([waits.served_share for waits in clients.values()]),
        failed=sum(request.failed for request in fair) + record.unsent,
        overcommit_s=record.overcommit_s,
        evicted_busy=record.evicted_busy,
        crashes=record.crashes,
        clients=clients,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of the ordered values that *share* of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def jain_index(values: Sequence[float]) -> float:
    """Return Jain's index: 1 if all values are equal, 1/n if all but one are 0."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def covered_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return how much time is in at least one of the spans."""
    total_s, until_s = 0.0, -math.inf
    for begin_s, end_s in sorted(spans):
        total_s += max(0.0, end_s - max(begin_s, until_s))
        until_s = max(until_s, end_s)
    return total_s


def _waits(requests: Sequence[Request], end_s: float) -> Waits:
    waits_s = sorted(_wait_s(request, end_s) for request in requests)
    there_s = covered_s((each.arrived_s, _ended_s(each, end_s)) for each in requests)
    served_s = covered_s(
        (each.served_s, _ended_s(each, end_s)) for each in requests if each.served_s is not None
    )
    return Waits(
        p50_s=quantile(waits_s, 0.5),
        p99_s=quantile(waits_s, 0.99),
        longest_s=waits_s[-1],
        served_share=served_s / there_s if there_s else 1.0,
    )


def _wait_s(request: Request, end_s: float) -> float:
    until_s = _ended_s(request, end_s) if request.served_s is None else request.served_s
    return until_s - request.arrived_s


def _ended_s(request: Request, end_s: float) -> float:
    return end_s if request.ended_s is None else request.ended_s
