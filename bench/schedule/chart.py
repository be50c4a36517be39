"""The chart of the schedule benchmark: swaps, waits and fairness of every rule."""

from __future__ import annotations

from typing import Final

from bench.proxy.chart import Panel

_NAMES: Final = ("alternating", "titles", "mixed")


def panels(gpus: tuple[int, ...]) -> tuple[Panel, ...]:
    """Return a row of panels for each number of GPUs."""
    return tuple(
        Panel(f"{title}, {count} GPU{'s' * (count > 1)}", figure, _workloads(count))
        for count in gpus
        for figure, title in (
            ("swaps", "swaps"),
            ("wait_p99_s", "p99 wait, s"),
            ("jain", "Jain's index"),
        )
    )


def workload_key(name: str, gpus: int) -> str:
    """Return the name of a workload on a number of GPUs."""
    return f"{name}, {gpus}"


def _workloads(gpus: int) -> tuple[str, ...]:
    return tuple(workload_key(name, gpus) for name in _NAMES)
