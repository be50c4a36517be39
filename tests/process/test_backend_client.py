"""The client for backends, against a socket that answers as a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from llama_router.backends.backend import Backend
from llama_router.backends.client import BackendExchange, Timeouts, fetch
from llama_router.core.config.names import ModelId
from llama_router.core.config.parse import parse_config
from llama_router.errors.backends import BackendExitedError, UpstreamError
from llama_router.errors.requests import RequestError

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

MODEL = ModelId("a")

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"

Answer = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def answering(answer: Answer) -> AsyncIterator[Backend]:
    """Yield a backend whose every connection gets *answer* after its request's head."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            received = b""
            while b"\r\n\r\n" not in received:
                if not (data := await stream.receive_some()):
                    return
                received += data
            await answer(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        spec = parse_config({"models": {"a": {"spawn": {"command": ["true"]}}}}).models[MODEL]
        yield Backend(MODEL, spec, "127.0.0.1", port, pid=1, spawned_s=0, ready_s=0)
        nursery.cancel_scope.cancel()


def sends(*pieces: bytes) -> Answer:
    """Return an answer of these pieces."""

    async def answer(stream: trio.SocketStream) -> None:
        for piece in pieces:
            await stream.send_all(piece)

    return answer


async def get(backend: Backend, *, max_bytes: int = 100) -> bytes:
    """Return the body that a fetch gets."""
    return (await fetch(backend, "/x", max_bytes=max_bytes, timeout_s=60)).body


async def test_an_answer_within_the_limit_is_returned_whole() -> None:
    """Its status and its fields come along."""
    async with answering(sends(HEAD + b"content-length: 4\r\n\r\n", b"1234")) as backend:
        response = await fetch(backend, "/x", max_bytes=4, timeout_s=60)
    assert (response.status, response.body) == (200, b"1234")
    assert response.get(b"content-type") == b"application/json"


async def test_an_answer_over_the_limit_is_refused() -> None:
    """The error names the model; what comes after the limit is not read."""
    async with answering(sends(HEAD + b"\r\n", b"12345")) as backend:
        with pytest.raises(UpstreamError, match="backend of model 'a' is over 4 bytes"):
            await get(backend, max_bytes=4)


async def test_an_error_status_is_an_answer_to_a_fetch() -> None:
    """Its caller decides."""
    head = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
    async with answering(sends(head)) as backend:
        response = await fetch(backend, "/x", max_bytes=4, timeout_s=60)
    assert response.status == 404


async def test_a_refusal_bears_the_sentence_of_the_backend() -> None:
    """A 4xx of the backend is the client's error."""
    body = b'{"error": {"message": "no such thing"}}'
    head = b"HTTP/1.1 404 Not Found\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with answering(sends(head + body)) as backend:
        exchange = BackendExchange(backend, Timeouts(connection_s=60, silence_s=60))
        with exchange, pytest.raises(RequestError, match="no such thing") as caught:
            await exchange.request("GET", "/x")
    assert caught.value.status == 404


@pytest.mark.parametrize(
    ("pieces", "symptom"),
    [
        ((), "it closed the connection without an answer"),
        ((HEAD + b"content-length: 4\r\n\r\n", b"1"), "it closed the connection mid-answer"),
        ((b"nonsense\r\n\r\n",), "it broke the rules of HTTP"),
    ],
)
async def test_a_broken_exchange_names_the_model(pieces: tuple[bytes, ...], symptom: str) -> None:
    """Whatever broke it is in the sentence."""
    async with answering(sends(*pieces)) as backend:
        with pytest.raises(UpstreamError, match=f"backend of model 'a' failed: {symptom}"):
            await get(backend)


async def test_the_end_of_the_process_explains_a_broken_exchange() -> None:
    """The connection broke because of it."""

    async def answer(_: trio.SocketStream) -> None:
        backend.end(BackendExitedError("a", -9))

    async with answering(answer) as backend:
        with pytest.raises(BackendExitedError):
            await get(backend)


async def test_what_http_does_not_allow_is_not_sent() -> None:
    """It is an error of the exchange, not of the router."""
    async with answering(sends()) as backend:
        with pytest.raises(UpstreamError, match="cannot be sent '/x y'"):
            await fetch(backend, "/x y", max_bytes=4, timeout_s=60)


async def test_interim_responses_without_end_are_given_up() -> None:
    """A few are skipped, but not any number."""
    hint, end = b"HTTP/1.1 103 Hint\r\n\r\n", HEAD + b"content-length: 1\r\n\r\n1"
    async with answering(sends(hint * 3 + end)) as backend:
        assert await get(backend) == b"1"
    async with answering(sends(hint * 1000 + end)) as backend:
        with pytest.raises(UpstreamError, match="model 'a' sent 128 interim responses"):
            await get(backend)
