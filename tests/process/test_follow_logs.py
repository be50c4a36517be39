"""The logs of models, over HTTP and on the command line, with and without a router."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.process.harness import Answer, RawClient, Router, request
from tests.process.real import LIMIT_S, environment, run_cli, serving, write_config

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]

#: A backend that prints what it is told to.
_PRINTER = """
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        rest = body["say"].encode()
        while rest:
            rest = rest[os.write(1, rest):]
        self.do_GET()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def printing(name: str = "m", *lines: str) -> str:
    """Return the table of a model whose backend prints what it is asked to."""
    command = [sys.executable, "-I", "-S", "-c", _PRINTER, "$port"]
    table = f'[models."{name}"]\nspawn.command = {json.dumps(command)}\n'
    return table + "".join(f"{line}\n" for line in lines)


def fields(folder: Path) -> dict[str, str]:
    """Return the header fields with the token of the router whose state is below *folder*."""
    return {"authorization": f"Bearer {(folder / 'state' / 'admin-token').read_text().strip()}"}


async def say(client: httpx.AsyncClient, text: str, model: str = "m") -> None:
    """Let the backend of *model* print *text*."""
    response = await client.post("/v1/say", json={"model": model, "say": text})
    assert response.status_code == 200, response.text


def printed(records: list[dict[str, Any]]) -> list[str]:
    """Return what the backends said in *records*."""
    return [record["line"] for record in records if "by" not in record]


class Follow:
    """``llama-router logs`` as a process, line by line."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._buffer = b""

    async def line(self) -> str:
        """Return the next line."""
        assert self.process.stdout is not None
        while b"\n" not in self._buffer:
            data = await self.process.stdout.receive_some()
            assert data, "it ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode()

    async def until(self, text: str) -> list[str]:
        """Return the lines up to the first one that has *text*."""
        lines = [await self.line()]
        while text not in lines[-1]:
            lines.append(await self.line())
        return lines


@asynccontextmanager
async def following(folder: Path, *arguments: str) -> AsyncIterator[Follow]:
    """Run ``llama-router logs``; at the end it gets Ctrl-C, and must end at once and quietly."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "llama_router", "logs", *arguments],
        cwd=folder,
        env=environment(HOME=str(folder), XDG_CONFIG_HOME=str(folder / "config")),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        yield Follow(process)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        assert b"Traceback" not in await process.stderr.receive_some()
    finally:
        process.kill()
        await trio.aclose_forcefully(process.stdout)
        await trio.aclose_forcefully(process.stderr)


# --- Over HTTP ------------------------------------------------------------------------


async def logs(router: Router, target: str, **more: str) -> Answer:
    """Ask a router of this process for logs."""
    return await router.ask(
        request("GET", f"/admin/logs/{target}", **fields(router.path.parent), **more)
    )


async def follow(router: Router, target: str) -> RawClient:
    """Return a connection on which the head of an endless answer was read."""
    client = await router.connect()
    await client.send(request("GET", f"/admin/logs/{target}", **fields(router.path.parent)))
    head = await client.head()
    assert (head.status, head.fields["content-type"]) == (200, "application/x-ndjson")
    return client


async def records(client: RawClient, text: str) -> list[dict[str, Any]]:
    """Return records up to the one whose line is *text*."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["line"] != text:
        chunk = await client.chunk()
        assert chunk, f"it ended after {found}"
        found += map(json.loads, chunk.splitlines())
    return found


async def test_the_last_lines_are_returned(start, stage) -> None:
    """As JSON lines or as text, as asked or accepted; by name or alias, and only with a token."""
    router = await start({"a/b": stage.model("a", aliases=["x"])})
    model_log = _log_of(router, "a/b")
    model_log.mark("pid 1 started")
    model_log.write(b"1\n2\x1b[31m\n\xe2\x80\xae3\n")
    answer = await logs(router, "a/b?tail=3")
    assert answer.fields["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["line"] for line in answer.body.splitlines()] == ["1", "2", "\\u202e3"]
    everything = [json.loads(line) for line in (await logs(router, "x")).body.splitlines()]
    assert [line.get("by") for line in everything] == ["router", None, None, None]
    for target, more in (("x?format=text", {}), ("x", {"accept": "text/plain"})):
        text = await logs(router, target, **more)
        assert text.fields["content-type"].startswith("text/plain")
        assert re.fullmatch(
            rb"\S+Z \* pid 1 started\n\S+Z \| 1\n\S+Z \| 2\n\S+Z \| \\u202e3\n", text.body
        )
    refused = await router.ask(request("GET", "/admin/logs/x"))
    assert (refused.status, refused.error["code"]) == (401, "invalid_admin_token")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("none", 404, "model_not_found"),
        ("..%2f..%2frouter", 404, "model_not_found"),
        ("a?tail=-1", 400, "invalid_request"),
        ("a?tail=99999999999999999999", 400, "invalid_request"),
        ("a?tail=" + "0" * 5000, 400, "invalid_request"),
        ("a?tail=", 400, "invalid_request"),
        ("a?format=xml", 400, "invalid_request"),
        ("a?follow=2", 400, "invalid_request"),
    ],
)
async def test_a_wrong_question_is_refused(
    start, stage, target: str, status: int, code: str
) -> None:
    """With the reason, before anything is read."""
    router = await start({"a": stage.model("a")})
    answer = await logs(router, target)
    assert (answer.status, answer.error["code"]) == (status, code)


async def test_a_follower_hears_what_comes(start, stage) -> None:
    """First the past, then each line; its end is the router's."""
    router = await start({"a": stage.model("a")})
    model_log = _log_of(router, "a")
    model_log.write(b"1\n2\n3\n")
    client = await follow(router, "a?follow=1&tail=2")
    assert printed(await records(client, "3")) == ["2", "3"]
    model_log.write(b"4\n")
    assert printed(await records(client, "4")) == ["4"]
    model_log.mark("pid 2 started")
    model_log.write(b"5\n")
    assert [r["line"] for r in await records(client, "5")] == ["pid 2 started", "5"]
    router.requests.stop.set()
    assert await client.chunk() == b""
    await router.ended.wait()


async def test_a_follower_that_leaves_is_forgotten(start, stage) -> None:
    """Whether or not anything is printed afterwards."""
    router = await start({"a": stage.model("a")})
    model_log = _log_of(router, "a")
    before = len(model_log.listeners)
    model_log.write(b"1\n")
    client = await follow(router, "a?follow=1")
    assert printed(await records(client, "1")) == ["1"]
    assert len(model_log.listeners) == before + 1
    await trio.aclose_forcefully(client.stream)
    while len(model_log.listeners) > before:
        await trio.lowlevel.checkpoint()


def _log_of(router: Router, model: str) -> Any:
    launcher: Any = router.running.dispatcher._tasks._launch
    return launcher.logs.for_model(model)


# --- On the command line --------------------------------------------------------------


async def test_following_on_the_command_line(tmp_path: Path) -> None:
    """Across a restart of the backend, a rotation of its file, and a restart of the router."""
    config = write_config(
        tmp_path, printing("m", 'aliases = ["em"]'), router=["log_file_mib = 1", "log_files = 2"]
    )
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            await say(client, "one\ntwo\n")
            async with following(tmp_path, "-f", "-n", "1", "em") as command:
                assert (await command.line()).endswith(" | two")
                pid = (await router.event("backend.spawned"))["pid"]
                os.kill(pid, signal.SIGKILL)
                ended = await command.line()
                assert f" * pid {pid} ended with signal 9: " in ended
                await say(client, "three\n")
                assert " * pid " in await command.line()
                assert (await command.line()).endswith(" | three")
                for number in range(3):
                    await say(client, f"{'x' * 15_000}\n" * 30 + f"{number}\n")
                    lines = await command.until(f" | {number}")
                    assert len(lines) == 31
                router.signal(signal.SIGTERM)
                assert "the router is shutting down" in await command.line()
                assert (await command.line()).endswith("was ended by the router")
                async with serving(config) as again, again.client() as second:
                    await say(second, "four\n")
                    assert " * pid " in await command.line()
                    assert (await command.line()).endswith(" | four")


async def test_without_a_router_the_files_are_read(tmp_path: Path) -> None:
    """The past of a model, and in JSON, when nothing runs; a name without a log is an error."""
    config = write_config(tmp_path, printing())
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            await say(client, "one\n\x1b[2Jtwo\n")
        shown = await run_cli("logs", "m", folder=tmp_path)
        as_json = await run_cli("logs", "--json", "-n", "3", "m", folder=tmp_path)
        missing = await run_cli("logs", "other", folder=tmp_path)
    lines = shown.stdout.decode().splitlines()
    assert [line.partition(" ")[2] for line in lines[1:3]] == ["| one", "| two"]
    assert lines[-1].endswith("was ended by the router")
    last, *notes = map(json.loads, as_json.stdout.splitlines())
    assert (last["line"], *(note["by"] for note in notes)) == ("two", "router", "router")
    assert missing.returncode == 1
    assert b"no log of a model 'other'" in missing.stderr


async def test_a_reader_may_have_enough(tmp_path: Path) -> None:
    """`logs | head` ends without a complaint."""
    config = write_config(tmp_path, printing())
    command = shlex.join([sys.executable, "-m", "llama_router", "logs", "-n", "1000", "m"])
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            await say(client, f"{'x' * 150}\n" * 900)
            done = await trio.run_process(
                ["bash", "-o", "pipefail", "-c", f"{command} | head -n 1"],
                cwd=tmp_path,
                env=environment(HOME=str(tmp_path)),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 1


async def test_the_how_to_can_be_followed(tmp_path: Path) -> None:
    """Every command about logs of models that the page shows does what it should."""
    page = (ROOT / "docs" / "how-to" / "follow-logs.md").read_text()
    commands = re.findall(r"^\$ llama-router (logs .+)$", page, re.MULTILINE)
    (curl,) = re.findall(r"^\$ curl .* \"http://127.0.0.1:8082(/.+)\"$", page, re.MULTILINE)
    config = write_config(tmp_path, printing("qwen-7b"))
    with trio.fail_after(LIMIT_S):
        async with serving(config) as router, router.client() as client:
            await say(client, "hello\n", "qwen-7b")
            for command in commands:
                arguments = [*command.split()[1:], *(() if " -f " in command else ("-f",))]
                async with following(tmp_path, *arguments) as process:
                    assert "hello" in (await process.until("hello"))[-1]
            # An endless answer is tested above; here its parameters are.
            once = curl.replace("follow=1", "follow=0")
            assert once != curl
            answer = await client.get(once, headers=fields(tmp_path))
            assert answer.text.endswith(" | hello\n")
    assert len(commands) == 3
