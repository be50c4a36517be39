"""OpenAI's APIs: chat completions, responses, and all others. Pure.

Sources: https://platform.openai.com/docs/api-reference,
https://platform.openai.com/docs/api-reference/chat-streaming,
https://platform.openai.com/docs/api-reference/responses-streaming,
https://platform.openai.com/docs/guides/error-codes and, for ``x-request-id``,
https://platform.openai.com/docs/api-reference/debugging-requests.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ...errors.base import RouterError
from .dialect import GET, POST, ApiDialect, ErrorFields, StreamInfo, UsageFields
from .errors import error_fields
from .event_stream import comment_keepalive, comment_notice, event
from .notices import marked


def _error_body(error: RouterError, _: str) -> bytes:
    return msgspec.json.encode({"error": error_fields(error)})


def _error_event(fields: ErrorFields, _: int) -> bytes:
    return event({"error": fields})


def _responses_error_event(fields: ErrorFields, _: int) -> bytes:
    # The official client raises because of the field "error", as in a chat.
    own = {name: fields.get(name) for name in ("code", "message", "param")}
    document = {"error": fields, "type": "error", "sequence_number": 0, **own}
    return event(document, name=b"error")


def _chunk_notice(info: StreamInfo, sentence: str) -> bytes:
    # No role: clients that add up deltas would have it twice.
    delta = {"content": None, "reasoning_content": marked(sentence)}
    chunk = {
        "id": info.id,
        "object": "chat.completion.chunk",
        "created": int(info.created_s),
        "model": info.model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
    }
    return event(chunk)


CHAT: Final = ApiDialect(
    name="OpenAI chat completions",
    paths={"/v1/chat/completions": POST, "/chat/completions": POST},
    stream_endings=("/chat/completions",),
    error_body=_error_body,
    error_event=_error_event,
    notice=_chunk_notice,
    keepalive=comment_keepalive,
    usage=(UsageFields(object=b"usage", prompt=b"prompt_tokens", completion=b"completion_tokens"),),
)

RESPONSES: Final = ApiDialect(
    name="OpenAI responses",
    paths={"/v1/responses": POST, "/responses": POST},
    stream_endings=("/responses",),
    error_body=_error_body,
    error_event=_responses_error_event,
    notice=comment_notice,
    keepalive=comment_keepalive,
    model_objects=frozenset((b"response",)),  # of the event response.created, for instance
    usage=(UsageFields(object=b"usage", prompt=b"input_tokens", completion=b"output_tokens"),),
)

#: Also for paths that no API has. Source of the last four paths: llama.cpp, tools/server.
OPENAI: Final = ApiDialect(
    name="OpenAI",
    paths=dict.fromkeys(
        (
            *("/v1/completions", "/v1/embeddings", "/v1/moderations"),
            *("/v1/rerank", "/v1/reranking", "/v2/rerank"),
            *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"),
            *("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"),
        ),
        POST,
    )
    | dict.fromkeys(("/livez", "/readyz", "/health", "/v1/health", "/slots"), GET)
    | {"/props": GET | POST},
    stream_endings=("/completions",),
    error_body=_error_body,
    error_event=_error_event,
    notice=comment_notice,
    keepalive=comment_keepalive,
    usage=CHAT.usage,
)
