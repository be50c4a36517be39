"""Ollama's API, which the router itself serves; `control.ollama` has the translation. Pure.

Sources: https://github.com/ollama/ollama/blob/main/docs/api.md and
https://github.com/ollama/ollama-python (``Client._request``, ``ChatResponse``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from ...errors.base import RouterError
from .dialect import GET, POST, ApiDialect, ErrorFields, StreamInfo
from .notices import marked

_CHAT: Final = "/api/chat"


def timestamp(epoch_s: float) -> str:
    """Return seconds since the epoch in the form of RFC 3339."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat().replace("+00:00", "Z")


def _line(document: dict[str, Any]) -> bytes:
    return msgspec.json.encode(document) + b"\n"


def _error_body(error: RouterError, _: str) -> bytes:
    return _line({"error": str(error)})


def _error_event(fields: ErrorFields, _: int) -> bytes:
    return _line({"error": fields["message"]})


def _piece(info: StreamInfo, *, content: str = "", thinking: str = "") -> bytes:
    """Return a line that adds *content* and *thinking*, perhaps neither, to the answer."""
    # The official clients decode each line as a piece of the answer. So there is nothing like
    # a comment, and no empty line.
    text = {"thinking": thinking} if thinking else {}
    piece: dict[str, Any] = {"model": info.model, "created_at": timestamp(info.created_s)}
    if info.path == _CHAT:
        piece["message"] = {"role": "assistant", "content": content, **text}
    else:
        piece |= {"response": content, **text}
    return _line(piece | {"done": False})


def _notice(info: StreamInfo, sentence: str) -> bytes:
    # As a thought: programs show thoughts apart from the answer, and keep them out of the
    # history.
    return _piece(info, thinking="" if info.hides_thinking else marked(sentence))


def _keepalive(info: StreamInfo) -> bytes:
    return _piece(info)


def failure_lines(info: StreamInfo, error: RouterError, *, begun: bool) -> bytes:
    """Return the last lines of a stream that *error* ends: a piece of the answer, and the error.

    Some chat pages, Open WebUI among them, ignore lines with an error. In the piece their
    users see why there is no answer, or why it ends.

    Args:
        info: The request that the stream answers.
        error: The error.
        begun: A part of the model's answer was sent.
    """
    sentence = f"Error: {error}"
    return _piece(info, content=f"\n\n{sentence}" if begun else sentence) + OLLAMA.last_event(error)


OLLAMA: Final = ApiDialect(
    name="Ollama",
    # Another path below /api/ may be a backend's.
    paths=dict.fromkeys(
        (
            *(_CHAT, "/api/generate", "/api/embed", "/api/embeddings", "/api/show"),
            *("/api/pull", "/api/create", "/api/copy", "/api/push"),
        ),
        POST,
    )
    | {"/api/tags": GET, "/api/ps": GET, "/api/version": GET}
    | {"/api/delete": frozenset(("DELETE",))},
    path_prefixes=("/api/blobs/",),
    served_by_router=True,
    error_body=_error_body,
    error_event=_error_event,
    notice=_notice,
    keepalive=_keepalive,
    request_id_header=None,
)
