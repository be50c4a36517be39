"""``llama-router run``: a chat on a terminal, and answers for scripts."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.process.real import (
    program_table,
    run_cli,
    said,
    serving,
    write_config,
)
from tests.process.terminal import terminal

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("in_time")]

#: A backend that thinks, then repeats the last message; it never ends an answer to "endless", and
#: says in "last" which messages it got.
_ECHO = r"""
import http.server, json, sys, threading

class Handler(http.server.BaseHTTPRequestHandler):
    disable_nagle_algorithm = True

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = [m["content"] for m in body["messages"]]
        last = texts[-1] if isinstance(texts[-1], str) else texts[-1][-1]["text"]
        images = [p["image_url"]["url"] for t in texts if isinstance(t, list) for p in t[:-1]]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.say({"reasoning_content": "let me think"})
        answer = {"all": json.dumps(texts), "images": str(images)}.get(last, "I heard: " + last)
        answer = str(body.get("temperature")) if last == "temperature" else answer
        for word in answer.split(" "):
            self.say({"content": word + " "})
        if last == "endless":
            threading.Event().wait()
        self.say({}, finish_reason="stop")
        self.put({"choices": [], "usage": {"completion_tokens": 3}, "model": "echo",
                  "timings": {"predicted_per_second": 12.5}})
        self.wfile.write(b"data: [DONE]\n\n")

    def say(self, delta, finish_reason=None):
        self.put({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})

    def put(self, event):
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.flush()

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def echo_tables(folder: Path, *names: str) -> list[str]:
    """Return tables of models that repeat what they hear."""
    return [program_table(folder, name, _ECHO) for name in names]


@pytest.fixture
def config(tmp_path) -> Path:
    """A configuration with two models that repeat what they hear."""
    return write_config(tmp_path, *echo_tables(tmp_path, "echo", "parrot"))


def chatting(folder: Path, *, columns: int = 80, **changes: str):
    """Open a chat with the model ``echo`` on a terminal."""
    named = ("run", "echo", "-c", str(folder / "router.toml"))
    return terminal(*named, folder=folder, columns=columns, lines=24, **changes)


async def told(folder: Path, *words: str, typed: bytes = b"") -> tuple[int, str, str]:
    """Run the command with *typed* on a pipe; return exit status, output and errors."""
    return await said(folder, "run", *words, typed=typed)


# -- for scripts -----------------------------------------------------------------------------


async def test_a_prompt_gets_one_answer(tmp_path, config) -> None:
    """Standard output has the answer and nothing else: no thoughts, no colours."""
    async with serving(config):
        assert await told(tmp_path, "echo", "hello") == (0, "I heard: hello \n", "")


async def test_a_pipe_is_a_message(tmp_path, config) -> None:
    """With a prompt it stands behind it."""
    async with serving(config):
        _, out, _ = await told(tmp_path, "echo", typed=b"one\ntwo\n")
        assert out == "I heard: one\ntwo \n"
        _, out, _ = await told(tmp_path, "echo", "sum up:", typed=b"one\n")
        assert out == "I heard: sum up:\n\none \n"


async def test_json_has_text_thoughts_and_figures(tmp_path, config) -> None:
    """For programs."""
    async with serving(config):
        _, out, _ = await told(tmp_path, "echo", "hello", "--json")
        answer = json.loads(out)
        assert (answer["content"], answer["reasoning"]) == ("I heard: hello ", "let me think")
        assert (answer["model"], answer["finish_reason"]) == ("echo", "stop")
        assert answer["usage"] == {"completion_tokens": 3}
        assert 0 < answer["ttft_s"] <= answer["duration_s"]


async def test_settings_system_prompt_and_images_are_sent(tmp_path, config) -> None:
    """As the options say."""
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "a.txt").write_text("text")
    async with serving(config):
        _, out, _ = await told(tmp_path, "echo", "temperature", "--set", "temperature=0.25")
        assert out == "0.25 \n"
        _, out, _ = await told(tmp_path, "echo", "all", "--system", "be brief")
        assert json.loads(out) == ["be brief", "all"]
        _, out, _ = await told(tmp_path, "echo", "images", "--image", "a.png")
        assert out.startswith("['data:image/png;base64,iVBOR")
        status, _, error = await told(tmp_path, "echo", "x", "--image", "a.txt")
        assert (status, error.splitlines()[0]) == (1, "error: a.txt is no image")


async def test_without_a_message_nothing_is_asked(tmp_path, config) -> None:
    """An empty pipe is a mistake of the command line."""
    async with serving(config):
        status, _, error = await told(tmp_path, "echo")
        assert (status, error) == (
            2,
            "error: there is no message\n  give a PROMPT, or pipe one in\n",
        )


async def test_a_misspelt_model(tmp_path, config) -> None:
    """The error names the one that may be meant."""
    async with serving(config):
        status, _, error = await told(tmp_path, "ecco", "hello")
        lines = ["error: no model or alias is named 'ecco'", "  did you mean echo?"]
        assert (status, error.splitlines()) == (1, lines)


async def test_without_a_router(tmp_path, config) -> None:
    """The error says how to start one."""
    done = await run_cli("run", "echo", "hello", "-c", str(config), folder=tmp_path)
    assert done.returncode == 1
    first, second, _ = done.stderr.decode().splitlines()
    assert first == "error: no router is running"
    assert "llama-router serve" in second


async def test_a_router_with_api_keys(tmp_path) -> None:
    """The key comes from a file or the environment; without it the error says so."""
    key = "sk-0123456789abcdefghij"
    table = f'\n[api_keys.me]\nkey = "{key}"\n'
    config = write_config(tmp_path, *echo_tables(tmp_path, "echo"), table)
    (tmp_path / "key").write_text(f"{key}\n")
    async with serving(config):
        status, _, error = await told(tmp_path, "echo", "hello")
        assert (status, "--key-file" in error) == (1, True)
        status, out, _ = await told(tmp_path, "echo", "hello", "--key-file", "key")
        assert (status, out) == (0, "I heard: hello \n")


# -- on a terminal ---------------------------------------------------------------------------


async def test_a_chat(tmp_path, config) -> None:
    """Messages are answered, thoughts are dimmed, the model remembers, /bye leaves."""
    async with serving(config), chatting(tmp_path) as screen:
        await screen.enter("hello\r")
        await screen.shows("I heard: hello\n\n>>>")
        assert "\x1b[2mlet me think\x1b[0m" in screen.raw
        await screen.enter("all\r")
        await screen.shows('["hello", "I heard: hello ", "all"]')
        await screen.enter("/bye\r")
        assert await screen.ended() == 0
        assert not screen.cursor_is_hidden


async def test_ctrl_c_stops_the_answer_and_not_the_session(tmp_path, config) -> None:
    """What came stays in the conversation; the router ends the request."""
    async with serving(config) as router, chatting(tmp_path) as screen:
        await screen.enter("endless\r")
        await screen.shows("I heard: endless")
        screen.type("\x03")
        await router.event("request.completed", outcome="client_gone")
        await screen.shows("stopped\n>>>")
        await screen.enter("all\r")
        await screen.shows('["endless", "I heard: endless ", "all"]')


async def test_several_lines(tmp_path, config) -> None:
    """Quotes hold a message open, and so does Alt-Enter."""
    async with serving(config), chatting(tmp_path) as screen:
        await screen.enter('"""one\rtwo"""\r')
        await screen.shows("I heard: one\ntwo")
        await screen.enter("three\x1b\rfour\r")
        await screen.shows("I heard: three\nfour")


async def test_commands(tmp_path, config) -> None:
    """Settings, the system prompt, another model, a saved conversation."""
    async with serving(config) as router, chatting(tmp_path) as screen:
        for line, answer in (
            ("/set temperature 0.75", "temperature = 0.75"),
            ("temperature", "0.75"),
            ("/system be brief", "the system prompt is set"),
            ("/clear", "the conversation is forgotten"),
            ("all", '["be brief", "all"]'),
            ("/save monday", "chats/monday.json"),
            ("/model parot", "did you mean parrot?"),
            ("/model parrot", ">>>"),
            ("/load monday", "echo, 1 question"),
            ("/nonsense", "there is no command /nonsense"),
        ):
            await screen.enter(f"{line}\r")
            await screen.shows(answer)
        await router.event("backend.ready", model="parrot")
        saved = tmp_path / ".local/share/llama-router/chats/monday.json"
        assert saved.stat().st_mode & 0o077 == 0
        history = tmp_path / ".local/state/llama-router/run-history"
        assert history.stat().st_mode & 0o077 == 0


async def test_earlier_messages_come_back(tmp_path, config) -> None:
    """The up key brings the last message of the last session."""
    async with serving(config):
        async with chatting(tmp_path) as screen:
            await screen.enter("remember\r")
            await screen.shows("I heard: remember")
            await screen.enter("/bye\r")
            assert await screen.ended() == 0
        async with chatting(tmp_path) as screen:
            await screen.enter("\x1b[A\x1b[A\r")
            await screen.shows("I heard: remember")


async def test_a_router_that_goes_away_in_the_middle(tmp_path, config) -> None:
    """The session says so, goes on, and uses the next router."""
    async with (
        serving(config, exit_status=-signal.SIGKILL) as router,
        chatting(tmp_path) as screen,
    ):
        await screen.enter("endless\r")
        await screen.shows("I heard: endless")
        router.signal(signal.SIGKILL)
        await screen.shows("error: the router or the model went away in the middle of the answer")
        await router.process.wait()
        await screen.enter("again\r")
        await screen.shows("error: no router is running")
        async with serving(config):
            await screen.enter("once more\r")
            await screen.shows("I heard: once more")


@pytest.mark.parametrize("changes", [{"TERM": "dumb"}, {"LC_ALL": "C"}, {"NO_COLOR": "1"}], ids=str)
async def test_other_terminals(tmp_path, config, changes) -> None:
    """A dumb one, one without UTF-8 and one without colours work as well."""
    async with serving(config), chatting(tmp_path, columns=40, **changes) as screen:
        await screen.enter("hello\r")
        await screen.shows("I heard: hello")
        await screen.enter("/bye\r")
        assert await screen.ended() == 0
        assert screen.raw.isascii()
        if "NO_COLOR" in changes or "TERM" in changes:
            assert "\x1b[2m" not in screen.raw
