"""Rates at which models generate tokens, now and last, and the times of their last use.

Backends report tokens at the end of an answer only. Until then, the bytes of a stream tell: each
token of a model's streams takes about as many of them as in the streams before.
"""

from __future__ import annotations

from typing import Final

import attrs

from .activity_log import ActivityLog, tokens_per_s
from .request_log import RequestLog

#: Shortest time between two looks at the bytes of a stream, in seconds.
SAMPLE_S: Final = 0.5

#: Part of an old figure that remains when another stream has ended.
_OLD_PART: Final = 0.7

#: Models of which figures are kept; names of models that are gone make room for new ones.
_MAX_MODELS: Final = 10_000


@attrs.define(eq=False)
class _Figures:
    """What is known of one model.

    Attributes:
        bytes_per_token: Bytes that its streams take for a token.
        last_tokens_per_s: Rate of its last answer.
        used_at: End of its last request, in seconds since 1970.
        tokens_per_s: Rate of all its streams now.
    """

    bytes_per_token: float | None = None
    last_tokens_per_s: float | None = None
    used_at: float | None = None
    tokens_per_s: float | None = None


_NOTHING: Final = _Figures()


class TokenRates:
    """Derives the figures of models from *activity*, whenever it is asked to refresh them."""

    def __init__(self, activity: ActivityLog) -> None:
        self._activity = activity
        self._seen = 0
        self._figures: dict[str, _Figures] = {}
        self._samples: dict[int, tuple[float, int, float]] = {}  # by number of the request
        self._sampled_s = -SAMPLE_S

    def refresh(self, now_s: float) -> None:
        """Take in what happened until the clock time *now_s*, in seconds."""
        if self._seen != self._activity.last:
            for record in self._activity.changed_after(self._seen):
                if record.ended_s is not None and record.model is not None:
                    self._take_end(record, record.model, record.ended_s)
            self._seen = self._activity.last
        if (self._samples or self._activity.live) and now_s - self._sampled_s >= SAMPLE_S:
            self._sampled_s = now_s
            self._sample(now_s)

    def tokens_per_s(self, model: str) -> float | None:
        """Return the rate at which the streams of *model* move now; None if none does.

        Also None while it is not known how many bytes a token takes: before the end of its first
        stream.
        """
        return self._figures.get(model, _NOTHING).tokens_per_s

    def last_tokens_per_s(self, model: str) -> float | None:
        """Return the rate of the last answer of *model*; None if none had one."""
        return self._figures.get(model, _NOTHING).last_tokens_per_s

    def used_at(self, model: str) -> float | None:
        """Return when the last request for *model* ended that it served, in seconds since 1970."""
        return self._figures.get(model, _NOTHING).used_at

    def _take_end(self, record: RequestLog, model: str, ended_s: float) -> None:
        if record.queue_s is None:  # it was not granted: the name may be that of no model
            return
        figures = self._figures.pop(model, None) or _Figures()
        self._figures[model] = figures
        if len(self._figures) > _MAX_MODELS:
            del self._figures[next(iter(self._figures))]
        figures.used_at = round(record.began_at + ended_s - record.began_s, 3)
        if (rate := tokens_per_s(record)) is not None:
            figures.last_tokens_per_s = round(rate, 2)
        tokens = record.usage.completion_tokens
        if record.streamed and tokens and record.sent_bytes:
            found, known = record.sent_bytes / tokens, figures.bytes_per_token
            if known is not None:
                found = _OLD_PART * known + (1 - _OLD_PART) * found
            figures.bytes_per_token = found

    def _sample(self, now_s: float) -> None:
        """Look at the bytes of all streams."""
        samples: dict[int, tuple[float, int, float]] = {}
        rates: dict[str, float] = {}
        for record in self._activity.live:
            lease, model = record.lease, record.model
            if lease is None or lease.backend is None or model is None or not record.streamed:
                continue
            moved_bytes = lease.moved_bytes()
            since_s, before_bytes, _ = self._samples.get(record.number, (lease.granted_s, 0, 0.0))
            took_s = max(now_s - since_s, 1e-3)
            samples[record.number] = now_s, moved_bytes, (moved_bytes - before_bytes) / took_s
            rates[model] = rates.get(model, 0.0) + samples[record.number][2]
        self._samples = samples
        for model, figures in self._figures.items():
            bytes_per_s, known = rates.get(model), figures.bytes_per_token
            rate = bytes_per_s / known if bytes_per_s and known else None
            figures.tokens_per_s = None if rate is None else round(rate, 1)
