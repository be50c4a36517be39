"""llama.cpp's own API. Pure.

Source: llama.cpp, tools/server (README.md and ``format_error_response``).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ...errors.base import RouterError
from .dialect import GET, POST, ApiDialect, ErrorFields, UsageFields
from .event_stream import comment_keepalive, comment_notice, event

#: Error types by status; see `_error_object` for all others.
_ERROR_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


def _error_object(status: int, message: str) -> dict[str, Any]:
    other = "invalid_request_error" if status < 500 else "server_error"
    return {"code": status, "message": message, "type": _ERROR_TYPES.get(status, other)}


def _error_body(error: RouterError, _: str) -> bytes:
    return msgspec.json.encode({"error": _error_object(int(error.status), str(error))})


def _error_event(fields: ErrorFields, status: int) -> bytes:
    is_from_llama_cpp = isinstance(fields.get("code"), int)
    return event(
        {"error": fields if is_from_llama_cpp else _error_object(status, fields["message"])}
    )


LLAMA_CPP: Final = ApiDialect(
    name="llama.cpp",
    paths=dict.fromkeys(
        (
            *("/completion", "/completions", "/infill", "/embedding", "/embeddings"),
            *("/rerank", "/reranking", "/tokenize", "/detokenize", "/apply-template"),
            *("/audio/transcriptions", "/v1/systemone", "/v1/chat/completions/control"),
            *("/chat/completions/input_tokens", "/v1/chat/completions/input_tokens"),
            *("/responses/input_tokens", "/v1/responses/input_tokens"),
        ),
        POST,
    )
    | {"/lora-adapters": GET | POST, "/cors-proxy": GET | POST, "/metrics": GET},
    path_prefixes=("/slots/",),
    stream_endings=("/completion", "/infill"),
    error_body=_error_body,
    error_event=_error_event,
    notice=comment_notice,
    keepalive=comment_keepalive,
    usage=(
        UsageFields(
            object=b"timings",
            prompt=b"prompt_n",
            completion=b"predicted_n",
            prompt_cached=(b"cache_n",),
        ),
    ),
)
