"""Figures of loads and stops, by model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ...dispatch.load_log import LoadRecord
from .exposition import Family, Histogram, labels, samples
from .request_figures import MAX_MODELS, OTHER

LOADS: Final = Family(
    "llama_router_loads_total", "counter", "Starts of backends, by cause: request, home and so on."
)
STOPS: Final = Family(
    "llama_router_stops_total",
    "counter",
    "Backends that the router stopped, by cause: swap is an eviction, for another model.",
)
RESTARTS: Final = Family(
    "llama_router_restarts_total", "counter", "Starts of backends whose process before had failed."
)
THRASHING: Final = Family(
    "llama_router_thrashing_loads_total",
    "counter",
    "Starts within a minute after the model had made way for another one.",
)
FAILURES: Final = Family(
    "llama_router_backend_failures_total",
    "counter",
    "Backends that failed, at their start or later, by cause.",
)
LOAD_S: Final = Family(
    "llama_router_load_duration_seconds",
    "histogram",
    "Time from the start of a backend until it was ready.",
)
SWAP_S: Final = Family(
    "llama_router_swap_duration_seconds",
    "histogram",
    "Time from the moment when the first model began to leave for a model until that was ready.",
)
STOP_S: Final = Family(
    "llama_router_stop_duration_seconds",
    "histogram",
    "Time from the order to stop until a backend and its processes were gone.",
)

_LOAD_BOUNDS: Final = (0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_STOP_BOUNDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class LoadFigures:
    """The figures of all loads since the router's start."""

    def __init__(self) -> None:
        self._loads: Counter[tuple[str, str]] = Counter()
        self._stops: Counter[tuple[str, str]] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()
        self._restarts: Counter[str] = Counter()
        self._thrashing: Counter[str] = Counter()
        self._load_s = _histograms(_LOAD_BOUNDS)
        self._swap_s = _histograms(_LOAD_BOUNDS)
        self._stop_s = _histograms(_STOP_BOUNDS)
        self._models: set[str] = set()

    def note(self, record: LoadRecord) -> None:
        """Count what is new of *record*: it has begun, is ready, or has ended."""
        model = self._label(str(record.model))
        if record.ended_s is not None:
            self._note_end(model, record, record.ended_s)
        elif record.ready_s is not None:
            self._load_s[model].observe(record.ready_s - record.began_s)
            if record.swap_s is not None:
                self._swap_s[model].observe(record.ready_s - record.swap_s)
        else:
            self._loads[model, record.cause.value] += 1
            self._restarts[model] += record.after_failure
            self._thrashing[model] += record.thrashing

    def _note_end(self, model: str, record: LoadRecord, ended_s: float) -> None:
        if record.stop_cause is not None:
            self._stops[model, record.stop_cause.value] += 1
        if record.failure is not None:
            self._failures[model, record.failure] += 1
        if record.stopping_s is not None:
            self._stop_s[model].observe(ended_s - record.stopping_s)

    def _label(self, model: str) -> str:
        """Return *model*, which is configured; `OTHER` behind the limit."""
        if model not in self._models:
            if len(self._models) >= MAX_MODELS:
                return OTHER
            self._models.add(model)
        return model

    def parts(self) -> list[Callable[[], str]]:
        """Return functions that make one family each."""
        return [
            partial(_pairs, LOADS, self._loads, "cause"),
            partial(_pairs, STOPS, self._stops, "cause"),
            partial(_pairs, FAILURES, self._failures, "cause"),
            partial(_singles, RESTARTS, self._restarts),
            partial(_singles, THRASHING, self._thrashing),
            partial(_distributions, LOAD_S, self._load_s),
            partial(_distributions, SWAP_S, self._swap_s),
            partial(_distributions, STOP_S, self._stop_s),
        ]


def _histograms(bounds: Sequence[float]) -> defaultdict[str, Histogram]:
    return defaultdict(lambda: Histogram(bounds))


def _pairs(family: Family, counts: Counter[tuple[str, str]], second: str) -> str:
    return samples(
        family,
        [
            (labels(model=model, **{second: value}), count)
            for (model, value), count in counts.items()
        ],
    )


def _singles(family: Family, counts: Counter[str]) -> str:
    return samples(family, [(labels(model=model), count) for model, count in counts.items()])


def _distributions(family: Family, of_models: dict[str, Histogram]) -> str:
    lines = [found.lines(family.name, labels(model=model)) for model, found in of_models.items()]
    return family.head + "".join(lines)
