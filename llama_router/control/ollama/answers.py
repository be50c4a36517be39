"""Ollama's answers, made of a backend's: whole, or line by line as it streams. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs
import msgspec

from ...core.apis.errors import message_in
from ...core.apis.ollama import timestamp
from ...core.apis.usage import Usage
from ...errors.backends import UpstreamError
from .backend_answers import (
    BackendAnswer,
    Choice,
    EventParser,
    Text,
    Timings,
    TokenCounts,
    ToolCallDelta,
    decode_answer,
    decode_embeddings,
)
from .requests import AnswerFormat, TranslatedRequest

_NS: Final = 1_000_000_000


@attrs.frozen(kw_only=True)
class RequestTimes:
    """Clock times of one request, in seconds.

    Attributes:
        arrived_s: Its arrival.
        load_s: How long its model was loading while it waited.
        granted_s: The moment at which a backend was granted.
        epoch_s: Seconds to add to a clock time to get the seconds since the epoch.
    """

    arrived_s: float
    load_s: float
    granted_s: float
    epoch_s: float

    def stamp(self, now_s: float) -> str:
        """Return *now_s* in the form of Ollama's ``created_at``."""
        return timestamp(self.epoch_s + now_s)


def json_line(fields: dict[str, Any]) -> bytes:
    """Return one line of a stream."""
    return msgspec.json.encode(fields) + b"\n"


def empty_answer(
    request: TranslatedRequest, *, now_s: float, times: RequestTimes
) -> dict[str, Any]:
    """Return the answer to a request that only loads or unloads a model."""
    if request.answer_format is AnswerFormat.EMBEDDING:
        return {"embedding": []}
    if request.answer_format is AnswerFormat.EMBED:
        return {"model": request.model, "embeddings": []}
    reason = "unload" if request.unloads else "load"
    return _piece(request, times.stamp(now_s)) | {"done": True, "done_reason": reason}


def translate_answer(
    request: TranslatedRequest, data: bytes, *, now_s: float, times: RequestTimes
) -> dict[str, Any]:
    """Return a backend's whole answer as Ollama's.

    Raises:
        UpstreamError: if *data* is no answer to such a request.
    """
    if request.answer_format in (AnswerFormat.EMBED, AnswerFormat.EMBEDDING):
        return _embeddings(request, data, now_s=now_s, times=times)
    answer = decode_answer(data, request)
    if not answer.choices:
        raise UpstreamError("the backend's answer has no choices")
    collected = _Collected(request)
    delta = collected.add(answer.choices[0])
    piece = _piece(request, times.stamp(now_s), delta, collected.tool_calls())
    return piece | _figures(collected.finish_reason, answer, now_s=now_s, first_s=None, times=times)


class StreamTranslator:
    """Translates a backend's event stream into Ollama's lines as it arrives.

    Attributes:
        usage: Tokens, as far as the backend has reported them.
        done: Whether the stream is complete, or failed.
        error: Why it ended early; None if it did not.
    """

    def __init__(self, request: TranslatedRequest, times: RequestTimes) -> None:
        self._request = request
        self._times = times
        self._events = EventParser()
        self._collected = _Collected(request)
        self._latest = BackendAnswer()  # usage and timings, which come in any event
        self._first_s: float | None = None
        self.done = False
        self.error: UpstreamError | None = None

    @property
    def usage(self) -> Usage:
        """Return the tokens so far."""
        usage = self._latest.usage or TokenCounts()
        return Usage(usage.prompt_tokens, usage.completion_tokens)

    def feed(self, data: bytes, *, now_s: float) -> bytes:
        """Return the lines that *data* completes, perhaps none; without data the stream ends.

        An error that the backend reports, or an event that cannot be parsed, sets `error`; the
        lines before it are returned.
        """
        lines: list[bytes] = []
        try:
            for event in self._events.feed(data):
                if event.strip() == b"[DONE]":
                    self.done = True
                    break
                lines += self._lines(decode_answer(event, self._request), now_s)
            if self.done or not data:
                lines.append(self._last_lines(now_s))
        except UpstreamError as exc:
            self.done, self.error = True, exc
        return b"".join(lines)

    def _lines(self, answer: BackendAnswer, now_s: float) -> Iterable[bytes]:
        if answer.error is not None:
            message = message_in(answer.error)
            raise UpstreamError(message or "the backend reported an error without a message")
        self._latest.usage = answer.usage or self._latest.usage
        self._latest.timings = answer.timings or self._latest.timings
        for choice in answer.choices[:1]:
            if delta := self._collected.add(choice):
                if self._first_s is None:
                    self._first_s = now_s
                yield json_line(_piece(self._request, self._times.stamp(now_s), delta))

    def _last_lines(self, now_s: float) -> bytes:
        reason = self._collected.finish_reason
        if not self.done and reason is None:
            raise UpstreamError("the backend's stream ended in the middle of its answer")
        self.done = True
        stamp = self._times.stamp(now_s)
        lines = b""
        if tool_calls := self._collected.tool_calls():
            lines = json_line(_piece(self._request, stamp, tool_calls=tool_calls))
        figures = _figures(
            reason, self._latest, now_s=now_s, first_s=self._first_s, times=self._times
        )
        return lines + json_line(_piece(self._request, stamp) | figures)


@attrs.frozen
class _Delta:
    """The part of an answer that can be sent at once."""

    content: str = ""
    thinking: str = ""
    logprobs: list[dict[str, Any]] | None = None

    def __bool__(self) -> bool:
        return bool(self.content or self.thinking)


@attrs.define(eq=False)
class _PartialCall:
    """A tool call, as far as it has arrived."""

    id: str | None = None
    name: str = ""
    arguments: str = ""

    def add(self, delta: ToolCallDelta) -> None:
        self.id = delta.id or self.id
        if delta.function is not None:
            self.name += delta.function.name or ""
            self.arguments += delta.function.arguments or ""

    def parsed_arguments(self) -> dict[str, Any]:
        try:
            return msgspec.json.decode(self.arguments or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as exc:
            raise UpstreamError(
                f"the model called the tool {self.name!r} with arguments that are not a JSON object"
            ) from exc


class _Collected:
    """The parts of an answer that are complete only at its end: tool calls, finish reason."""

    def __init__(self, request: TranslatedRequest) -> None:
        self._hide_thinking = request.hide_thinking
        self._calls: dict[int, _PartialCall] = {}
        self.finish_reason: str | None = None

    def add(self, choice: Choice) -> _Delta:
        """Add an event; return the part of it that can be sent at once."""
        self.finish_reason = choice.finish_reason or self.finish_reason
        text = choice.message or choice.delta or Text(content=choice.text)
        for position, call in enumerate(text.tool_calls or ()):
            index = position if call.index is None else call.index
            self._calls.setdefault(index, _PartialCall()).add(call)
        thinking = text.reasoning_content or text.reasoning or ""
        return _Delta(
            text.content or "",
            "" if self._hide_thinking else thinking,
            None if choice.logprobs is None else choice.logprobs.content,
        )

    def tool_calls(self) -> list[dict[str, Any]]:
        """Return the tool calls.

        Raises:
            UpstreamError: if the arguments of one are not an object.
        """
        return [
            {
                **({"id": call.id} if call.id else {}),
                "function": {
                    "index": index,
                    "name": call.name,
                    "arguments": call.parsed_arguments(),
                },
            }
            for index, call in sorted(self._calls.items())
        ]


def _piece(
    request: TranslatedRequest,
    created_at: str,
    delta: _Delta | None = None,
    tool_calls: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return the fields of an answer, or of one line of a stream, that is not the last."""
    delta = delta or _Delta()
    piece: dict[str, Any] = {"model": request.model, "created_at": created_at}
    if request.answer_format is AnswerFormat.CHAT:
        message: dict[str, Any] = {"role": "assistant", "content": delta.content}
        if delta.thinking:
            message["thinking"] = delta.thinking
        if tool_calls:
            message["tool_calls"] = list(tool_calls)
        piece["message"] = message
    else:
        piece["response"] = delta.content
        if delta.thinking:
            piece["thinking"] = delta.thinking
    if delta.logprobs:
        piece["logprobs"] = delta.logprobs
    piece["done"] = False
    return piece


def _figures(
    reason: str | None,
    answer: BackendAnswer,
    *,
    now_s: float,
    first_s: float | None,
    times: RequestTimes,
) -> dict[str, Any]:
    """Return the last fields of an answer: the reason of its end, durations, token counts.

    The durations are the backend's own timings. Without them, the prompt took until the first
    piece.
    """
    usage, timings = answer.usage or TokenCounts(), answer.timings or Timings()
    first_s = now_s if first_s is None else first_s
    prompt_s, eval_s = first_s - times.granted_s, now_s - first_s
    if timings.prompt_ms is not None:
        prompt_s = timings.prompt_ms / 1000
    if timings.predicted_ms is not None:
        eval_s = timings.predicted_ms / 1000
    return {
        "done": True,
        "done_reason": "length" if reason == "length" else "stop",
        "total_duration": _ns(now_s - times.arrived_s),
        "load_duration": _ns(times.load_s),
        "prompt_eval_count": usage.prompt_tokens or 0,
        "prompt_eval_duration": _ns(prompt_s),
        "eval_count": usage.completion_tokens or 0,
        "eval_duration": _ns(eval_s),
    }


def _embeddings(
    request: TranslatedRequest, data: bytes, *, now_s: float, times: RequestTimes
) -> dict[str, Any]:
    answer = decode_embeddings(data, request)
    vectors = answer.vectors()
    if request.answer_format is AnswerFormat.EMBEDDING:
        if not vectors:
            raise UpstreamError("the backend's answer has no embedding")
        return {"embedding": vectors[0]}
    usage = answer.usage or TokenCounts()
    return {
        "model": request.model,
        "embeddings": vectors,
        "total_duration": _ns(now_s - times.arrived_s),
        "load_duration": _ns(times.load_s),
        "prompt_eval_count": usage.prompt_tokens or 0,
    }


def _ns(seconds: float) -> int:
    return max(0, round(seconds * _NS))
