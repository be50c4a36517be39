"""The endpoints that backends are known to serve: their methods, and whose API they are of. Pure.

Other paths are passed on as well; of these it is known what a mistake looks like.

Sources: https://platform.openai.com/docs/api-reference, https://docs.anthropic.com/en/api and
llama.cpp, tools/server/README.md.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Api(StrEnum):
    """Whose clients an endpoint is for, and hence what its errors look like."""

    OPENAI = "openai"  # also for whatever is not known here
    ANTHROPIC = "anthropic"
    LLAMA_CPP = "llama.cpp"


_POST: Final = frozenset({"POST"})
_GET: Final = frozenset({"GET", "HEAD"})

_OPENAI: Final = dict.fromkeys(
    (
        *("/v1/chat/completions", "/chat/completions", "/v1/completions", "/v1/responses"),
        *("/v1/embeddings", "/v1/rerank", "/v1/reranking", "/v1/moderations"),
        *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech"),
        *("/v1/images/generations", "/v1/images/edits", "/v1/images/variations"),
    ),
    _POST,
)
_ANTHROPIC: Final = dict.fromkeys(("/v1/messages", "/v1/messages/count_tokens"), _POST)
_LLAMA_CPP: Final = dict.fromkeys(
    (
        *("/completion", "/completions", "/infill", "/embedding", "/embeddings"),
        *("/rerank", "/reranking", "/tokenize", "/detokenize", "/apply-template"),
    ),
    _POST,
) | {"/lora-adapters": _GET | _POST}
_OF_ALL: Final = {"/health": _GET, "/v1/health": _GET, "/slots": _GET, "/props": _GET | _POST}

_METHODS: Final = _OPENAI | _ANTHROPIC | _LLAMA_CPP | _OF_ALL


def methods_of(path: str) -> frozenset[str] | None:
    """Return the methods that *path*, decoded, has; None if it is not known here."""
    return _METHODS.get(path)


def api_of(path: str) -> Api:
    """Return whose API *path*, decoded, is of, also where the name of a model stands before it."""
    if path.endswith(tuple(_ANTHROPIC)):
        return Api.ANTHROPIC
    if path.startswith("/upstream/"):
        before, _, last = path.rpartition("/")
        path = f"/v1/{last}" if before.endswith(("/v1", "/chat")) else f"/{last}"
    if path in _LLAMA_CPP or path.startswith("/slots/"):
        return Api.LLAMA_CPP
    return Api.OPENAI
