"""The bodies of Ollama's requests, as clients send them, and their ``keep_alive``. Pure.

Fields that are not named here are ignored, as Ollama does.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final, TypeVar

import msgspec

from ...core.requests.request_target import MAX_NAME_BYTES
from ...core.requests.tolerated_json import strict_form, why_malformed
from ...errors.requests import RequestError


class Options(msgspec.Struct, kw_only=True):
    """Sampling parameters. Options for loading are ignored: `router.toml` has those of a model."""

    num_keep: float | None = None
    num_predict: float | None = None
    seed: float | None = None
    top_k: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_last_n: float | None = None
    temperature: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    mirostat: float | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    stop: str | list[str] | None = None


class Named(msgspec.Struct, kw_only=True):
    """A request that names a model; older clients use ``name`` for ``model``."""

    model: str | None = None
    name: str | None = None

    @property
    def named(self) -> str:
        """Return the model's name.

        Raises:
            RequestError: if the request names none.
        """
        name = self.model or self.name
        if not name:
            raise RequestError("model is required", param="model")
        if len(name) > MAX_NAME_BYTES:
            raise RequestError(f"the model name is over {MAX_NAME_BYTES} characters", param="model")
        return name


class RunRequest(Named, kw_only=True):
    """The fields of all requests that need a running model."""

    keep_alive: float | str | None = None
    options: Options | None = None


class AnswerRequest(RunRequest, kw_only=True):
    """The common fields of ``/api/chat`` and ``/api/generate``."""

    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class ToolFunction(msgspec.Struct, kw_only=True):
    """The function of a tool call."""

    name: str
    arguments: dict[str, Any] = {}


class ToolCall(msgspec.Struct, kw_only=True):
    """A tool call in the history of a chat."""

    function: ToolFunction
    id: str | None = None


class Message(msgspec.Struct, kw_only=True):
    """One message of a chat. Images are not decoded, because they take megabytes."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[msgspec.Raw] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None


class ChatRequest(AnswerRequest, kw_only=True):
    """``/api/chat``."""

    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None


class GenerateRequest(AnswerRequest, kw_only=True):
    """``/api/generate``."""

    prompt: str | None = None
    suffix: str | None = None
    images: list[msgspec.Raw] | None = None
    system: str | None = None
    template: str | None = None
    context: list[int] | None = None
    raw: bool | None = None


class EmbedRequest(RunRequest, kw_only=True):
    """``/api/embed``."""

    input: str | list[str] | None = None
    dimensions: int | None = None


class EmbeddingsRequest(RunRequest, kw_only=True):
    """``/api/embeddings``, which ``/api/embed`` replaced."""

    prompt: str | None = None


class PullRequest(Named, kw_only=True):
    """``/api/pull``."""

    stream: bool | None = None


class DeleteRequest(Named, kw_only=True):
    """``/api/delete``."""


class ShowRequest(Named, kw_only=True):
    """``/api/show``."""

    verbose: bool | None = None


Body = TypeVar("Body", bound=Named)


def decode(data: bytes, type_: type[Body], *, default_model: str | None = None) -> Body:
    """Return the request in *data*. The media type that a client states does not matter.

    Args:
        data: The body.
        type_: The type of the request.
        default_model: The model of a request that names none.

    Raises:
        RequestError: if *data* is not JSON, or not of that type.
    """
    if not data:
        raise RequestError("missing request body")
    try:
        body = _decoded(data, type_)
    except msgspec.ValidationError as exc:
        found = re.search(r"`\$\.([\w.]+)", str(exc))
        raise RequestError(
            f"the body is not as expected: {exc}", param=found[1] if found else None
        ) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RequestError(f"the body is not valid JSON: {why_malformed(exc)}") from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply") from exc
    if not (body.model or body.name):
        body.model = default_model
    return body


def _decoded(data: bytes, type_: type[Body]) -> Body:
    """Return the request in *data*, in which half a character becomes U+FFFD."""
    try:
        return msgspec.json.decode(data, type=type_)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(strict_form(data), type=type_)


# --- keep_alive -------------------------------------------------------------------------

_UNITS_S: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART: Final = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)"
_DURATION: Final = re.compile(rf"([+-]?)((?:{_PART})+)", re.ASCII)
_NUMBER: Final = re.compile(r"[+-]?\d+(?:\.\d*)?", re.ASCII)

#: Longest duration that is parsed, in characters.
_MAX_CHARACTERS: Final = 64


def keep_alive_s(value: float | str) -> float:
    """Return how long a model stays after a request, in seconds; infinite if *value* is negative.

    Args:
        value: Seconds, or a duration in the form of Go's time.ParseDuration, which Ollama uses.

    Raises:
        RequestError: if *value* is not a duration.
    """
    seconds = _parse_duration(value) if isinstance(value, str) else float(value)
    return math.inf if seconds < 0 else seconds


def _parse_duration(text: str) -> float:
    if len(text) <= _MAX_CHARACTERS:
        if _NUMBER.fullmatch(text):
            return float(text)
        if found := _DURATION.fullmatch(text):
            parts = re.findall(_PART, found[2])
            seconds = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
            return -seconds if found[1] == "-" else seconds
    raise RequestError(
        f"keep_alive {text[:_MAX_CHARACTERS]!r} is not a duration; "
        "one looks like 300, '5m' or '1h30m'",
        param="keep_alive",
    )
