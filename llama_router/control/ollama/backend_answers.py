"""A backend's answers, parsed: the OpenAI API's, whole or as an event stream. Pure.

Fields that are not named here are ignored. Source of ``timings`` and of ``/infill``: llama.cpp,
tools/server/README.md. Source of event streams:
https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeVar

import msgspec

from ...errors.backends import UpstreamError
from .requests import INFILL_PATH, TranslatedRequest

T = TypeVar("T")

#: Longest event, in bytes; a chunk of an answer has a few hundred.
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024


class ToolFunctionDelta(msgspec.Struct):
    """The function of a tool call, or a part of it."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct):
    """A tool call, or a part of it; `index` tells several calls apart."""

    index: int | None = None
    id: str | None = None
    function: ToolFunctionDelta | None = None


class Text(msgspec.Struct):
    """A ``message``, or the ``delta`` of one; vLLM calls its thoughts ``reasoning``."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class Logprobs(msgspec.Struct):
    """Log probabilities, a token each."""

    content: list[dict[str, Any]] | None = None


class Choice(msgspec.Struct):
    """One answer of several; ``text`` is that of a completion."""

    message: Text | None = None
    delta: Text | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class TokenCounts(msgspec.Struct):
    """The field ``usage``."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Timings(msgspec.Struct):
    """What llama-server measured."""

    prompt_ms: float | None = None
    predicted_ms: float | None = None


class BackendAnswer(msgspec.Struct):
    """A whole answer, or one event of a stream."""

    choices: list[Choice] = []
    usage: TokenCounts | None = None
    timings: Timings | None = None
    error: Any = None  # its form differs from backend to backend


class _Infill(msgspec.Struct):
    """A whole answer of llama-server's ``/infill``, or one event of its stream."""

    content: str = ""
    stop_type: str | None = None
    tokens_evaluated: int | None = None
    tokens_predicted: int | None = None
    timings: Timings | None = None
    error: Any = None

    def as_answer(self) -> BackendAnswer:
        """Return it in the form of OpenAI's."""
        is_last = self.stop_type not in (None, "none")
        reason = ("length" if self.stop_type == "limit" else "stop") if is_last else None
        usage = TokenCounts(self.tokens_evaluated, self.tokens_predicted) if is_last else None
        choice = Choice(text=self.content, finish_reason=reason)
        return BackendAnswer([choice], usage, self.timings, self.error)


class _Embedding(msgspec.Struct):
    embedding: list[float]
    index: int = 0


class Embeddings(msgspec.Struct):
    """A whole answer to a request for embeddings."""

    data: list[_Embedding]
    usage: TokenCounts | None = None

    def vectors(self) -> list[list[float]]:
        """Return the embeddings in the order of the inputs."""
        return [item.embedding for item in sorted(self.data, key=lambda item: item.index)]


def decode_answer(data: bytes, request: TranslatedRequest) -> BackendAnswer:
    """Return a whole answer to *request*, or one event of its stream.

    Raises:
        UpstreamError: if *data* is no such answer.
    """
    if request.path == INFILL_PATH:
        return _decode(data, _Infill, request).as_answer()
    return _decode(data, BackendAnswer, request)


def decode_embeddings(data: bytes, request: TranslatedRequest) -> Embeddings:
    """Return an answer with embeddings.

    Raises:
        UpstreamError: if *data* is no such answer.
    """
    return _decode(data, Embeddings, request)


def _decode(data: bytes, type_: type[T], request: TranslatedRequest) -> T:
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamError(
            f"the answer of the backend of model {request.model!r} cannot be used: {exc}"
        ) from exc


class EventParser:
    """Returns the ``data`` of server-sent events; other fields of events are ignored."""

    def __init__(self) -> None:
        self._rest = bytearray()  # an incomplete line
        self._data: list[bytes] = []
        self._size_bytes = 0

    def feed(self, received: bytes) -> Iterator[bytes]:
        """Add bytes; yield the data of every event that they complete.

        Raises:
            UpstreamError: if an event is too long.
        """
        self._size_bytes += len(received)
        # A line may end with CR, LF or both; no server that streams JSON uses a bare CR.
        *lines, rest = received.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        for line in lines:
            line = line.removesuffix(b"\r")  # noqa: PLW2901 -- the same line, as it counts
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                data, self._data = b"\n".join(self._data), []
                yield data
            if not self._data:
                self._size_bytes = 0
        if self._size_bytes > MAX_EVENT_BYTES:
            raise UpstreamError(f"the backend sent an event of over {MAX_EVENT_BYTES} bytes")
