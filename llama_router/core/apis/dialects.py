"""The kinds of event streams that clients ask for, and what the router itself says in them. Pure.

Sources: https://platform.openai.com/docs/api-reference/chat-streaming,
https://docs.anthropic.com/en/docs/build-with-claude/streaming and
https://html.spec.whatwg.org/multipage/server-sent-events.html (comments).
"""

from __future__ import annotations

from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, assert_never

import attrs
import msgspec

from ...errors.base import RouterError
from .endpoints import Api, api_of
from .envelope import error_body

#: Most characters quoted of an answer that is no JSON.
_QUOTED: Final = 300


class Dialect(StrEnum):
    """What the events of a stream look like."""

    CHAT = "chat"  # OpenAI's chat completions
    RESPONSES = "responses"  # OpenAI's responses
    MESSAGES = "messages"  # Anthropic's messages
    LLAMA_CPP = "llama.cpp"  # llama.cpp's own completions
    OTHER = "other"  # only what every reader of event streams understands


_BY_ENDING: Final = {
    "/chat/completions": Dialect.CHAT,
    "/completions": Dialect.OTHER,
    "/completion": Dialect.LLAMA_CPP,
    "/infill": Dialect.LLAMA_CPP,
    "/responses": Dialect.RESPONSES,
    "/messages": Dialect.MESSAGES,
}

#: Anthropic's error types by status; see `_anthropic_type` for all others.
#: Source: https://docs.anthropic.com/en/api/errors.
_ANTHROPIC_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

#: llama.cpp's error types by status. Source: llama.cpp, tools/server (format_error_response).
_LLAMA_CPP_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


def dialect_of_path(path: bytes) -> Dialect:
    """Return what streams of *path* look like."""
    text = path.decode("ascii", "replace")
    return next((d for ending, d in _BY_ENDING.items() if text.endswith(ending)), Dialect.OTHER)


def dialect_of(path: bytes, *, stream: bool, accept: bytes) -> Dialect | None:
    """Return what the stream that a request asks for looks like; None if it asks for none.

    Args:
        path: Path of the request target.
        stream: Whether the body says ``"stream": true``.
        accept: Value of the field ``Accept``; empty if there is none. It counts only for
            paths that are not known here, and only if nothing but an event stream will do.
    """
    text = path.decode("ascii", "replace")
    for ending, dialect in _BY_ENDING.items():
        if text.endswith(ending):
            return dialect if stream else None
    only_events = accept.partition(b";")[0].strip().lower() == b"text/event-stream"
    return Dialect.OTHER if only_events else None


@attrs.frozen(kw_only=True)
class StreamDialect:
    """Says things in the stream of one request.

    Attributes:
        dialect: What its events look like.
        id: What its chunks have in common.
        created: When it began, in seconds since 1970.
        model: The model, by the name that the answer bears: the client's, or that of its preset.
    """

    dialect: Dialect
    id: str
    created: int
    model: str

    def say(self, text: str) -> bytes:
        """Return *text* in a form that no strict client stumbles over."""
        match self.dialect:
            case Dialect.CHAT:
                return b"data: " + msgspec.json.encode(self._chunk(text + "\n")) + b"\n\n"
            case Dialect.MESSAGES:
                return comment(text) + _PING
            case Dialect.RESPONSES | Dialect.LLAMA_CPP | Dialect.OTHER:
                return comment(text) + b"\n"

    def sign_of_life(self) -> bytes:
        """Return what keeps proxies and clients from giving up, and says nothing."""
        if self.dialect is Dialect.MESSAGES:
            return _PING
        return b": waiting\n\n"

    def error(self, error: RouterError) -> bytes:
        """Return *error* as the last event."""
        return last_event(self.dialect, error)

    def answer_as_error(self, status: int, content_type: str, body: bytes) -> bytes:
        """Return, as the last event, an answer that cannot be put into the stream as it is.

        Args:
            status: Its status.
            content_type: Its media type.
            body: Its body, perhaps only the beginning of it.
        """
        fields: dict[str, Any] | None = _error_in(body)
        if fields is None:
            said = body.decode("utf-8", "replace").strip()[:_QUOTED]
            what = f"with status {status}" if status != HTTPStatus.OK else f"with {content_type}"
            message = f"the backend of model {self.model!r} answered {what} instead of a stream"
            fields = {
                "message": f"{message}: {said}" if said else message,
                "type": "server_error",
                "code": "upstream_failed",
                "param": None,
            }
        failed = status if status >= HTTPStatus.BAD_REQUEST else HTTPStatus.BAD_GATEWAY
        return _error_event(self.dialect, fields, failed)

    def _chunk(self, text: str) -> dict[str, Any]:
        # No role: clients that add up deltas would have it twice.
        delta = {"content": None, "reasoning_content": text}
        return {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
        }


def error_answer(path: str, error: RouterError, request_id: str) -> bytes:
    """Return the body of an answer that says *error*, as clients of the API of *path* expect it.

    Args:
        path: Path of the request, decoded.
        error: What is wrong.
        request_id: The name of the request.
    """
    status = int(error.status)
    match api_of(path):
        case Api.ANTHROPIC:
            fields = {"type": _anthropic_type(status), "message": str(error)}
            document = {"type": "error", "error": fields, "request_id": request_id}
            return msgspec.json.encode(document)
        case Api.LLAMA_CPP:
            return msgspec.json.encode({"error": _llama_cpp_error(status, str(error))})
        case Api.OPENAI:
            return error_body(error)


def request_id_field(path: str, request_id: str) -> tuple[bytes, bytes]:
    """Return the header field in which clients of the API of *path* look for a request's name.

    Sources: https://docs.anthropic.com/en/api/errors#request-id and, for all others,
    https://platform.openai.com/docs/api-reference/debugging-requests.
    """
    name = b"request-id" if api_of(path) is Api.ANTHROPIC else b"x-request-id"
    return name, request_id.encode()


def _anthropic_type(status: int) -> str:
    other = "invalid_request_error" if status < 500 else "api_error"
    return _ANTHROPIC_TYPES.get(status, other)


def _llama_cpp_error(status: int, message: str) -> dict[str, Any]:
    other = "invalid_request_error" if status < 500 else "server_error"
    return {
        "code": status,
        "message": message,
        "type": _LLAMA_CPP_TYPES.get(status, other),
    }


def last_event(dialect: Dialect, error: RouterError) -> bytes:
    """Return *error* as the last event of a stream."""
    fields: dict[str, Any] = msgspec.json.decode(error_body(error))["error"]
    return _error_event(dialect, fields, error.status)


def _error_event(dialect: Dialect, fields: dict[str, Any], status: int) -> bytes:
    document: dict[str, Any] = {"error": fields}
    match dialect:
        case Dialect.CHAT | Dialect.LLAMA_CPP | Dialect.OTHER:
            if dialect is Dialect.LLAMA_CPP and not isinstance(fields.get("code"), int):
                document = {"error": _llama_cpp_error(status, fields["message"])}
            return b"data: " + msgspec.json.encode(document) + b"\n\n"
        case Dialect.MESSAGES:
            about = {"type": _anthropic_type(status), "message": fields["message"]}
            document = {"type": "error", "error": about}
        case Dialect.RESPONSES:
            # The field "error", as in a chat, is what makes the official client raise.
            about = {name: fields.get(name) for name in ("code", "message", "param")}
            document |= {"type": "error", "sequence_number": 0, **about}
        case _:
            assert_never(dialect)
    return b"event: error\ndata: " + msgspec.json.encode(document) + b"\n\n"


_PING: Final = b'event: ping\ndata: {"type": "ping"}\n\n'


def comment(text: str) -> bytes:
    """Return *text* as lines that every reader of event streams skips."""
    return b"".join(b": %b\n" % line.encode() for line in text.splitlines())


def _error_in(body: bytes) -> dict[str, Any] | None:
    """Return the error object in *body*, an answer of a backend; None if there is none."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, str) and error:
        return {"message": error, "type": "server_error", "code": None, "param": None}
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return error
    return None
