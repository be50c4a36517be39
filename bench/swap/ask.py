"""The chat request that every contestant gets, and the health request."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import time

from bench.programs import HOST

_LIMIT_S = 120


#: Pause before a request that got 503 is sent again, in seconds.
_AGAIN_S = 0.002


class AskError(Exception):
    """The response to a request was not 200; the text has the response."""


def ask(port: int, model: str) -> int:
    """Send a chat request for one token, not streamed, until its response is 200.

    The response 503 means that the model is still loading: llama.cpp's router passes requests
    on a moment too early. The time until a later request succeeds counts as part of the swap.

    Returns:
        How often the request was sent again.

    Raises:
        AskError: if the connection fails, or the response is another one.
    """
    messages = [{"role": "user", "content": "Hello"}]
    body = json.dumps({"model": model, "messages": messages, "max_tokens": 1}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    give_up_s = time.perf_counter() + _LIMIT_S
    answer = b""
    for again in itertools.count():
        try:
            answer = _exchange(port, head.encode() + body)
        except OSError as error:
            raise AskError(f"the request for {model} failed: {error}") from error
        if answer.startswith(b"HTTP/1.1 200 "):
            return again
        if not answer.startswith(b"HTTP/1.1 503 ") or time.perf_counter() > give_up_s:
            break
        time.sleep(_AGAIN_S)
    raise AskError(f"the request for {model} failed: {answer[:1000]!r}")


def healthy(port: int) -> bool:
    """Return whether /health responds with 200."""
    with contextlib.suppress(OSError):
        request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        return _exchange(port, request).startswith(b"HTTP/1.1 200 ")
    return False


def _exchange(port: int, request: bytes) -> bytes:
    """Send *request*; return all bytes until the server closes the connection."""
    with socket.create_connection((HOST, port), timeout=_LIMIT_S) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer
