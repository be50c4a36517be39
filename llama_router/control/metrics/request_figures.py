"""Figures of ended requests, by model.

Requests are counted in batches, when somebody reads, or when the activity log has so many that
the first of them would be lost: a request itself pays nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ...dispatch.activity_log import tokens_per_s
from ...dispatch.request_log import Outcome, RequestLog
from .exposition import Family, Histogram, labels

REQUESTS: Final = Family(
    "llama_router_requests_total",
    "counter",
    "Requests that ended, by outcome and by the name of their API key.",
)
ERRORS: Final = Family(
    "llama_router_request_errors_total",
    "counter",
    "Requests that were refused or cut, by the code of the error.",
)
PROMPT_TOKENS: Final = Family(
    "llama_router_prompt_tokens_total", "counter", "Tokens of prompts, as backends report them."
)
COMPLETION_TOKENS: Final = Family(
    "llama_router_completion_tokens_total", "counter", "Tokens of answers, as backends report them."
)
BYTES: Final = Family(
    "llama_router_response_bytes_total", "counter", "Bytes of the bodies of responses."
)
QUEUE: Final = Family(
    "llama_router_request_queue_seconds",
    "histogram",
    "Wait of requests for other models, or for requests in front of them.",
)
LOAD_WAIT: Final = Family(
    "llama_router_request_load_seconds",
    "histogram",
    "Wait of requests while their model was loading; those that found it loaded are left out.",
)
TTFT: Final = Family(
    "llama_router_time_to_first_token_seconds",
    "histogram",
    "Time from the arrival of a stream's request to the first byte of the backend.",
)
PER_TOKEN: Final = Family(
    "llama_router_time_per_output_token_seconds",
    "histogram",
    "Time per token of an answer; that of a stream counts from its first token.",
)
DURATION: Final = Family(
    "llama_router_request_duration_seconds",
    "histogram",
    "Time from the arrival of a request to its end.",
)

#: In the order of the page, and of `ModelFigures.texts`.
FAMILIES: Final = (
    *(REQUESTS, ERRORS, PROMPT_TOKENS, COMPLETION_TOKENS, BYTES),
    *(QUEUE, LOAD_WAIT, TTFT, PER_TOKEN, DURATION),
)

_WAIT_BOUNDS: Final = (0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_LOAD_BOUNDS: Final = (0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)
_TTFT_BOUNDS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PER_TOKEN_BOUNDS: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1)
_DURATION_BOUNDS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

#: Models with figures of their own; those that come later are counted together.
MAX_MODELS: Final = 1000

#: Combinations of outcome and key, and codes of errors, per model.
MAX_LABELS: Final = 100

#: The label of what is counted together for a limit.
OTHER: Final = "other"

#: The label of requests that named no model that there is.
UNKNOWN: Final = "unknown"


class ModelFigures:
    """The figures of one model, and the text of each family; see `texts`."""

    __slots__ = (
        "_completion_tokens",
        "_duration",
        "_errors",
        "_load",
        "_model",
        "_per_token",
        "_prompt_tokens",
        "_queue",
        "_requests",
        "_sent_bytes",
        "_texts",
        "_ttft",
    )

    def __init__(self, model: str) -> None:
        self._model = labels(model=model)
        self._requests: Counter[tuple[str, str]] = Counter()
        self._errors: Counter[str] = Counter()
        self._prompt_tokens = self._completion_tokens = self._sent_bytes = 0
        self._queue = Histogram(_WAIT_BOUNDS)
        self._load = Histogram(_LOAD_BOUNDS)
        self._ttft = Histogram(_TTFT_BOUNDS)
        self._per_token = Histogram(_PER_TOKEN_BOUNDS)
        self._duration = Histogram(_DURATION_BOUNDS)
        self._texts: tuple[str, ...] | None = None

    def add(self, record: RequestLog) -> None:
        """Count one request."""
        self._texts = None
        outcome, key = record.outcome.value, record.key or ""
        if (outcome, key) not in self._requests and len(self._requests) >= MAX_LABELS:
            key = OTHER
        self._requests[outcome, key] += 1
        if record.code is not None:
            known = record.code in self._errors or len(self._errors) < MAX_LABELS
            self._errors[record.code if known else OTHER] += 1
        usage = record.usage
        self._prompt_tokens += usage.prompt_tokens or 0
        self._completion_tokens += usage.completion_tokens or 0
        self._sent_bytes += record.sent_bytes
        if record.queue_s is not None:
            self._queue.observe(record.queue_s)
        if record.load_s:
            self._load.observe(record.load_s)
        if record.ttft_s is not None and record.streamed:
            self._ttft.observe(record.ttft_s)
        if record.outcome is not Outcome.REFUSED and record.ended_s is not None:
            self._duration.observe(record.ended_s - record.began_s)
            if (rate := tokens_per_s(record)) is not None:
                self._per_token.observe(1 / rate)

    def texts(self) -> tuple[str, ...]:
        """Return the samples of each of `FAMILIES`; made anew only after a request."""
        if self._texts is None:
            self._texts = self._rendered()
        return self._texts

    def _rendered(self) -> tuple[str, ...]:
        model = self._model
        requests = [
            f"{REQUESTS.name}{{{model},{labels(outcome=outcome, key=key)}}} {count}\n"
            for (outcome, key), count in self._requests.items()
        ]
        errors = [
            f"{ERRORS.name}{{{model},{labels(code=code)}}} {count}\n"
            for code, count in self._errors.items()
        ]
        return (
            "".join(requests),
            "".join(errors),
            f"{PROMPT_TOKENS.name}{{{model}}} {self._prompt_tokens}\n",
            f"{COMPLETION_TOKENS.name}{{{model}}} {self._completion_tokens}\n",
            f"{BYTES.name}{{{model}}} {self._sent_bytes}\n",
            self._queue.lines(QUEUE.name, model),
            self._load.lines(LOAD_WAIT.name, model),
            self._ttft.lines(TTFT.name, model),
            self._per_token.lines(PER_TOKEN.name, model),
            self._duration.lines(DURATION.name, model),
        )


class RequestFigures:
    """The figures of all requests.

    Args:
        is_known: Returns whether there is a model of that name: any other name was made up by a
            client, and there may be any number of those.
    """

    def __init__(self, is_known: Callable[[str], bool]) -> None:
        self._is_known = is_known
        self._models: dict[str, ModelFigures] = {}

    def add(self, records: Iterable[RequestLog]) -> None:
        """Count requests that have ended."""
        models = self._models
        for record in records:
            name = record.model
            figures = models.get(name) if name else None
            if figures is None:
                figures = self._figures_of(name or UNKNOWN)
            figures.add(record)

    def _figures_of(self, model: str) -> ModelFigures:
        if not self._is_known(model):
            model = UNKNOWN
        elif len(self._models) >= MAX_MODELS:
            model = OTHER
        return self._models.setdefault(model, ModelFigures(model))

    def models(self) -> Iterator[ModelFigures]:
        """Yield the figures of each model."""
        yield from list(self._models.values())
