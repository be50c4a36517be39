"""An Ollama request as one for the OpenAI API of a backend. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

import attrs
import msgspec

from ...core.config import overrides
from ...errors.requests import RequestError
from .bodies import (
    AnswerRequest,
    ChatRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    Message,
    ModelRequest,
    Options,
    ToolCall,
)
from .keep_alive import keep_alive_s

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETION_PATH: Final = "/v1/completions"
EMBEDDING_PATH: Final = "/v1/embeddings"

#: llama-server's own; at `COMPLETION_PATH` it takes no notice of a suffix.
#: Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
INFILL_PATH: Final = "/infill"


class AnswerFormat(StrEnum):
    """What the answer looks like."""

    CHAT = "chat"
    GENERATE = "generate"
    EMBED = "embed"
    EMBEDDING = "embedding"


@attrs.frozen(kw_only=True)
class Wanted:
    """What a client wants.

    Attributes:
        model: As it named it.
        shape: What the answer looks like.
        stream: Whether it comes in pieces.
        keep_s: Seconds of idleness after which the model may go; None if it did not say.
        path: Where to ask the backend; None if the model is only to be loaded or to go.
        fields: What to ask it.
        hide_thinking: The client does not want to see what the model thinks.
    """

    model: str
    shape: AnswerFormat
    stream: bool
    keep_s: float | None
    path: str | None = None
    fields: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)
    hide_thinking: bool = False

    def body(self, shape: overrides.RequestOverrides | None = None) -> bytes:
        """Return what to ask the backend, in the *shape* that its model's requests get."""
        return msgspec.json.encode(self.fields if shape is None else shape.of(self.fields))

    @property
    def unloads(self) -> bool:
        """Whether all that is wanted is that the model goes."""
        return self.path is None and self.keep_s == 0


def chat(request: ChatRequest) -> Wanted:
    """Translate ``/api/chat``.

    Raises:
        RequestError: if it cannot be.
    """
    messages = [] if request.messages is None else _messages(request.messages)
    body = {"messages": messages, **_answer_fields(request)}
    if request.tools:
        body["tools"] = request.tools
    return _answer(request, AnswerFormat.CHAT, CHAT_PATH if messages else None, body)


def generate(request: GenerateRequest) -> Wanted:
    """Translate ``/api/generate``: a chat of one message, or with ``raw`` a plain completion.

    With ``suffix`` the model fills in the middle, if it and its backend can.

    Raises:
        RequestError: if it cannot be.
    """
    for name, reason in (
        ("template", "a model is used with its own template; 'raw' uses none"),
        ("context", "send the history as messages to /api/chat"),
    ):
        if getattr(request, name):
            raise RequestError(f"'{name}' is not supported: {reason}", param=name)
    prompt = request.prompt or ""
    fields = _answer_fields(request)
    path: str | None
    if (request.raw or request.suffix) and request.images:
        raise RequestError("'images' do not go with 'raw' or 'suffix'", param="images")
    if request.suffix:
        body = {"input_prefix": prompt, "input_suffix": request.suffix, **_native(fields)}
        path = INFILL_PATH
    elif request.raw:
        body = {"prompt": prompt, **fields}
        path = COMPLETION_PATH
    else:
        system = [Message(role="system", content=request.system)] if request.system else []
        user = Message(role="user", content=prompt, images=request.images)
        body = {"messages": _messages([*system, user]), **fields}
        path = CHAT_PATH
    wanted = prompt or request.images or request.suffix
    return _answer(request, AnswerFormat.GENERATE, path if wanted else None, body)


def embed(request: EmbedRequest) -> Wanted:
    """Translate ``/api/embed``.

    Raises:
        RequestError: if it cannot be.
    """
    texts = [request.input] if isinstance(request.input, str) else request.input
    body: dict[str, Any] = {"input": texts}
    if request.dimensions:
        body["dimensions"] = request.dimensions
    return _wanted(request, AnswerFormat.EMBED, EMBEDDING_PATH if texts else None, body)


def embeddings(request: EmbeddingsRequest) -> Wanted:
    """Translate ``/api/embeddings``.

    Raises:
        RequestError: if it cannot be.
    """
    path = EMBEDDING_PATH if request.prompt else None
    return _wanted(request, AnswerFormat.EMBEDDING, path, {"input": [request.prompt or ""]})


def _answer(
    request: AnswerRequest, shape: AnswerFormat, path: str | None, body: dict[str, Any]
) -> Wanted:
    stream = request.stream is not False
    body["stream"] = stream
    if stream:
        body["stream_options"] = {"include_usage": True}
    wanted = _wanted(request, shape, path, body)
    return attrs.evolve(wanted, stream=stream, hide_thinking=request.think is False)


def _wanted(
    request: ModelRequest, shape: AnswerFormat, path: str | None, body: dict[str, Any]
) -> Wanted:
    keep = request.keep_alive
    return Wanted(
        model=request.named,
        shape=shape,
        stream=False,
        keep_s=None if keep is None else keep_alive_s(keep),
        path=path,
        fields={} if path is None else {"model": request.named, **body},
    )


# --- How to answer -------------------------------------------------------------------


def _answer_fields(request: AnswerRequest) -> dict[str, Any]:
    fields = _sampling(request.options or Options())
    if request.format:
        fields["response_format"] = _response_format(request.format)
    fields |= _thinking(request)
    if request.logprobs:
        fields["logprobs"] = True
        if request.top_logprobs:
            fields["top_logprobs"] = request.top_logprobs
    return fields


def _native(fields: dict[str, Any]) -> dict[str, Any]:
    """Return *fields* as llama-server's own endpoints spell them.

    Raises:
        RequestError: if they have no such thing.
    """
    fields = dict(fields)
    if "logprobs" in fields:
        raise RequestError("'logprobs' do not go with 'suffix'", param="logprobs")
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    if (wanted := fields.pop("response_format", None)) is not None:
        fields["json_schema"] = wanted.get("json_schema", {}).get("schema", {})
    return fields


def cannot_insert(model: str, status: int, reason: str) -> RequestError | None:
    """Return what a refused request to `INFILL_PATH` comes to; None if it is another matter.

    Args:
        model: As the client named it.
        status: Of the backend's answer.
        reason: Its sentence.
    """
    match status:
        case HTTPStatus.NOT_IMPLEMENTED:
            why = reason
        case HTTPStatus.NOT_FOUND | HTTPStatus.METHOD_NOT_ALLOWED:
            why = f"its backend has no {INFILL_PATH}, as llama-server has ({reason})"
        case _:
            return None
    return RequestError(f"{model!r} does not support insert: {why}", param="suffix")


#: Whole numbers: Ollama's name to that of the OpenAI API or of llama-server.
_INTEGERS: Final = {
    "num_keep": "n_keep",
    "seed": "seed",
    "top_k": "top_k",
    "repeat_last_n": "repeat_last_n",
    "mirostat": "mirostat",
}
_FLOATS: Final = (
    *("temperature", "top_p", "min_p", "typical_p"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty", "mirostat_tau", "mirostat_eta"),
)


def _sampling(options: Options) -> dict[str, Any]:
    fields: dict[str, Any] = {
        name: value for name in _FLOATS if (value := getattr(options, name)) is not None
    }
    for name, theirs in _INTEGERS.items():
        if (value := getattr(options, name)) is not None:
            fields[theirs] = _whole(name, value)
    # Negative means without a limit, which is what backends do unless they are told one.
    if options.num_predict is not None and options.num_predict >= 0:
        fields["max_tokens"] = _whole("num_predict", options.num_predict)
    if options.stop:
        fields["stop"] = options.stop
    return fields


#: Beyond it no backend could take a number in.
_MAX_WHOLE: Final = 2**63


def _whole(name: str, value: float) -> int:
    if not abs(value) < _MAX_WHOLE or value != int(value):
        raise RequestError(f'option "{name}" must be a whole number', param="options")
    return int(value)


def _response_format(wanted: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(wanted, dict):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": wanted}}
    if wanted == "json":
        return {"type": "json_object"}
    raise RequestError(f"format {wanted[:100]!r} is neither 'json' nor a JSON schema")


_EFFORTS: Final = frozenset(("low", "medium", "high"))


def _thinking(request: AnswerRequest) -> dict[str, Any]:
    """Say whether and how hard to think: to the chat template, and as OpenAI's parameter."""
    think = request.think
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    if think not in _EFFORTS:
        raise RequestError(
            f"think {think[:100]!r} is none of true, false, 'low', 'medium', 'high'", param="think"
        )
    kwargs = {"enable_thinking": True, "reasoning_effort": think}
    return {"chat_template_kwargs": kwargs, "reasoning_effort": think}


# --- What was said so far ------------------------------------------------------------


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Translate a history; calls of tools get the ids that OpenAI's shape needs."""
    translated: list[dict[str, Any]] = []
    open_calls: list[tuple[str, str]] = []  # of the latest message with calls: name and id
    for number, message in enumerate(messages):
        fields: dict[str, Any] = {"role": message.role, "content": _content(message)}
        if message.thinking:
            fields["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = [
                _call(call, f"call_{number}_{index}")
                for index, call in enumerate(message.tool_calls)
            ]
            fields["tool_calls"] = calls
            open_calls = [(call["function"]["name"], call["id"]) for call in calls]
        if message.role == "tool":
            fields["tool_call_id"] = message.tool_call_id or _answered(message, open_calls)
            if message.tool_name:
                fields["name"] = message.tool_name
        translated.append(fields)
    return translated


def _call(call: ToolCall, id_: str) -> dict[str, Any]:
    arguments = msgspec.json.encode(call.function.arguments).decode()
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id or id_, "type": "function", "function": function}


def _answered(message: Message, open_calls: list[tuple[str, str]]) -> str:
    """Return the id of the call that *message* answers: the first of its name, or the first."""
    for index, (name, id_) in enumerate(open_calls):
        if message.tool_name in (None, name):
            del open_calls[index]
            return id_
    return open_calls.pop(0)[1] if open_calls else "call"


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content or ""
    text = [{"type": "text", "text": message.content}] if message.content else []
    pictures = [
        {"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images
    ]
    return [*text, *pictures]


_KINDS: Final = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
)


#: As much of a picture as is decoded, in characters.
_LOOKED_AT: Final = 4096


def _data_url(image: msgspec.Raw) -> msgspec.Raw:
    """Return a picture, which is base64 in a JSON string, as a URL in one.

    Only its beginning is looked at: that is where the name of a file or an address would be
    found out. To decode all of it would hold up everybody else.

    Raises:
        RequestError: if it is not base64.
    """
    text = memoryview(image)
    try:
        data = base64.b64decode(_beginning(bytes(text[: _LOOKED_AT + 1])), validate=True)
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise RequestError("an image is not base64", param="images") from None
    kind = next((kind for magic, kind in _KINDS if data.startswith(magic)), "png")
    return msgspec.Raw(b"".join((b'"data:image/', kind.encode(), b";base64,", text[1:])))


def _beginning(text: bytes) -> str:
    """Return what a JSON string, of which this is the beginning, begins with: whole quadruples.

    Raises:
        msgspec.DecodeError: if it is no JSON string.
    """
    if not text.endswith(b'"') or len(text) == 1:
        escape = text.rfind(b"\\", -6)  # some write a plus or a slash as one
        text = text[: escape if escape >= 0 else None] + b'"'
    said = msgspec.json.decode(text, type=str)
    return said[: len(said) // 4 * 4] if len(text) >= _LOOKED_AT - 6 else said
