"""``llama-router embed``: vectors of texts, for scripts and on a terminal."""

from __future__ import annotations

import json
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
    said,
    serving,
    write_config,
)
from tests.process.terminal import terminal

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

#: A backend whose vector of a text is its length and its number of words; it refuses "long", as
#: llama-server refuses what is larger than its batch.
_LENGTHS = r"""
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, {})

    def do_POST(self):
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        if "long" in texts:
            words = "input (9000 tokens) is too large to process"
            self.answer(500, {"error": {"code": 500, "message": words, "type": "server_error"}})
            return
        vectors = [[len(text), len(text.split())] for text in texts]
        data = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        self.answer(200, {"data": data, "usage": {"prompt_tokens": 7}})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration with a model for embeddings."""
    return write_config(tmp_path, program_table(tmp_path, "lengths", _LENGTHS))


async def embedded(folder: Path, *words: str, typed: bytes = b"") -> tuple[int, str, str]:
    """Run the command with *typed* on a pipe; return exit status, output and errors."""
    return await said(folder, "embed", *words, typed=typed)


async def test_each_text_is_a_line(tmp_path, config) -> None:
    """In the order of the texts; a text without a word keeps its place, and JSON has all of it."""
    async with serving(config):
        assert await embedded(tmp_path, "lengths", "a b", "abc") == (0, "[3,2]\n[3,1]\n", "")
        typed = "eins\r\n\nzwölf Uhr".encode()
        assert await embedded(tmp_path, "lengths", typed=typed) == (0, "[4,1]\nnull\n[9,2]\n", "")
        _, out, _ = await embedded(tmp_path, "lengths", "a", "--json")
        texts = [{"text": "a", "vector": [1, 1]}]
        assert json.loads(out) == {"model": "lengths", "prompt_tokens": 7, "texts": texts}


async def test_a_text_that_is_refused_is_named(tmp_path, config) -> None:
    """What was before it is printed, and a cure is told; input that is no text is named, too."""
    async with serving(config):
        status, out, err = await embedded(tmp_path, "lengths", typed=b"one\nlong\nthree\n")
        assert (status, out) == (1, "[3,1]\n")
        assert err.startswith("error: text 2 ('long') has no vector: input (9000 tokens)")
        assert "'--ubatch-size'" in err
        status, _, err = await embedded(tmp_path, "lengths", typed=b"one\n\xff\n")
        assert status == 1
        assert "line 2 of the input is not text" in err
        _, _, err = await embedded(tmp_path, "length", "x")
        assert "did you mean lengths?" in err


async def test_lines_are_answered_as_they_come(tmp_path, config) -> None:
    """A program that writes a line and waits for its vector gets it."""
    async with serving(config):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "llama_router", "embed", "lengths", "-c", str(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=tmp_path,
            env=environment(**home(tmp_path)),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with process.stdin:
            for line in (b"one", b"three"):
                await process.stdin.send_all(line + b"\n")
                got = b""
                while not got.endswith(b"\n"):
                    piece = await process.stdout.receive_some()
                    assert piece, "it ended"
                    got += piece
                assert json.loads(got) == [len(line), 1]
        assert await process.wait() == 0


async def test_a_terminal_gets_a_table(tmp_path, config) -> None:
    """It says how much each text is like the first one; without a text it asks for one."""
    async with serving(config):
        words = ("embed", "lengths", "-c", str(config))
        async with terminal(*words, "a", "b c", folder=tmp_path, columns=60) as shown:
            assert await shown.ended() == 0
            assert "0.981" in shown.text
        async with terminal(*words, folder=tmp_path) as shown:
            assert await shown.ended() == 2
            assert "there is no text" in shown.text
    status = await run_cli("embed", "lengths", "a", folder=tmp_path)
    assert status.returncode == 1
    assert b"no router is running" in status.stderr
