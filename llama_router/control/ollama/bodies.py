"""The bodies of Ollama's requests, as clients send them. Values only.

Fields that are not named here are ignored, as Ollama does.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from ...core.requests.request_target import MAX_NAME_BYTES
from ...errors.requests import RequestError


class Options(msgspec.Struct, kw_only=True):
    """What an answer is sampled with. Options about loading are the model's own affair."""

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
    """Any request about one model; older clients call it ``name``."""

    model: str | None = None
    name: str | None = None

    @property
    def named(self) -> str:
        """Return the model's name.

        Raises:
            RequestError: if there is none.
        """
        name = self.model or self.name
        if not name:
            raise RequestError("model is required", param="model")
        if len(name) > MAX_NAME_BYTES:
            raise RequestError(f"the model name is over {MAX_NAME_BYTES} characters", param="model")
        return name


class ModelRequest(Named, kw_only=True):
    """What all requests have that need a running model."""

    keep_alive: float | str | None = None
    options: Options | None = None


class AnswerRequest(ModelRequest, kw_only=True):
    """What ``/api/chat`` and ``/api/generate`` have in common."""

    stream: bool | None = None
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class ToolFunction(msgspec.Struct, kw_only=True):
    """The function that a model called."""

    name: str
    arguments: dict[str, Any] = {}


class ToolCall(msgspec.Struct, kw_only=True):
    """A call in the history of a chat."""

    function: ToolFunction
    id: str | None = None


class Message(msgspec.Struct, kw_only=True):
    """One message of a chat. Pictures are megabytes: they stay the JSON that they came as."""

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


class EmbedRequest(ModelRequest, kw_only=True):
    """``/api/embed``."""

    input: str | list[str] | None = None
    dimensions: int | None = None


class EmbeddingsRequest(ModelRequest, kw_only=True):
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


def decoded(data: bytes, shape: type[Body], *, default: str | None = None) -> Body:
    """Return the request in *data*, whatever media type it was sent as.

    Args:
        data: Its body.
        shape: What it should be.
        default: The model that is meant where none is named.

    Raises:
        RequestError: if it is not JSON, or not of that shape.
    """
    if not data:
        raise RequestError("missing request body")
    try:
        body = msgspec.json.decode(data, type=shape)
    except msgspec.ValidationError as exc:
        found = re.search(r"`\$\.([\w.]+)", str(exc))
        raise RequestError(
            f"the body is not as expected: {exc}", param=found[1] if found else None
        ) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RequestError(f"the body is not valid JSON: {exc}") from exc
    except RecursionError as exc:
        raise RequestError("the body is nested too deeply") from exc
    if not (body.model or body.name):
        body.model = default
    return body
