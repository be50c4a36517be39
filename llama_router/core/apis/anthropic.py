"""Anthropic's messages. Pure.

Sources: https://docs.anthropic.com/en/api,
https://docs.anthropic.com/en/docs/build-with-claude/streaming and
https://docs.anthropic.com/en/api/errors (types, and the field ``request-id``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from ...errors.base import RouterError
from ...errors.causes import PERMANENT_CAUSES
from .dialect import POST, ApiDialect, ErrorFields, StreamInfo, UsageFields
from .errors import error_fields
from .event_stream import comment, event

#: Error types by status; see `_error_type` for all others.
_ERROR_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_PING: Final = b'event: ping\ndata: {"type": "ping"}\n\n'


def _error_type(fields: ErrorFields, status: int) -> str:
    # Clients repeat a request while they are told that the service is overloaded.
    if str(fields.get("cause")) in PERMANENT_CAUSES:
        return "api_error"
    other = "invalid_request_error" if status < 500 else "api_error"
    return _ERROR_TYPES.get(status, other)


def _error_body(error: RouterError, request_id: str) -> bytes:
    fields = {"type": _error_type(error_fields(error), error.status), "message": str(error)}
    return msgspec.json.encode({"type": "error", "error": fields, "request_id": request_id})


def _error_event(fields: ErrorFields, status: int) -> bytes:
    own = {"type": _error_type(fields, status), "message": fields["message"]}
    return event({"type": "error", "error": own}, name=b"error")


def _notice(_: StreamInfo, sentence: str) -> bytes:
    # Clients skip the ping; the comment before it is for a person that reads the stream.
    return comment(sentence) + _PING


def _keepalive(_: StreamInfo) -> bytes:
    return _PING


ANTHROPIC: Final = ApiDialect(
    name="Anthropic messages",
    paths={"/v1/messages": POST, "/v1/messages/count_tokens": POST},
    stream_endings=("/messages",),
    error_body=_error_body,
    error_event=_error_event,
    notice=_notice,
    keepalive=_keepalive,
    request_id_header=b"request-id",
    model_objects=frozenset((b"message",)),  # of the event message_start
    usage=(
        UsageFields(
            object=b"usage",
            prompt=b"input_tokens",
            completion=b"output_tokens",
            prompt_cached=(b"cache_read_input_tokens", b"cache_creation_input_tokens"),
        ),
    ),
)
