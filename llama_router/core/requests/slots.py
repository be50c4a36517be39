"""Requests that take a slot of their backend, and so count for ``max_in_flight``. Pure.

A slot is what a backend has few of: the memory and the turns of one generation, embedding or
scoring. Anything else is answered beside them, and need not wait for one.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

#: Methods of requests that change nothing.
_LOOKS: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))

#: Methods of requests that take no slot, whatever their path.
_WITHOUT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"DELETE"))

#: Paths to which a POST takes no slot: counts and translations of tokens, settings, control of
#: a generation that has its slot already. Source: llama.cpp, tools/server; vLLM's API server;
#: Anthropic's and OpenAI's APIs.
_POSTS_WITHOUT: Final = frozenset(
    (
        *(b"/tokenize", b"/detokenize", b"/apply-template", b"/v1/tokenize", b"/v1/detokenize"),
        *(b"/v1/messages/count_tokens", b"/messages/count_tokens"),
        *(b"/chat/completions/input_tokens", b"/v1/chat/completions/input_tokens"),
        *(b"/responses/input_tokens", b"/v1/responses/input_tokens"),
        *(b"/v1/chat/completions/control", b"/v1/streams/lookup"),
        *(b"/props", b"/lora-adapters", b"/cors-proxy", b"/tools"),
        *(b"/v1/load_lora_adapter", b"/v1/unload_lora_adapter"),
    )
)

#: The segment of a path by which llama-server changes its slots; ``--api-prefix`` may precede it.
_SLOTS: Final = "slots"


def acts_on_slots(method: bytes, path: bytes) -> bool:
    """Return whether a request saves, restores or erases slots of a llama-server.

    Args:
        method: As received.
        path: The path at the backend, still percent-encoded.
    """
    if method in _LOOKS or not (b"slots" in path or b"%" in path):
        return False
    return _SLOTS in unquote(path.decode("latin-1")).split("/")


def takes_slot(method: bytes, target: bytes, *, upgrade: bool) -> bool:
    """Return whether a request takes a slot of its backend.

    An unknown POST does, and so does a WebSocket: whole conversations go over it.

    Args:
        method: As received.
        target: The request target at the backend: a path, perhaps with a query.
        upgrade: It is a handshake for WebSocket.
    """
    if method in _WITHOUT:
        return upgrade
    if b"?" in target:
        target = target[: target.index(b"?")]
    return target not in _POSTS_WITHOUT
