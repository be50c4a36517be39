"""``llama-router bench MODEL``: figures of a model as clients get them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.process.real import (
    environment,
    home,
    program_table,
    run_cli,
    serving,
    write_config,
)
from tests.process.terminal import terminal

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

#: A backend with a token for each word; it refuses prompts of more than 1,000 words, and may give
#: the fourth request no end.
_COUNTING = r"""
import http.server, itertools, json, socket, sys, threading

asked = itertools.count(1)

class Handler(http.server.BaseHTTPRequestHandler):
    disable_nagle_algorithm = True

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        number = next(asked)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = len(body["messages"][0]["content"].split())
        if words > 1000:
            text = json.dumps({"error": {"code": 400, "message": "the context is too small"}})
            self.send_response(400)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for _ in range(body["max_tokens"]):
            self.put({"choices": [{"index": 0, "delta": {"content": "word "}}]})
        if number == 4 and sys.argv[2:]:
            if sys.argv[2] != "0":
                socket.create_connection(("127.0.0.1", int(sys.argv[2])))
            threading.Event().wait()
        usage = {"prompt_tokens": words + 5, "completion_tokens": body["max_tokens"]}
        self.put({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def put(self, event):
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def write_models(folder: Path, port: str = "0") -> Path:
    """Write a configuration with two models; the fourth request to the second has no end.

    It connects to *port* when that request comes, unless it is 0.
    """
    return write_config(
        folder,
        program_table(folder, "counting", _COUNTING),
        program_table(folder, "endless", _COUNTING, port),
    )


async def test_figures_for_scripts(tmp_path) -> None:
    """Prompts have the wanted tokens, each client asks once, and a refusal does not end it."""
    config = write_models(tmp_path)
    words = ("--clients", "1,3", "--tokens", "4", "--seconds", "0", "-c", str(config))
    async with serving(config):
        done = await run_cli(
            *("bench", "counting", "--prompt", "50,5000", "--cold", "--json", *words),
            folder=tmp_path,
        )
        assert done.stderr == b""
        figures = json.loads(done.stdout)
        again = await run_cli("bench", "counting", "--prompt", "9", *words, folder=tmp_path)
    assert done.returncode == 0
    assert figures["load_s"] > 0
    assert figures["complete"]
    levels = [
        (level["prompt_tokens"], level["clients"], level["answers"], level["failed"])
        for level in figures["levels"]
    ]
    assert levels == [(50, 1, 1, 0), (50, 3, 3, 0), (None, 1, 0, 1), (None, 3, 0, 3)]
    assert figures["levels"][1]["tokens"] == 12
    assert figures["levels"][1]["ttft_s"] > 0
    assert figures["levels"][3]["failures"] == ["the context is too small"]
    assert b"was loaded in" not in again.stdout  # it was there already
    assert b"FIRST TOKEN is the median" in again.stdout


async def test_ctrl_c_keeps_what_was_measured(tmp_path) -> None:
    """The exit status says that it is not all of it."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    config = write_models(tmp_path, str(port))
    words = ("bench", "endless", "--prompt", "20,30,40", "--clients", "1", "--seconds", "0")
    async with listener, serving(config):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "llama_router", *words, "--json", "-c", str(config)],
            cwd=tmp_path,
            env=environment(**home(tmp_path)),
            stdout=subprocess.PIPE,
        )
        async with await listener.accept():  # the first one is measured, and the second asked for
            pass
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        printed = b"".join([piece async for piece in process.stdout])
        assert await process.wait() == 130
    figures = json.loads(printed)
    assert not figures["complete"]
    assert figures["levels"][0]["answers"] == 1


async def test_a_terminal_shows_how_far_it_is(tmp_path) -> None:
    """The table is there at the end, and the terminal is left clean."""
    config = write_models(tmp_path)
    words = ("bench", "endless", "--prompt", "20,30", "--clients", "1", "--seconds", "0")
    async with (
        serving(config),
        terminal(*words, "-c", str(config), folder=tmp_path) as shown,
    ):
        await shown.shows("2 of 2: prompts of 30 tokens, 1 client, 0 answers")
        shown.type("\x03")
        assert await shown.ended() == 130
        assert "FIRST TOKEN" in shown.text
        assert "2 of 2" not in shown.text
        assert not shown.cursor_is_hidden


async def test_what_cannot_be_measured_is_said_at_once(tmp_path) -> None:
    """Wrong options, a misspelt model, and no router."""
    config = write_models(tmp_path)
    done = await run_cli("bench", "counting", "--clients", "1,x", folder=tmp_path)
    assert done.returncode == 2
    assert b"--clients is numbers from 1 to 256" in done.stderr
    done = await run_cli("bench", "counting", "-c", str(config), folder=tmp_path)
    assert done.returncode == 1
    assert b"no router is running" in done.stderr
    async with serving(config):
        done = await run_cli("bench", "conting", "-c", str(config), folder=tmp_path)
        assert done.returncode == 1
        assert b"did you mean counting?" in done.stderr
