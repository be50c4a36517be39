"""Ollama's requests, translated for the OpenAI API of a backend. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

import attrs
import msgspec

from ...core.config.overrides import RequestOverrides
from ...errors.requests import RequestError
from .bodies import (
    AnswerRequest,
    ChatRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    Message,
    Options,
    RunRequest,
    ToolCall,
    keep_alive_s,
)

CHAT_PATH: Final = "/v1/chat/completions"
COMPLETION_PATH: Final = "/v1/completions"
EMBEDDING_PATH: Final = "/v1/embeddings"

#: llama-server's own endpoint; at `COMPLETION_PATH` it ignores a suffix.
#: Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
INFILL_PATH: Final = "/infill"


class AnswerFormat(StrEnum):
    """The form of Ollama's answer."""

    CHAT = "chat"
    GENERATE = "generate"
    EMBED = "embed"
    EMBEDDING = "embedding"


@attrs.frozen(kw_only=True)
class TranslatedRequest:
    """An Ollama request in terms of a backend.

    Attributes:
        model: The name that the client used.
        answer_format: The form of the answer.
        stream: Whether the answer is streamed.
        keep_s: Seconds of idleness after which the model may be unloaded; None if the client
            did not set ``keep_alive``.
        path: Path of the backend's endpoint; None if the model is only loaded or unloaded.
        fields: The JSON object for that endpoint.
        hide_thinking: Whether thoughts are left out of the answer.
    """

    model: str
    answer_format: AnswerFormat
    stream: bool
    keep_s: float | None
    path: str | None = None
    fields: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)
    hide_thinking: bool = False

    def body(self, overrides: RequestOverrides | None = None) -> bytes:
        """Return the body for the backend, with the *overrides* of its model applied."""
        return msgspec.json.encode(
            self.fields if overrides is None else overrides.applied_to(self.fields)
        )

    @property
    def unloads(self) -> bool:
        """Whether the request does nothing but unload the model."""
        return self.path is None and self.keep_s == 0


def chat(request: ChatRequest) -> TranslatedRequest:
    """Translate ``/api/chat``.

    Raises:
        RequestError: if that is not possible.
    """
    messages = [] if request.messages is None else _messages(request.messages)
    body = {"messages": messages, **_answer_fields(request)}
    if request.tools:
        body["tools"] = request.tools
    return _with_answer(request, AnswerFormat.CHAT, CHAT_PATH if messages else None, body)


def generate(request: GenerateRequest) -> TranslatedRequest:
    """Translate ``/api/generate``: a chat of one message, or with ``raw`` a plain completion.

    With ``suffix`` the model fills in the middle, if it and its backend support that.

    Raises:
        RequestError: if that is not possible.
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
    has_input = prompt or request.images or request.suffix
    return _with_answer(request, AnswerFormat.GENERATE, path if has_input else None, body)


def embed(request: EmbedRequest) -> TranslatedRequest:
    """Translate ``/api/embed``.

    Raises:
        RequestError: if that is not possible.
    """
    texts = [request.input] if isinstance(request.input, str) else request.input
    body: dict[str, Any] = {"input": texts}
    if request.dimensions:
        body["dimensions"] = request.dimensions
    return _translated(request, AnswerFormat.EMBED, EMBEDDING_PATH if texts else None, body)


def embeddings(request: EmbeddingsRequest) -> TranslatedRequest:
    """Translate ``/api/embeddings``.

    Raises:
        RequestError: if that is not possible.
    """
    path = EMBEDDING_PATH if request.prompt else None
    return _translated(request, AnswerFormat.EMBEDDING, path, {"input": [request.prompt or ""]})


def _with_answer(
    request: AnswerRequest, answer_format: AnswerFormat, path: str | None, body: dict[str, Any]
) -> TranslatedRequest:
    stream = request.stream is not False
    body["stream"] = stream
    if stream:
        body["stream_options"] = {"include_usage": True}
    translated = _translated(request, answer_format, path, body)
    return attrs.evolve(translated, stream=stream, hide_thinking=request.think is False)


def _translated(
    request: RunRequest, answer_format: AnswerFormat, path: str | None, body: dict[str, Any]
) -> TranslatedRequest:
    keep = request.keep_alive
    return TranslatedRequest(
        model=request.named,
        answer_format=answer_format,
        stream=False,
        keep_s=None if keep is None else keep_alive_s(keep),
        path=path,
        fields={} if path is None else {"model": request.named, **body},
    )


# --- parameters ----------------------------------------------------------------------


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
    """Return *fields* in the spelling of llama-server's own endpoints.

    Raises:
        RequestError: if they have no such parameter.
    """
    fields = dict(fields)
    if "logprobs" in fields:
        raise RequestError("'logprobs' do not go with 'suffix'", param="logprobs")
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    if (response_format := fields.pop("response_format", None)) is not None:
        fields["json_schema"] = response_format.get("json_schema", {}).get("schema", {})
    return fields


def insert_error(model: str, status: int, reason: str) -> RequestError | None:
    """Return the error of a request that `INFILL_PATH` does not support; None for other statuses.

    Args:
        model: The name that the client used.
        status: Status of the backend's answer.
        reason: The backend's sentence.
    """
    match status:
        case HTTPStatus.NOT_IMPLEMENTED:
            why = reason
        case HTTPStatus.NOT_FOUND | HTTPStatus.METHOD_NOT_ALLOWED:
            why = f"its backend has no {INFILL_PATH}, as llama-server has ({reason})"
        case _:
            return None
    return RequestError(f"{model!r} does not support insert: {why}", param="suffix")


#: Whole numbers: Ollama's name, and that of the OpenAI API or of llama-server.
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
    for name, backend_name in _INTEGERS.items():
        if (value := getattr(options, name)) is not None:
            fields[backend_name] = _integer(name, value)
    # Negative means without a limit, which is the default of backends.
    if options.num_predict is not None and options.num_predict >= 0:
        fields["max_tokens"] = _integer("num_predict", options.num_predict)
    if options.stop:
        fields["stop"] = options.stop
    return fields


#: Bound of the integers that backends parse.
_MAX_INTEGER: Final = 2**63


def _integer(name: str, value: float) -> int:
    if not abs(value) < _MAX_INTEGER or value != int(value):
        raise RequestError(f'option "{name}" must be a whole number', param="options")
    return int(value)


def _response_format(format_: str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(format_, dict):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": format_}}
    if format_ == "json":
        return {"type": "json_object"}
    raise RequestError(f"format {format_[:100]!r} is neither 'json' nor a JSON schema")


#: Efforts of ``think``, each with the nearest one of OpenAI's ``reasoning_effort``, of which
#: some backends refuse others. The chat template gets Ollama's own word.
#: Source: https://docs.ollama.com/capabilities/thinking.
_EFFORTS: Final = {"low": "low", "medium": "medium", "high": "high", "max": "high"}


def _thinking(request: AnswerRequest) -> dict[str, Any]:
    """Return the parameters of ``think``: for the chat template, and OpenAI's."""
    think = request.think
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    if think not in _EFFORTS:
        raise RequestError(
            f"think {think[:100]!r} is none of true, false, 'low', 'medium', 'high', 'max'",
            param="think",
        )
    kwargs = {"enable_thinking": True, "reasoning_effort": think}
    return {"chat_template_kwargs": kwargs, "reasoning_effort": _EFFORTS[think]}


# --- messages ------------------------------------------------------------------------


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Translate a history; tool calls get the ids that OpenAI's form needs."""
    translated: list[dict[str, Any]] = []
    #: Name and id of each unanswered call of the latest message with calls.
    open_calls: list[tuple[str, str]] = []
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
            fields["tool_call_id"] = message.tool_call_id or _call_id(message, open_calls)
            if message.tool_name:
                fields["name"] = message.tool_name
        translated.append(fields)
    return translated


def _call(call: ToolCall, id_: str) -> dict[str, Any]:
    arguments = msgspec.json.encode(call.function.arguments).decode()
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id or id_, "type": "function", "function": function}


def _call_id(message: Message, open_calls: list[tuple[str, str]]) -> str:
    """Return the id of the call that *message* answers: the first of its tool, or the first."""
    for index, (name, id_) in enumerate(open_calls):
        if message.tool_name in (None, name):
            del open_calls[index]
            return id_
    return open_calls.pop(0)[1] if open_calls else "call"


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.images:
        return message.content or ""
    text = [{"type": "text", "text": message.content}] if message.content else []
    images = [
        {"type": "image_url", "image_url": {"url": _data_url(image)}} for image in message.images
    ]
    return [*text, *images]


#: First bytes of image files.
_IMAGE_TYPES: Final = (
    (b"\x89PNG", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
)

#: Length of the beginning of an image that is decoded, in characters.
_DECODED_CHARACTERS: Final = 4096


def _data_url(image: msgspec.Raw) -> msgspec.Raw:
    """Return an image, which is base64 in a JSON string, as a URL in one.

    Only its beginning is decoded, which is enough to recognize a file name or an address. To
    decode all of it would keep the event loop busy for milliseconds.

    Raises:
        RequestError: if it is not base64.
    """
    text = memoryview(image)
    try:
        data = base64.b64decode(_beginning(bytes(text[: _DECODED_CHARACTERS + 1])), validate=True)
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise RequestError("an image is not base64", param="images") from None
    kind = next((kind for magic, kind in _IMAGE_TYPES if data.startswith(magic)), "png")
    return msgspec.Raw(b"".join((b'"data:image/', kind.encode(), b";base64,", text[1:])))


def _beginning(text: bytes) -> str:
    """Return the text of a cut JSON string, shortened to whole quadruples of base64.

    Raises:
        msgspec.DecodeError: if it is not a JSON string.
    """
    if not text.endswith(b'"') or len(text) == 1:
        escape = text.rfind(b"\\", -6)  # some clients escape a plus or a slash
        text = text[: escape if escape >= 0 else None] + b'"'
    decoded = msgspec.json.decode(text, type=str)
    return decoded[: len(decoded) // 4 * 4] if len(text) >= _DECODED_CHARACTERS - 6 else decoded
