"""Figures of measured requests: medians, rates, and the table and JSON of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, Final

import attrs

from ..tables import Cell, Column

COLUMNS: Final = (
    Column(heading="PROMPT", right=True),
    Column(heading="CLIENTS", right=True),
    Column(heading="FIRST TOKEN", rank=1, right=True),
    Column(heading="SLOWEST", rank=5, right=True),
    Column(heading="PROMPT/S", rank=3, right=True),
    Column(heading="TOKENS/S", rank=0, right=True),
    Column(heading="TOGETHER", rank=2, right=True),
    Column(heading="ANSWERS", rank=6, right=True),
    Column(heading="FAILED", rank=4, right=True, is_optional=True),
)


@attrs.frozen(kw_only=True)
class Sample:
    """A request and its answer; times are those of one clock, in seconds.

    Attributes:
        sent_s: When it was sent.
        first_s: When the first piece of text came.
        last_s: When the last piece of text came.
        prompt_tokens: Tokens of the prompt; None if the backend did not say.
        tokens: Tokens of the answer; its pieces, if the backend did not say.
    """

    sent_s: float
    first_s: float
    last_s: float
    prompt_tokens: int | None
    tokens: int


@attrs.define(eq=False, kw_only=True)
class Level:
    """Requests with prompts of one size, by a number of clients at once.

    Attributes:
        prompt: Tokens that the prompts should have.
        clients: How many clients ask at once, each one request after the other.
        samples: The answers so far.
        failures: Why requests failed.
    """

    prompt: int
    clients: int
    samples: list[Sample] = attrs.field(factory=list)
    failures: list[str] = attrs.field(factory=list)

    @property
    def prompt_tokens(self) -> int | None:
        """The tokens that the prompts have: their median."""
        return _rounded(sample.prompt_tokens for sample in self.samples)

    @property
    def first_s(self) -> float | None:
        """The time until the first piece of text: the median."""
        return _median(sample.first_s - sample.sent_s for sample in self.samples)

    @property
    def slowest_s(self) -> float | None:
        """The longest time until the first piece of text."""
        return max((sample.first_s - sample.sent_s for sample in self.samples), default=None)

    @property
    def prompt_rate(self) -> float | None:
        """Tokens of a prompt by the time until the first piece of text: the median."""
        return _median(
            sample.prompt_tokens / (sample.first_s - sample.sent_s)
            for sample in self.samples
            if sample.prompt_tokens is not None and sample.first_s > sample.sent_s
        )

    @property
    def rate(self) -> float | None:
        """Tokens per second of one answer, after its first one: the median."""
        return _median(
            (sample.tokens - 1) / (sample.last_s - sample.first_s)
            for sample in self.samples
            if sample.tokens > 1 and sample.last_s > sample.first_s
        )

    @property
    def together(self) -> float | None:
        """Tokens per second of all answers together, from the first request to the last token."""
        if not self.samples:
            return None
        begin_s = min(sample.sent_s for sample in self.samples)
        took_s = max(sample.last_s for sample in self.samples) - begin_s
        return sum(sample.tokens for sample in self.samples) / took_s if took_s > 0 else None

    def row(self) -> list[Cell]:
        """Return its cells, in the order of `COLUMNS`."""
        prompt = self.prompt_tokens
        return [
            Cell(str(self.prompt if prompt is None else prompt)),
            Cell(str(self.clients)),
            Cell(_time(self.first_s)),
            Cell(_time(self.slowest_s), ("dim",)),
            Cell(_rate(self.prompt_rate)),
            Cell(_rate(self.rate), ("bold",)),
            Cell(_rate(self.together)),
            Cell(str(len(self.samples)), ("dim",)),
            Cell(str(len(self.failures)) if self.failures else "", ("red",)),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return its figures for ``--json``."""
        return {
            "prompt": self.prompt,
            "prompt_tokens": self.prompt_tokens,
            "clients": self.clients,
            "answers": len(self.samples),
            "tokens": sum(sample.tokens for sample in self.samples),
            "ttft_s": _places(self.first_s, 4),
            "ttft_max_s": _places(self.slowest_s, 4),
            "prompt_tokens_per_s": _places(self.prompt_rate, 2),
            "tokens_per_s": _places(self.rate, 2),
            "all_tokens_per_s": _places(self.together, 2),
            "failed": len(self.failures),
            "failures": list(dict.fromkeys(self.failures)),
        }


def remarks(levels: Sequence[Level]) -> list[str]:
    """Return why requests failed, each reason once."""
    found: dict[str, list[Level]] = {}
    for level in levels:
        for failure in dict.fromkeys(level.failures):
            found.setdefault(failure, []).append(level)
    return [f"{' and '.join(map(_name, where))}: {why}" for why, where in found.items()]


def _name(level: Level) -> str:
    return f"{level.prompt} tokens by {level.clients}"


def explanation(*, seconds: float, tokens: int) -> list[str]:
    """Return what the figures mean, one sentence each."""
    return [
        f"CLIENTS ask at the same time for {seconds:g} s, with a new prompt each time.",
        f"Each answer ends after {tokens} tokens, if the backend can be told so.",
        "FIRST TOKEN is the median time until text comes, with every wait; SLOWEST the longest.",
        "PROMPT/S: tokens of the prompt, divided by the time until text comes.",
        "TOKENS/S: the rate of one answer, after its first token (the median).",
        "TOGETHER: tokens of all answers, divided by the whole time.",
    ]


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None


def _rounded(values: Iterable[int | None]) -> int | None:
    middle = _median(value for value in values if value is not None)
    return None if middle is None else round(middle)


def _places(value: float | None, places: int) -> float | None:
    return None if value is None else round(value, places)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"
