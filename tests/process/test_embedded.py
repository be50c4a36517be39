"""The embedded llama.cpp server behaves like llama-server, as a program and as a child."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from llama_router.devices.host import HostReader
from llama_router.devices.process_memory import host_footprint_mib
from llama_router.models.tiny.bert import make_embedding_model, make_rerank_model
from llama_router.models.tiny.chat import make_chat_model
from llama_router.models.tiny.words import WORDS
from tests.limits import LIMIT_S
from tests.process.harness import free_port

pytest.importorskip("xllamacpp", reason="the extra 'embedded' is not installed")
pytestmark = [pytest.mark.process, pytest.mark.embedded]

PROMPT_EXIT_S = 5.0  # it takes about 1 ms; waiting for open streams would take 10 s and more
COMMAND = [sys.executable, "-m", "llama_router.backends.embedded"]
ROOT = Path(__file__).parents[2]
CHAT = {"messages": [{"role": "user", "content": "what do you see"}]}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A directory with chat.gguf, other.gguf (another seed), embedding.gguf and rerank.gguf."""
    directory = tmp_path_factory.mktemp("models")
    make_chat_model(directory / "chat.gguf", name="tiny-chat")
    make_chat_model(directory / "other.gguf", name="tiny-chat", seed=9)
    make_embedding_model(directory / "embedding.gguf")
    make_rerank_model(directory / "rerank.gguf")
    return directory


class Child:
    """The program as a child of a router: its protocol, and its HTTP port."""

    def __init__(self, process: trio.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=LIMIT_S
        )
        self._buffer = b""

    async def line(self) -> bytes:
        """Return the next line of stdout, empty at its end."""
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            received = await self.process.stdout.receive_some()
            if not received:
                return b""
            self._buffer += received
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def state(self) -> str:
        """Return the state that the next line reports."""
        prefix, _, report = (await self.line()).partition(b"cmd_child_to_router:state:")
        assert prefix == b""
        return json.loads(report)["state"]

    async def ready(self) -> None:
        """Wait until the child says that it is ready."""
        while await self.state() != "ready":
            pass

    async def order(self, text: bytes) -> None:
        """Write to the child's stdin."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(text)

    async def hang_up(self) -> None:
        """Close the child's stdin."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()

    async def exit_code(self) -> int:
        """Wait for the end, which must be prompt."""
        with trio.fail_after(PROMPT_EXIT_S):
            return await self.process.wait()


def environment(**more: str) -> dict[str, str]:
    ours = {key: value for key, value in os.environ.items() if not key.startswith("LLAMA_")}
    return ours | {"PYTHONPATH": str(ROOT)} | more


@asynccontextmanager
async def start(model: Path, *flags: str) -> AsyncIterator[Child]:
    """Run the program as a router would; it is gone afterwards, whatever happened."""
    port = free_port()
    process = await trio.lowlevel.open_process(
        [*COMMAND, "-m", str(model), "--host", "127.0.0.1", "--port", str(port), *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(LLAMA_SERVER_ROUTER_PORT="1"),
    )
    child = Child(process, port)
    try:
        with trio.fail_after(LIMIT_S):
            yield child
    finally:
        process.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
            await process.wait()
            await process.stdout.aclose()
            await process.stdin.aclose()
            await child.http.aclose()


async def run_to_end(*flags: str) -> subprocess.CompletedProcess[bytes]:
    """Run the program by itself, which must end on its own."""
    with trio.fail_after(LIMIT_S):
        return await trio.run_process(
            [*COMMAND, *flags],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=environment(),
        )


async def answer(child: Child, **more: object) -> str:
    response = await child.http.post("/v1/chat/completions", json=CHAT | more)
    assert response.status_code == 200
    return response.json()["choices"][0]["message"]["content"]


def fifo(path: Path) -> Path:
    """Return a model file that a server can open, but never finish loading."""
    os.mkfifo(path)
    return path


async def test_chat_answers_with_readable_words(models) -> None:
    """A completion has exactly as many of the model's words as were asked for."""
    async with start(models / "chat.gguf") as child:
        await child.ready()
        words = (await answer(child, max_tokens=20)).split()
    assert len(words) == 20
    assert set(words) <= set(WORDS)


async def test_another_seed_gives_another_answer(models) -> None:
    """Two models that differ in their seed can be told apart by what they say."""
    answers = []
    for model in ("chat.gguf", "other.gguf"):
        async with start(models / model) as child:
            await child.ready()
            answers.append(await answer(child, max_tokens=20, temperature=0))
    assert answers[0] != answers[1]


async def test_stream_ends_with_usage_and_done(models) -> None:
    """SSE: one event per token, then the figures that were asked for, then [DONE]."""
    body = CHAT | {"stream": True, "max_tokens": 6, "stream_options": {"include_usage": True}}
    async with start(models / "chat.gguf") as child:
        await child.ready()
        response = await child.http.post("/v1/chat/completions", json=body)
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert response.headers["content-type"] == "text/event-stream"
    assert events.pop() == "[DONE]"
    *chunks, last = map(json.loads, events)
    deltas = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert len([text for text in deltas if text]) == 6
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 6


async def test_embeddings(models) -> None:
    """``--embeddings`` serves vectors, the same for the same text."""
    texts = ["the water", "my model", "the water"]
    async with start(models / "embedding.gguf", "--embeddings") as child:
        await child.ready()
        response = await child.http.post("/v1/embeddings", json={"input": texts})
    first, second, third = (entry["embedding"] for entry in response.json()["data"])
    assert len(first) == 64
    assert first == pytest.approx(third, abs=1e-5)
    assert first != pytest.approx(second, abs=1e-2)


async def test_rerank(models) -> None:
    """``--reranking`` gives every document a score of its own."""
    body = {"query": "water", "documents": ["the water", "a router"]}
    async with start(models / "rerank.gguf", "--reranking") as child:
        await child.ready()
        response = await child.http.post("/v1/rerank", json=body)
    results = response.json()["results"]
    assert {result["index"] for result in results} == {0, 1}
    assert results[0]["relevance_score"] != results[1]["relevance_score"]


async def test_child_reports_loading_then_ready_and_is(models) -> None:
    """/health answers 200 as soon as the line with "ready" is out."""
    async with start(models / "chat.gguf") as child:
        assert await child.state() == "loading"
        await child.ready()
        assert (await child.http.get("/health")).status_code == 200


@pytest.mark.parametrize("moment", ["loading", "ready"])
@pytest.mark.parametrize("farewell", ["order", "end of file"])
async def test_child_ends_when_the_router_says_so_or_is_gone(models, moment, farewell) -> None:
    """The exit order and the end of stdin both end a child, early or late."""
    async with start(models / "chat.gguf") as child:
        while await child.state() != moment:
            pass
        if farewell == "order":
            await child.order(b"something else\ncmd_router_to_child:exit\n")
        else:
            await child.hang_up()
        assert await child.exit_code() == 0


async def test_child_stays_after_an_unknown_order(models) -> None:
    """Only the exit order ends it."""
    async with start(models / "chat.gguf") as child:
        await child.ready()
        await child.order(b"cmd_router_to_child:dance\n")
        assert await answer(child, max_tokens=1)
        assert child.process.returncode is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_it_at_once_with_an_open_stream(tmp_path, number) -> None:
    """A stream that would go on for long is cut, and does not delay the exit."""
    model = tmp_path / "long.gguf"
    make_chat_model(model, name="long", n_ctx=100_000)  # about 10 s of tokens
    body = json.dumps(CHAT | {"stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    async with start(model) as child:
        await child.ready()
        async with await trio.open_tcp_stream("127.0.0.1", child.port) as stream:
            await stream.send_all(head % len(body) + body)
            received = b""
            while b"data:" not in received:
                received += await stream.receive_some()
            child.process.send_signal(number)
            assert await child.exit_code() == 0
            async for chunk in stream:
                received += chunk
    assert b"[DONE]" not in received


async def test_signal_ends_it_at_once_while_it_loads(tmp_path) -> None:
    """SIGTERM works, with exit code 0, while llama.cpp is busy with the model file."""
    model = fifo(tmp_path / "endless.gguf")
    async with start(model) as child:
        # Opening the other end returns when the server has opened the file.
        writer = await trio.to_thread.run_sync(os.open, model, os.O_WRONLY)
        try:
            child.process.terminate()
            assert await child.exit_code() == 0
        finally:
            os.close(writer)


async def test_without_the_variable_stdin_and_stdout_are_left_alone(models) -> None:
    """By itself it serves with a closed stdin, and prints no protocol."""
    port = free_port()
    command = [*COMMAND, "-m", str(models / "chat.gguf"), "--port", str(port)]
    with trio.fail_after(LIMIT_S):
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        try:
            log = b""
            while b"listening on" not in log:
                received = await process.stderr.receive_some()
                assert received, f"it ended: {log!r}"
                log += received
            child = Child(process, port)
            assert await answer(child, max_tokens=1)
            process.terminate()
            assert await child.exit_code() == 0
            assert await child.line() == b""
            await child.http.aclose()
        finally:
            process.kill()
            await process.wait()
            await process.stdout.aclose()
            await process.stderr.aclose()


async def test_taken_port_is_an_error(models) -> None:
    """It neither hangs nor shares the port."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = str(stranger.getsockname()[1])
        model = str(models / "chat.gguf")
        done = await run_to_end("-m", model, "--host", "127.0.0.1", "--port", port)
    assert done.returncode == 1
    assert b"couldn't bind" in done.stderr
    assert b"error: llama.cpp's server could not start" in done.stderr


async def test_corrupt_model_is_an_error(tmp_path) -> None:
    """The log says what is wrong with the file."""
    model = tmp_path / "corrupt.gguf"
    model.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 200)
    done = await run_to_end("-m", str(model), "--port", "0")
    assert done.returncode == 1
    assert b"number of tensors is -1" in done.stderr
    assert b"error: llama.cpp's server could not start" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nonsense"], b"invalid argument: --nonsense"),
        (["--port", "many"], b'error while handling argument "--port"'),
        (["--port", "0"], b"a model file is needed: -m FILE"),
        (["-m", "/nowhere/x.gguf", "--port", "0"], b"No such file or directory"),
    ],
)
async def test_bad_command_lines_are_explained(flags, message) -> None:
    """The exit code is 1, and stderr names the problem."""
    done = await run_to_end(*flags)
    assert done.returncode == 1
    assert message in done.stderr


@pytest.mark.parametrize(("flag", "text"), [("--help", b"--ctx-size"), ("--version", b"version:")])
async def test_help_and_version(flag, text) -> None:
    """They print, and exit with 0."""
    done = await run_to_end(flag)
    assert done.returncode == 0
    assert text in done.stdout + done.stderr


async def test_without_xllamacpp_the_error_names_the_extra() -> None:
    """Who lacks the wheel learns how to get it."""
    code = (
        "import sys; sys.modules['xllamacpp'] = None\n"
        "from llama_router.backends.embedded import main; sys.exit(main([]))"
    )
    done = await trio.run_process(
        [sys.executable, "-c", code], capture_stderr=True, check=False, env=environment()
    )
    assert done.returncode == 1
    assert b"install llama-router[embedded]" in done.stderr


@pytest.mark.parametrize("mode", ["mmap", "none"])
async def test_its_footprint_has_the_model_once(tmp_path: Path, mode: str) -> None:
    """Whether the file is mapped or read; only what was read is held."""
    model = tmp_path / "chat.gguf"
    make_chat_model(model, name="chat", size_mb=60)
    size_mib = model.stat().st_size / 2**20
    async with start(model, "--load-mode", mode) as child:
        await child.ready()
        pid = child.process.pid
        needed_mib = host_footprint_mib([pid], [model])
        (host,) = HostReader().read(frozenset([pid])).devices
        assert host.processes is not None
        held_mib = host.processes[pid]
    assert size_mib < needed_mib < 2 * size_mib
    assert (held_mib > size_mib) is (mode == "none")
