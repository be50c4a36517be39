"""A backend's OpenAI answer as Ollama's: whole, or piece by piece as lines of JSON. Pure.

Source of llama.cpp's ``timings``: tools/server/README.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import attrs
import msgspec

from ...core.apis.backend_errors import message_in
from ...core.apis.usage import Usage
from ...errors.backends import UpstreamError
from ...errors.base import RouterError
from .requests import INFILL_PATH, AnswerFormat, Wanted
from .sse import Events

T = TypeVar("T")

_NS: Final = 1_000_000_000


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Text(msgspec.Struct):
    """A ``message``, or the ``delta`` of one; vLLM calls its thoughts ``reasoning``."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Logprobs(msgspec.Struct):
    content: list[dict[str, Any]] | None = None


class _Choice(msgspec.Struct):
    message: _Text | None = None
    delta: _Text | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Timings(msgspec.Struct):
    prompt_ms: float | None = None
    predicted_ms: float | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: _Timings | None = None
    error: Any = None  # every backend has its own idea of it


class _Infill(msgspec.Struct):
    """A piece, or all, of what llama-server's ``/infill`` answers."""

    content: str = ""
    stop_type: str | None = None
    tokens_evaluated: int | None = None
    tokens_predicted: int | None = None
    timings: _Timings | None = None
    error: Any = None

    def as_answer(self) -> _Answer:
        """Return it in the shape of OpenAI's."""
        stops = self.stop_type not in (None, "none")
        reason = ("length" if self.stop_type == "limit" else "stop") if stops else None
        usage = _Usage(self.tokens_evaluated, self.tokens_predicted) if stops else None
        choice = _Choice(text=self.content, finish_reason=reason)
        return _Answer([choice], usage, self.timings, self.error)


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    usage: _Usage | None = None


@attrs.frozen(kw_only=True)
class Times:
    """Clock times of one request, in seconds.

    Attributes:
        arrived_s: When it came.
        load_s: How long its model was loading meanwhile.
        granted_s: When the backend was asked.
        epoch_s: What to add to a clock time to get the seconds since the epoch.
    """

    arrived_s: float
    load_s: float
    granted_s: float
    epoch_s: float

    def stamp(self, now_s: float) -> str:
        """Return *now_s* as Ollama writes it."""
        return timestamp(self.epoch_s + now_s)


def timestamp(epoch_s: float) -> str:
    """Return seconds since the epoch in the form of RFC 3339."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat().replace("+00:00", "Z")


def ollama_error(error: RouterError) -> bytes:
    """Return *error* as Ollama reports it: in a body, or as the last line of a stream."""
    return msgspec.json.encode({"error": str(error)}) + b"\n"


def nothing_said(wanted: Wanted, *, now_s: float, times: Times) -> dict[str, Any]:
    """Return the answer to a request that only loads a model, or lets it go."""
    if wanted.shape is AnswerFormat.EMBEDDING:
        return {"embedding": []}
    if wanted.shape is AnswerFormat.EMBED:
        return {"model": wanted.model, "embeddings": []}
    reason = "unload" if wanted.unloads else "load"
    return _piece(wanted, times.stamp(now_s)) | {"done": True, "done_reason": reason}


def whole(wanted: Wanted, data: bytes, *, now_s: float, times: Times) -> dict[str, Any]:
    """Translate a whole answer.

    Raises:
        UpstreamError: if it is no such answer.
    """
    if wanted.shape in (AnswerFormat.EMBED, AnswerFormat.EMBEDDING):
        return _embedded(wanted, data, now_s=now_s, times=times)
    answer = _said_in(data, wanted)
    if not answer.choices:
        raise UpstreamError("the backend's answer has no choices")
    talk = _Talk(wanted)
    said = talk.take(answer.choices[0])
    piece = _piece(wanted, times.stamp(now_s), said, talk.calls())
    return piece | _ending(talk.reason, answer, now_s=now_s, first_s=None, times=times)


class OllamaStreamDialect:
    """Says, in the stream of one request, what the router itself has to say.

    Every line is a piece of an answer: the official clients decode each of them as one, so
    there is nothing like a comment, and no empty line. What the client waits for is thought,
    not said: programs show thoughts apart from the answer and keep them out of the history.

    Source: https://github.com/ollama/ollama-python, ``Client._request`` and ``ChatResponse``.
    """

    def __init__(self, wanted: Wanted, created_at: str) -> None:
        self._wanted = wanted
        self._created_at = created_at

    def say(self, text: str) -> bytes:
        """Return *text* as a thought; nobody hears it who wants to see no thoughts."""
        thinking = "" if self._wanted.hide_thinking else text + "\n"
        return _line(_piece(self._wanted, self._created_at, _Said(thinking=thinking)))

    def sign_of_life(self) -> bytes:
        """Return a piece of an answer in which nothing is said."""
        return _line(_piece(self._wanted, self._created_at))


class Stream:
    """Translates an event stream as it comes.

    Attributes:
        usage: Tokens, as far as the backend said.
        done: Nothing more will come of it.
        error: Why it ended before its time, if it did.
    """

    def __init__(self, wanted: Wanted, times: Times) -> None:
        self._wanted = wanted
        self._times = times
        self._events = Events()
        self._talk = _Talk(wanted)
        self._last = _Answer()
        self._first_s: float | None = None
        self.done = False
        self.error: UpstreamError | None = None

    @property
    def usage(self) -> Usage:
        """Return the tokens so far."""
        usage = self._last.usage or _Usage()
        return Usage(usage.prompt_tokens, usage.completion_tokens)

    def feed(self, data: bytes, *, now_s: float) -> bytes:
        """Take in bytes, none at their end; return the lines that can be sent now, perhaps none.

        An error that the backend reports, and what is no such stream, sets `error`: what
        came before it counts.
        """
        lines: list[bytes] = []
        try:
            for event in self._events.feed(data):
                if event.strip() == b"[DONE]":
                    self.done = True
                    break
                lines += self._lines(_said_in(event, self._wanted), now_s)
            if self.done or not data:
                lines.append(self._end(now_s))
        except UpstreamError as exc:
            self.done, self.error = True, exc
        return b"".join(lines)

    def _lines(self, answer: _Answer, now_s: float) -> Iterable[bytes]:
        if answer.error is not None:
            reported = message_in(answer.error)
            raise UpstreamError(reported or "the backend reported an error without a message")
        self._last.usage = answer.usage or self._last.usage
        self._last.timings = answer.timings or self._last.timings
        for choice in answer.choices[:1]:
            if said := self._talk.take(choice):
                if self._first_s is None:
                    self._first_s = now_s
                yield _line(_piece(self._wanted, self._times.stamp(now_s), said))

    def _end(self, now_s: float) -> bytes:
        if not self.done and self._talk.reason is None:
            raise UpstreamError("the backend's stream ended in the middle of its answer")
        self.done = True
        calls = self._talk.calls()
        stamp = self._times.stamp(now_s)
        lines = b""
        if calls:
            lines = _line(_piece(self._wanted, stamp, calls=calls))
        ending = _ending(
            self._talk.reason, self._last, now_s=now_s, first_s=self._first_s, times=self._times
        )
        return lines + _line(_piece(self._wanted, stamp) | ending)


@attrs.frozen
class _Said:
    content: str = ""
    thinking: str = ""
    logprobs: list[dict[str, Any]] | None = None

    def __bool__(self) -> bool:
        return bool(self.content or self.thinking)


@attrs.define(eq=False)
class _OpenCall:
    id: str | None = None
    name: str = ""
    arguments: str = ""


class _Talk:
    """What a backend says, put together."""

    def __init__(self, wanted: Wanted) -> None:
        self._hide_thinking = wanted.hide_thinking
        self._calls: dict[int, _OpenCall] = {}
        self.reason: str | None = None

    def take(self, choice: _Choice) -> _Said:
        """Take in a piece; return what of it can be passed on at once."""
        self.reason = choice.finish_reason or self.reason
        text = choice.message or choice.delta or _Text(content=choice.text)
        for position, call in enumerate(text.tool_calls or ()):
            index = position if call.index is None else call.index
            self._collect(self._calls.setdefault(index, _OpenCall()), call)
        thinking = text.reasoning_content or text.reasoning or ""
        return _Said(
            text.content or "",
            "" if self._hide_thinking else thinking,
            None if choice.logprobs is None else choice.logprobs.content,
        )

    @staticmethod
    def _collect(open_: _OpenCall, call: _Call) -> None:
        open_.id = call.id or open_.id
        if call.function is not None:
            open_.name += call.function.name or ""
            open_.arguments += call.function.arguments or ""

    def calls(self) -> list[dict[str, Any]]:
        """Return the calls of tools, which are complete only at the end.

        Raises:
            UpstreamError: if the arguments of one are not an object.
        """
        return [
            {
                **({"id": call.id} if call.id else {}),
                "function": {
                    "index": index,
                    "name": call.name,
                    "arguments": _arguments(call),
                },
            }
            for index, call in sorted(self._calls.items())
        ]


def _arguments(call: _OpenCall) -> dict[str, Any]:
    try:
        return msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as exc:
        raise UpstreamError(
            f"the model called the tool {call.name!r} with arguments that are not a JSON object"
        ) from exc


def _piece(
    wanted: Wanted,
    created_at: str,
    said: _Said | None = None,
    calls: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    said = said or _Said()
    piece: dict[str, Any] = {"model": wanted.model, "created_at": created_at}
    if wanted.shape is AnswerFormat.CHAT:
        message: dict[str, Any] = {"role": "assistant", "content": said.content}
        if said.thinking:
            message["thinking"] = said.thinking
        if calls:
            message["tool_calls"] = list(calls)
        piece["message"] = message
    else:
        piece["response"] = said.content
        if said.thinking:
            piece["thinking"] = said.thinking
    if said.logprobs:
        piece["logprobs"] = said.logprobs
    piece["done"] = False
    return piece


def _ending(
    reason: str | None, answer: _Answer, *, now_s: float, first_s: float | None, times: Times
) -> dict[str, Any]:
    """Return the last fields of an answer: why it ends, and figures.

    The backend's own timings count; without them, the time to the first piece is that of
    the prompt.
    """
    usage, timings = answer.usage or _Usage(), answer.timings or _Timings()
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


def _embedded(wanted: Wanted, data: bytes, *, now_s: float, times: Times) -> dict[str, Any]:
    answer = _decoded(data, _Embeddings, wanted)
    vectors = [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]
    if wanted.shape is AnswerFormat.EMBEDDING:
        if not vectors:
            raise UpstreamError("the backend's answer has no embedding")
        return {"embedding": vectors[0]}
    usage = answer.usage or _Usage()
    return {
        "model": wanted.model,
        "embeddings": vectors,
        "total_duration": _ns(now_s - times.arrived_s),
        "load_duration": _ns(times.load_s),
        "prompt_eval_count": usage.prompt_tokens or 0,
    }


def _said_in(data: bytes, wanted: Wanted) -> _Answer:
    if wanted.path == INFILL_PATH:
        return _decoded(data, _Infill, wanted).as_answer()
    return _decoded(data, _Answer, wanted)


def _decoded(data: bytes, shape: type[T], wanted: Wanted) -> T:
    try:
        return msgspec.json.decode(data, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamError(
            f"the answer of the backend of model {wanted.model!r} cannot be used: {exc}"
        ) from exc


def _ns(seconds: float) -> int:
    return max(0, round(seconds * _NS))


def _line(piece: dict[str, Any]) -> bytes:
    return msgspec.json.encode(piece) + b"\n"
